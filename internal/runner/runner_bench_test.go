package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// bench is a backlog of n tasks on a memory backend, and a configuration for
// the worker that works it off.
func bench(b *testing.B, db *memory.DB, n int, handle runner.Handler) runner.Config {
	b.Helper()
	ctx := context.Background()
	q := db.Broker()
	for n > 0 {
		batch := make([]broker.Publication, min(n, 1000))
		for i := range batch {
			batch[i].Envelope = &task.Envelope{
				ID: task.NewID(), Name: "noop", Queue: "default", Args: json.RawMessage(`{"n":1}`),
				EnqueuedAt: time.Now(), Priority: task.DefaultPriority, MaxRetries: 3,
			}
		}
		if _, err := q.Publish(ctx, batch); err != nil {
			b.Fatal(err)
		}
		n -= len(batch)
	}
	t := &runner.Task{Name: "noop", Handle: handle}
	return runner.Config{
		Broker: q, ID: "bench", Queues: []runner.Queue{{Name: "default"}},
		Lookup: func(string) *runner.Task { return t },
	}
}

// work runs a worker until stop is closed.
func work(b *testing.B, cfg runner.Config, stop <-chan struct{}) {
	b.Helper()
	r, err := runner.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-stop; cancel() }()
	if err := r.Run(ctx); err != nil {
		b.Fatal(err)
	}
	if rep := r.Report(); rep.Abandoned != 0 {
		b.Fatalf("report %+v", rep)
	}
}

// BenchmarkBacklog works off a backlog of tasks that do nothing.
func BenchmarkBacklog(b *testing.B) {
	for _, c := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			db := memory.New()
			defer db.Close()
			var left atomic.Int64
			left.Store(int64(b.N))
			stop := make(chan struct{})
			cfg := bench(b, db, b.N, func(context.Context, *runner.Job) (json.RawMessage, error) {
				if left.Add(-1) == 0 {
					close(stop)
				}
				return nil, nil
			})
			cfg.Concurrency = c
			b.ReportAllocs()
			b.ResetTimer()
			work(b, cfg, stop)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}

// BenchmarkIdleLatency is the time from an enqueue to the handler's start, of
// a worker that has nothing else to do.
func BenchmarkIdleLatency(b *testing.B) {
	db := memory.New()
	defer db.Close()
	started := make(chan time.Time, 1)
	cfg := bench(b, db, 0, func(context.Context, *runner.Job) (json.RawMessage, error) {
		started <- time.Now()
		return nil, nil
	})
	cfg.Concurrency = 10
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); work(b, cfg, stop) }()
	took := make([]time.Duration, b.N)
	b.ResetTimer()
	for i := range took {
		e := &task.Envelope{ID: task.NewID(), Name: "noop", Queue: "default", EnqueuedAt: time.Now()}
		began := time.Now()
		if _, err := cfg.Broker.Publish(context.Background(), []broker.Publication{{Envelope: e}}); err != nil {
			b.Fatal(err)
		}
		took[i] = (<-started).Sub(began)
		time.Sleep(100 * time.Microsecond)
	}
	b.StopTimer()
	close(stop)
	<-ended
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
