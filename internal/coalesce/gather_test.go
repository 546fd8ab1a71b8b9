package coalesce_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/internal/coalesce"
)

func TestALoneCallerNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		g.SetYield(func() { t.Error("a lone caller is kept waiting") })
		began := time.Now()
		for v := range 5 {
			if out, _, err := g.Do(t.Context(), v, 0); out != 2*v || err != nil {
				t.Errorf("Do(%d) = %d, %v", v, out, err)
			}
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("five calls of a second each took %s", took)
		}
	})
}

func TestASteadyCrowdFliesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, calls = 10, 20
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		g.SetYield(synctest.Wait) // until all that can come has come
		var wg sync.WaitGroup
		for k := range callers {
			wg.Go(func() {
				for n := range calls {
					v := k*calls + n
					if out, sent, err := g.Do(t.Context(), v, 0); out != 2*v || !sent || err != nil {
						t.Errorf("Do(%d) = %d, %t, %v", v, out, sent, err)
					}
				}
			})
		}
		wg.Wait()
		g.Wait()
		// The first goes alone, and the others without it.
		for _, n := range s.sizes[2 : len(s.sizes)-1] {
			if n != callers {
				t.Fatalf("batches of %v, want %d in each but the first and the last", s.sizes, callers)
			}
		}
	})
}

// Callers that come once each, and are not there again when they were served: who
// waits is delayed by a moment, and not in every batch.
func TestACrowdThatDoesNotComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, pause, grain = 1000, 300 * time.Millisecond, 10 * time.Microsecond
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		yields := 0
		g.SetYield(func() {
			yields++
			time.Sleep(grain)
		})
		var wg sync.WaitGroup
		for v := range callers {
			wg.Go(func() {
				began := time.Now()
				if out, _, err := g.Do(t.Context(), v, 0); out != 2*v || err != nil {
					t.Errorf("Do(%d) = %d, %v", v, out, err)
				}
				// The rest of a flight, a moment, and a flight.
				if took := time.Since(began); took > 2*time.Second+50*time.Microsecond+grain {
					t.Errorf("call %d took %s", v, took)
				}
			})
			time.Sleep(pause)
		}
		wg.Wait()
		g.Wait()
		if batches := len(s.sizes); yields == 0 || yields > batches/4 {
			t.Errorf("%d yields for %d batches, want some, and seldom", yields, batches)
		}
	})
}

func TestACrowdThatIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		var wg sync.WaitGroup
		call := func(ctx context.Context, v int, wantSent bool, want error) {
			wg.Go(func() {
				if _, sent, err := g.Do(ctx, v, 0); sent != wantSent || !errors.Is(err, want) {
					t.Errorf("Do(%d): sent %t, %v; want %t, %v", v, sent, err, wantSent, want)
				}
			})
			synctest.Wait()
		}
		flying, cancelFlying := context.WithCancel(t.Context())
		waiting, cancelWaiting := context.WithCancel(t.Context())
		g.SetYield(func() { // three were served, and their contexts' next calls end here
			cancelWaiting()
			synctest.Wait()
		})
		call(t.Context(), 0, true, nil)
		call(t.Context(), 1, true, nil)
		call(flying, 2, true, context.Canceled)
		call(flying, 3, true, context.Canceled)
		time.Sleep(1500 * time.Millisecond) // 1, 2 and 3 are under way
		cancelFlying()
		call(waiting, 4, false, context.Canceled)
		wg.Wait()
		g.Wait()
		if len(s.sizes) != 2 || s.sizes[0] != 1 || s.sizes[1] != 3 || s.ended[1] != nil {
			t.Errorf("batches of %v ended with %v, want [1 3] without an error", s.sizes, s.ended)
		}
		// Calls that were given up are not used again.
		for v := range 20 {
			if out, _, err := g.Do(t.Context(), v, 0); out != 2*v || err != nil {
				t.Errorf("afterwards, Do(%d) = %d, %v", v, out, err)
			}
		}
	})
}
