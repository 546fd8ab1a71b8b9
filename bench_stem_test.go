package stem_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
)

// BenchmarkProcess is the whole way of a task whose result is kept: enqueued in
// batches, executed, settled.
func BenchmarkProcess(b *testing.B) {
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	bench := stem.NewTask[int, int]("bench")
	items := make([]stem.Item, b.N)
	for i := range items {
		items[i] = bench.Item(i)
	}
	if _, err := client.EnqueueMany(b.Context(), items); err != nil {
		b.Fatal(err)
	}
	var count atomic.Int64
	all := make(chan struct{})
	w := stem.NewWorker(client, stem.WorkerOptions{Concurrency: 10})
	if err := w.Handle(bench.With(func(_ context.Context, n int) (int, error) {
		if count.Add(1) == int64(b.N) {
			close(all)
		}
		return n, nil
	})); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	done := make(chan error, 1)
	go func() { done <- w.Run(b.Context()) }()
	<-all
	b.StopTimer()
	w.Shutdown(stem.Warm)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

// BenchmarkEnqueue is one task a call.
func BenchmarkEnqueue(b *testing.B) {
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	bench := stem.NewTask[int, int]("bench")
	for b.Loop() {
		if _, err := bench.Enqueue(b.Context(), client, 1); err != nil {
			b.Fatal(err)
		}
	}
}
