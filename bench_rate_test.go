package stem_test

import (
	"context"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
)

// BenchmarkRateLimitStorm has a backlog of a limited task go back for its slots
// once each, and one task without a limit behind it.
func BenchmarkRateLimitStorm(b *testing.B) {
	const backlog = 100_000
	slow := stem.NewTask[int, int]("slow", stem.Rate("10/s"))
	for b.Loop() {
		b.StopTimer()
		db := memory.New()
		c, err := stem.NewClient(db, stem.ClientOptions{})
		if err != nil {
			b.Fatal(err)
		}
		items := make([]stem.Item, backlog)
		for i := range items {
			items[i] = slow.Item(i)
		}
		if _, err := c.EnqueueMany(b.Context(), items); err != nil {
			b.Fatal(err)
		}
		free, err := double.Enqueue(b.Context(), c, 1)
		if err != nil {
			b.Fatal(err)
		}
		w := stem.NewWorker(c, stem.WorkerOptions{Concurrency: 8})
		if err := w.Handle(slow.With(twice), double.With(twice)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- w.Run(context.Background()) }()
		if _, err := free.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(backlog/time.Since(began).Seconds(), "put-off/s")
		b.StopTimer()
		w.Shutdown(stem.Warm)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
