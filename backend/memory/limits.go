package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/store"
)

// Reserve takes slots of rate limits; see store.Limiter.
func (t *tasks) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("reserve in memory: %w", err)
	}
	defer t.db.leave()
	by, newest := store.StepBack(t.db.limitClock, ceilMicros(now))
	if t.db.limitClock = newest; by > 0 {
		for _, l := range t.db.limits {
			l.Back(by)
		}
	}
	slots := make([]store.Slot, len(batch))
	for i := range batch {
		slots[i] = t.db.reserve(&batch[i], now)
	}
	return slots, nil
}

func (db *DB) reserve(r *store.Reservation, now time.Time) store.Slot {
	if err := r.Check(); err != nil {
		return store.Slot{Err: err}
	}
	n := ceilMicros(now)
	l := db.limits[r.Key]
	if l == nil {
		if len(db.limits) >= db.limitLimit {
			db.dropLimits(n)
		}
		l = new(store.Lines)
		db.limits[r.Key] = l
	}
	return store.NewSlot(l.Take(r.Rate, r.Again, n), n)
}

// ceilMicros is the first whole microsecond that is not before t.
func ceilMicros(t time.Time) int64 {
	us := t.UnixMicro()
	if t.UnixNano() > us*1000 {
		us++
	}
	return us
}

// dropLimits forgets the keys whose state says nothing.
func (db *DB) dropLimits(now int64) {
	for key, l := range db.limits {
		if l.Idle(now) {
			delete(db.limits, key)
		}
	}
	db.limitLimit = max(1024, 2*len(db.limits))
}
