package pair_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// pairs lists the names of all pairs of stores, and of the single ones that
// they compare with.
func pairs() (names [][2]string) {
	for a := range openers {
		names = append(names, [2]string{a, ""})
		for b := range openers {
			names = append(names, [2]string{a, b})
		}
	}
	slices.SortFunc(names, func(x, y [2]string) int { return slices.Compare(x[:], y[:]) })
	return names
}

// BenchmarkBacklog enqueues tasks in batches, and works them off with a runner;
// "sqlite+" is one store, for comparison.
func BenchmarkBacklog(b *testing.B) {
	for _, name := range pairs() {
		b.Run(name[0]+"+"+name[1], func(b *testing.B) {
			envelopes := openers[name[0]](b, b.TempDir())
			defer envelopes.Close()
			joined := envelopes.Broker()
			if name[1] != "" {
				results := openers[name[1]](b, b.TempDir())
				defer results.Close()
				joined = pair.Join(joined, results.Results(), pair.Options{})
			}
			began := time.Now()
			enqueue(b, joined, b.N)
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "enqueued/s")
			began = time.Now()
			work(b, joined, b.N)
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "processed/s")
		})
	}
}

func enqueue(b *testing.B, q broker.Broker, n int) {
	b.Helper()
	for n > 0 {
		batch := make([]broker.Publication, min(n, 1000))
		for i := range batch {
			batch[i].Envelope = envelope(task.NewID(), "q")
		}
		if _, err := q.Publish(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		n -= len(batch)
	}
}

func work(b *testing.B, q broker.Broker, n int) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var left atomic.Int64
	left.Store(int64(n))
	t := &runner.Task{Name: "demo", Handle: func(context.Context, *runner.Job) (json.RawMessage, error) {
		if left.Add(-1) == 0 {
			cancel()
		}
		return json.RawMessage(`1`), nil
	}}
	r, err := runner.New(runner.Config{
		Broker: q, ID: "bench", Queues: []runner.Queue{{Name: "q"}}, Concurrency: 100,
		Lookup: func(string) *runner.Task { return t },
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		b.Fatal(err)
	}
	if left.Load() > 0 {
		b.Fatal(fmt.Sprint(left.Load(), " tasks are left"))
	}
}
