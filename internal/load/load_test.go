package load_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T) *stem.Client {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRun(t *testing.T) {
	c := client(t)
	if err := load.Free(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	told := 0
	phases, err := load.Run(t.Context(), c, load.Options{
		Tasks: 3001, Limit: time.Minute, Concurrency: 2, Producers: 4, Payload: 50,
		Progress: func(string, int, int) { told++ }, // phases come one after the other, and each tells under its lock
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{load.EnqueueBatches: 1500, load.EnqueueSingly: 1501, load.Process: 3001, load.StartLatency: 30, load.ResultLatency: 30}
	for _, p := range phases {
		if p.Tasks != want[p.Name] || p.Cut || p.Seconds <= 0 || p.PerSecond <= 0 || p.P50 > p.P99 || p.P99 > p.Max ||
			(p.Max == 0) != (p.Name == load.Process) {
			t.Errorf("phase %+v, want %d tasks", p, want[p.Name])
		}
		delete(want, p.Name)
	}
	if len(want) > 0 || told == 0 {
		t.Errorf("phases that did not come: %v; progress told %d times", want, told)
	}
	if err := load.Free(t.Context(), c); !errors.Is(err, load.ErrInUse) {
		t.Errorf("after a load the namespace is free: %v", err)
	}
}

// A load that is too much for its time is cut short, and says so.
func TestRunIsBounded(t *testing.T) {
	phases, err := load.Run(t.Context(), client(t), load.Options{
		Tasks: 2_000_000_000, Limit: 200 * time.Millisecond, Concurrency: 1, Producers: 1,
	})
	if err != nil || len(phases) < 3 || !phases[0].Cut || !phases[1].Cut {
		t.Errorf("phases %+v, error %v", phases, err)
	}
}

func TestRunIsStopped(t *testing.T) {
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	_, err := load.Run(ctx, client(t), load.Options{
		Tasks: 1_000_000_000, Limit: time.Hour, Producers: 2,
		Progress: func(string, int, int) {
			if n++; n == 2 {
				cancel(stop)
			}
		},
	})
	if !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}
