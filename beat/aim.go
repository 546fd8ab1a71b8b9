package beat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// What is due soon is made ready ahead of its moment, so that only the claim is
// left for the moment itself. The store decides in the claim whether the moment has
// come, and whether the entry is still as it was.

const (
	lookAhead = 50 * time.Millisecond  // how long before its moment an entry is made ready
	maxLate   = 100 * time.Millisecond // how long after its moment that is used; then the policies decide anew
)

// aim is a shot that is made ready.
type aim struct {
	shot
	at time.Time // when it is to be fired, by the monotonic clock
}

// takeAim makes ready what is due soon; asked is when the store's clock said now.
// It says in how long the first is due that cannot be made ready, 0 when there is
// none.
func (b *Beat) takeAim(ctx context.Context, asked, now time.Time, soon []store.Schedule) (left time.Duration, err error) {
	soon = slices.DeleteFunc(soon, func(s store.Schedule) bool {
		c := candidate{Schedule: s, definition: b.known.of(&s)}
		if !c.watchesOverlap() {
			return false
		}
		if left == 0 { // whether the task before has ended is asked when the moment has come
			left = s.NextAt.Sub(now)
		}
		return true
	})
	for len(soon) > 0 {
		at := soon[0].NextAt
		n := slices.IndexFunc(soon, func(s store.Schedule) bool { return s.NextAt.After(at) })
		if n < 0 {
			n = len(soon)
		}
		var shots []shot
		for i := range soon[:n] {
			c := candidate{Schedule: soon[i], definition: b.known.of(&soon[i])}
			for _, s := range c.decide(at) {
				s.firing.NotBefore = at
				shots = append(shots, s)
			}
		}
		if err := b.prepare(ctx, at, shots); err != nil {
			b.lookAgain()
			return 0, err
		}
		for i := range shots {
			b.aims = append(b.aims, aim{shots[i], asked.Add(at.Sub(now))})
		}
		soon = soon[n:]
	}
	return left, nil
}

// ready is how many of the shots have their moment now.
func (b *Beat) ready(now time.Time) int {
	n := 0
	for n < len(b.aims) && n < fireLimit && !now.Before(b.aims[n].at) {
		n++
	}
	if n > 0 && now.Sub(b.aims[0].at) > maxLate {
		b.lookAgain()
		return 0
	}
	return n
}

// lookAgain drops what is made ready: the store is asked what is due.
func (b *Beat) lookAgain() { b.aims, b.look = b.aims[:0], time.Time{} }

// shootReady claims the first of what is made ready.
func (b *Beat) shootReady(work context.Context, n int) error {
	shots := make([]shot, n)
	for i := range shots {
		shots[i] = b.aims[i].shot
	}
	b.aims = slices.Delete(b.aims, 0, n)
	err := b.claim(work, shots[0].firing.NotBefore, shots)
	if len(b.aims) == 0 || err != nil {
		b.lookAgain()
	}
	if errors.Is(err, broker.ErrLeaseLost) {
		b.lost(work)
		return nil
	}
	if err != nil {
		return fmt.Errorf("fire what was made ready: %w", err)
	}
	return nil
}
