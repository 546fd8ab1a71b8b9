package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A worker whose clock is wrong goes by the store's: what has not expired there is
// executed, and a retry is due when the store's clock says so. Here the store says
// that it is an hour behind, or ahead.
func TestStoreClockDecides(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, time.Hour} {
		inBubble(t, func(t *testing.T, g *rig) {
			g.broker.edit = func(b *broker.Batch) { b.Ahead = ahead }
			g.handle("fails", func(context.Context, *runner.Job) (json.RawMessage, error) {
				return nil, &runner.RetryError{Err: errors.New("once more"), In: time.Minute}
			})
			g.noop("expires")
			now := time.Now()
			g.start()
			retried := g.publish("fails")
			expires := g.publish("expires", func(e *task.Envelope) { e.ExpiresAt = now.Add(ahead + time.Minute) })
			time.Sleep(time.Second)
			g.want(expires, task.Succeeded) // by the store's clock it has a minute
			s := g.status(retried)
			if off := s.NotBefore.Sub(now.Add(ahead + time.Minute)).Abs(); ahead > 0 && (s.State != task.Retried || off > 5*time.Second) {
				t.Errorf("ahead by %s: %s, due %s, want a minute by the store's clock", ahead, s.State, s.NotBefore)
			}
		})
	}
}

// A slot of a rate limit begins by the store's clock, too: a worker whose clock is
// ahead does not take every task for one that came too late for its slot.
func TestStoreClockDecidesOnSlots(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, time.Hour} {
		inBubble(t, func(t *testing.T, g *rig) {
			g.broker.edit = func(b *broker.Batch) {
				b.Ahead = ahead
				for i := range b.Deliveries {
					if d := &b.Deliveries[i]; !d.NotBefore.IsZero() {
						d.NotBefore = d.NotBefore.Add(ahead)
					}
				}
			}
			s := g.limited("slow", store.Rate{Count: 10, Per: time.Second}, nil)
			for range 50 {
				g.publish("slow")
			}
			// Others wait in the line of those who were late.
			others := make([]store.Reservation, 20)
			for i := range others {
				others[i] = store.Reservation{Key: "task:slow", Rate: store.Rate{Count: 10, Per: time.Second}, Again: true}
			}
			if _, err := g.db.Broker().(store.Limiter).Reserve(t.Context(), others); err != nil {
				t.Fatal(err)
			}
			g.start()
			time.Sleep(time.Minute)
			if n := len(s.all()); n != 50 {
				t.Errorf("the store is ahead by %s: %d of 50 started in a minute at 10/s", ahead, n)
			}
			if n := len(g.asked()); n != 50 {
				t.Errorf("the store is ahead by %s: 50 tasks asked %d times for a slot", ahead, n)
			}
		})
	}
}
