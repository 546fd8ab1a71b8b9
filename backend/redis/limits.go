package redis

import (
	"context"
	"fmt"
	"strconv"

	"github.com/stemjobs/stem/store"
)

// Reserve implements store.Limiter. All slots of one key are taken in one
// partition.
func (b *redisBroker) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	slots := make([]store.Slot, len(batch))
	parts := make([][]int, len(b.db.tags))
	for i := range batch {
		if err := batch[i].Check(); err != nil {
			slots[i] = store.Slot{Err: err}
			continue
		}
		p := b.db.partition(batch[i].Key)
		parts[p] = append(parts[p], i)
	}
	var calls []call
	for p, items := range parts {
		if len(items) == 0 {
			continue
		}
		args := make([]string, 0, 4*len(items))
		for _, i := range items {
			r, again := &batch[i], "0"
			if r.Again {
				again = "1"
			}
			args = append(args, r.Key, strconv.FormatInt(r.Rate.Interval().Microseconds(), 10),
				strconv.FormatInt(r.Rate.Tolerance().Microseconds(), 10), again)
		}
		calls = append(calls, call{b.db.scripts.limit, p, args})
	}
	msgs, errs := b.db.runAll(ctx, calls)
	for k := range calls {
		if errs[k] != nil {
			return nil, fmt.Errorf("reserve slots of rate limits: %w", errs[k])
		}
		items := parts[calls[k].partition]
		moments, err := msgs[k].AsIntSlice()
		if err != nil || len(moments) != len(items)+1 {
			return nil, fmt.Errorf("reserve slots of rate limits: %w (%w)", errForeign, err)
		}
		for at, i := range items {
			slots[i] = store.NewSlot(moments[at+1], moments[0])
		}
	}
	return slots, nil
}
