package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// bentLimiter is a limiter that is correct but for its bends.
type bentLimiter struct {
	broker.Broker // for Close
	inner         store.Limiter
	before        func(batch []store.Reservation) // bends what is asked
	after         func(batch []store.Reservation, slots []store.Slot)
}

func (l *bentLimiter) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	asked := slices.Clone(batch)
	if l.before != nil {
		l.before(asked)
	}
	slots, err := l.inner.Reserve(ctx, asked)
	if err == nil && l.after != nil {
		l.after(batch, slots)
	}
	return slots, err
}

// reserves bends each reservation.
func reserves(f func(r *store.Reservation)) bentLimiter {
	return bentLimiter{before: func(batch []store.Reservation) {
		for i := range batch {
			f(&batch[i])
		}
	}}
}

// answers bends the slots of a batch.
func answers(f func(slots []store.Slot)) bentLimiter {
	return bentLimiter{after: func(_ []store.Reservation, slots []store.Slot) { f(slots) }}
}

func brokenLimiters() []broken {
	with := func(x bentLimiter) func(t testing.TB) Backend {
		return func(t testing.TB) Backend {
			b := openMemory(t)
			l := x
			l.Broker, l.inner = b.Limiter.(broker.Broker), b.Limiter
			b.Limiter = &l
			return b
		}
	}
	calls := 0
	return []broken{
		{name: "lets everybody go at once", rule: "R1", also: "R2 R3 R4 R5 R6", open: with(answers(func(slots []store.Slot) {
			for i := range slots {
				slots[i].At, slots[i].Wait = slots[i].At.Add(-slots[i].Wait), 0
			}
		}))},
		{name: "knows no burst", rule: "R1", also: "R2 R4 R5", open: with(reserves(func(r *store.Reservation) { r.Rate.Burst = min(r.Rate.Burst, 1) }))},
		{name: "has twice the burst", rule: "R1", also: "R2 R4", open: with(reserves(func(r *store.Reservation) { r.Rate.Burst *= 2 }))},
		{name: "gives a slot to two", rule: "R2", also: "R1 R3 R4 R5", open: with(answers(func(slots []store.Slot) {
			for i := 1; i < len(slots); i += 2 {
				if slots[i].Err == nil && slots[i-1].Err == nil {
					slots[i] = slots[i-1]
				}
			}
		}))},
		{name: "counts each call by itself", rule: "R2", also: "R1 R3 R4 R6", open: with(bentLimiter{before: func(batch []store.Reservation) {
			calls++
			for i := range batch {
				if k := batch[i].Key; k != "" && len(k) < 100 {
					batch[i].Key = fmt.Sprintf("%s %d", k, calls)
				}
			}
		}})},
		{name: "turns a batch round", rule: "R2", also: "R1 R3 R4 R5", open: with(answers(slices.Reverse[[]store.Slot]))},
		{name: "has a clock that is an hour off", rule: "R2", also: "R1 R3 R4 R5 R6", open: with(answers(func(slots []store.Slot) {
			for i := range slots {
				slots[i].At = slots[i].At.Add(time.Hour)
			}
		}))},
		{name: "has one line for all keys", rule: "R3", also: "R1 R2 R6", open: with(reserves(func(r *store.Reservation) {
			if r.Key != "" && len(r.Key) <= store.MaxLimitKey {
				r.Key = "all"
			}
		}))},
		{name: "sends to the end who asks again", rule: "R4", open: with(reserves(func(r *store.Reservation) { r.Again = false }))},
		{name: "lets pass who asks again", rule: "R4", open: with(bentLimiter{after: func(batch []store.Reservation, slots []store.Slot) {
			for i := range slots {
				if batch[i].Again {
					slots[i].At, slots[i].Wait = slots[i].At.Add(-slots[i].Wait), 0
				}
			}
		}})},
		{name: "lets a bad reservation spoil the rest", rule: "R5", open: with(answers(func(slots []store.Slot) {
			if i := slices.IndexFunc(slots, func(s store.Slot) bool { return s.Err != nil }); i >= 0 {
				for k := range slots {
					slots[k].Err = slots[i].Err
				}
			}
		}))},
		{name: "takes any rate", rule: "R5", open: with(answers(func(slots []store.Slot) {
			for i := range slots {
				slots[i].Err = nil
			}
		}))},
		{name: "forgets keys that are in use", rule: "R6", open: with(bentLimiter{before: func(batch []store.Reservation) {
			if batch != nil && batch[0].Key == "kept" && batch[0].Rate.Per < time.Hour {
				batch[0].Key = "kept anew"
			}
		}})},
	}
}
