package stem_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// A changed rate stands in the place of the declared one, under old names too,
// until it is reset.
func TestRateChange(t *testing.T) {
	limited := stem.NewTask[int, int]("limited", stem.Rate("1/h"), stem.Aliases("bounded"))
	old := stem.NewTask[int, int]("bounded")
	run(t, stem.ClientOptions{}, stem.WorkerOptions{Concurrency: 4}, func(r *rig) {
		synctest.Wait() // until the worker listens
		tell := func() stem.Rated {
			asked, err := r.client.Ask(r.Context(), stem.AskOptions{}, stem.CommandRate, stem.RateArgs{Task: "limited"})
			if err != nil || len(asked.Replies) != 1 {
				r.Fatalf("%+v, %v", asked, err)
			}
			var got stem.Rated
			if err := asked.Replies[0].Decode(&got); err != nil {
				r.Fatal(err)
			}
			return got
		}
		if err := r.client.ChangeRates(r.Context(), stem.RateChange{Task: "limited", Rate: stem.NoRate, Note: "an incident"}); err != nil {
			r.Fatal(err)
		}
		if got, want := tell(), (stem.Rated{Known: true, Before: "1/h", After: stem.NoRate}); got != want {
			r.Errorf("replied %+v, want %+v", got, want)
		}
		began := time.Now()
		for _, declared := range []stem.Task[int, int]{limited, old, limited, old} {
			h, err := declared.Enqueue(r.Context(), r.client, 1)
			if err != nil {
				r.Fatal(err)
			}
			if _, err := h.Wait(r.Context()); err != nil {
				r.Fatal(err)
			}
		}
		if took := time.Since(began); took > time.Second {
			r.Errorf("without a limit they took %s", took)
		}
		list, err := r.client.RateChanges(r.Context())
		want := []stem.RateChange{{Task: "limited", Rate: stem.NoRate, Note: "an incident"}}
		if err == nil && len(list) == 1 && !list[0].Since.IsZero() {
			list[0].Since = time.Time{}
		}
		if diff := cmp.Diff(want, list); diff != "" || err != nil {
			r.Errorf("changes: %s, %v", diff, err)
		}
		had, err := r.client.ResetRates(r.Context(), "limited", "other")
		if diff := cmp.Diff([]bool{true, false}, had); diff != "" || err != nil {
			r.Errorf("reset: %s, %v", diff, err)
		}
		if got, want := tell(), (stem.Rated{Known: true, Before: stem.NoRate, After: "1/h"}); got != want {
			r.Errorf("replied %+v, want %+v", got, want)
		}
	}, limited.With(twice))
}

// What is no change is refused, and changes nothing; many at once lose none.
func TestRateChangeRefusals(t *testing.T) {
	b := memory.New()
	c, err := stem.NewClient(b, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []stem.RateChange{
		{Task: "", Rate: "1/s"}, {Task: "a b", Rate: "1/s"}, {Task: "a", Rate: ""}, {Task: "a", Rate: "fast"}, {Task: "a", Rate: "0/s"},
		{Task: "a", Rate: "1/s", Burst: -1}, {Task: "a", Rate: stem.NoRate, Burst: 2}, {Task: "a", Rate: "1/s", Note: string(make([]byte, stem.MaxRateNote+1))},
	} {
		if err := c.ChangeRates(t.Context(), stem.RateChange{Task: "good", Rate: "1/s"}, bad); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if list, err := c.RateChanges(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("after refusals: %+v, %v", list, err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := c.ChangeRates(t.Context(), stem.RateChange{Task: fmt.Sprint("t", i), Rate: "5/m", Burst: i}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := c.RateChanges(t.Context()); len(list) != 20 || err != nil {
		t.Errorf("after 20 at once there are %d, %v", len(list), err)
	}
	many := make([]stem.RateChange, stem.MaxRateChanges)
	for i := range many {
		many[i] = stem.RateChange{Task: fmt.Sprint("m", i), Rate: "5/m"}
	}
	if err := c.ChangeRates(t.Context(), many...); !errors.Is(err, task.ErrInvalid) {
		t.Errorf("more than there may be: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.ChangeRates(t.Context(), stem.RateChange{Task: "a", Rate: "1/s"}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
