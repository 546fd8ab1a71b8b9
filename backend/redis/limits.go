package redis

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/store"
)

// Reserve implements store.Limiter. All slots of one key are taken in one
// partition.
func (b *redisBroker) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	slots := make([]store.Slot, len(batch))
	var sound []int
	for i := range batch {
		if err := batch[i].Check(); err != nil {
			slots[i] = store.Slot{Err: err}
			continue
		}
		sound = append(sound, i)
	}
	shares := b.db.sharesOf(sound, 0, func(i int) string { return batch[i].Key })
	args := flat(func(i int) []string { return reservationArgs(&batch[i]) })
	err := b.db.spread(ctx, b.db.scripts.limit, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		moments, err := m.AsIntSlice()
		if err != nil || len(moments) != len(items)+1 {
			return fmt.Errorf("%w (%w)", errForeign, err)
		}
		for at, i := range items {
			if moments[at+1] < 0 {
				key := b.db.tags[b.db.partition(batch[i].Key)] + ":limit:" + batch[i].Key
				slots[i] = store.Slot{Err: wrongType(key, nil)}
				continue
			}
			slots[i] = store.NewSlot(moments[at+1], moments[0])
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reserve slots of rate limits: %w", err)
	}
	return slots, nil
}

// reservationArgs are the limit script's arguments for one reservation.
func reservationArgs(r *store.Reservation) []string {
	again := "0"
	if r.Again {
		again = "1"
	}
	return []string{
		r.Key, strconv.FormatInt(r.Rate.Interval().Microseconds(), 10),
		strconv.FormatInt(r.Rate.Tolerance().Microseconds(), 10), again,
	}
}
