package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/store"
)

// Reserve implements store.Limiter.
func (b *fileBroker) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	slots := make([]store.Slot, len(batch))
	err := b.db.write(ctx, func(t *tx) (err error) { return t.reserve(batch, slots) })
	if err != nil {
		return nil, fmt.Errorf("reserve slots of rate limits: %w", err)
	}
	return slots, nil
}

// followClock moves the lines when the clock was set back.
func (t *tx) followClock(now int64) error {
	seen := int64(0)
	if _, err := t.one("limit-clock", func(s *sqlite3.Stmt) { seen = s.ColumnInt64(0) }); err != nil {
		return err
	}
	by, newest := store.StepBack(seen, now)
	if by > 0 {
		if err := t.exec("step-limits", by, by, by/1000); err != nil {
			return err
		}
	}
	if newest == seen {
		return nil
	}
	return t.exec("set-limit-clock", newest)
}

// reserve takes a slot for each reservation. Each key is read and written once.
func (t *tx) reserve(batch []store.Reservation, slots []store.Slot) error {
	now := (time.Now().UnixNano() + 999) / 1000
	if err := t.followClock(now); err != nil {
		return err
	}
	lines := make(map[string]*store.Lines)
	for i := range batch {
		r := &batch[i]
		if err := r.Check(); err != nil {
			slots[i] = store.Slot{Err: err}
			continue
		}
		l := lines[r.Key]
		if l == nil {
			l = new(store.Lines)
			_, err := t.one("limit", func(s *sqlite3.Stmt) { l.First, l.Again = s.ColumnInt64(0), s.ColumnInt64(1) }, r.Key)
			if err != nil {
				return err
			}
			lines[r.Key] = l
		}
		slots[i] = store.NewSlot(l.Take(r.Rate, r.Again, now), now)
	}
	for key, l := range lines {
		if err := t.exec("set-limit", key, l.First, l.Again, max(l.First, l.Again)/1000+1); err != nil {
			return err
		}
	}
	return nil
}
