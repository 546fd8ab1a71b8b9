package stem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

// TestOldDeadLettersAreRemoved: after its time a dead letter is gone with its
// status, within two minutes, and not before.
func TestOldDeadLettersAreRemoved(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Hour} {
		run(t, stem.ClientOptions{}, stem.WorkerOptions{DeadLetterTTL: ttl}, func(r *rig) {
			h, err := fail.Enqueue(r.Context(), r.client, "no")
			if err != nil {
				r.Fatal(err)
			}
			if _, err := h.Wait(r.Context()); err == nil {
				r.Fatal("it succeeded")
			}
			count := func() int {
				dead, _, err := r.client.DeadLetters(r.Context(), broker.DeadFilter{}, broker.Page{})
				if err != nil {
					r.Fatal(err)
				}
				return len(dead)
			}
			time.Sleep(time.Hour - time.Minute)
			if n := count(); n != 1 {
				r.Errorf("with %s: %d dead letters before their time, want 1", ttl, n)
			}
			want := 1
			if ttl > 0 {
				want = 0
			}
			time.Sleep(3 * time.Minute)
			if n := count(); n != want {
				r.Errorf("with %s: %d dead letters after their time, want %d", ttl, n, want)
			}
		}, fail.Do(func(context.Context, string) error { return errors.New("no") }))
	}
}
