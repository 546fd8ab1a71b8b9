package sqlite_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func benchDB(b *testing.B) *sqlite.DB {
	b.Helper()
	db, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "stem.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

func publications(n int) []broker.Publication {
	list := make([]broker.Publication, n)
	for i := range list {
		list[i].Envelope = &task.Envelope{
			ID: task.NewID(), Name: "bench.noop", Args: json.RawMessage(`{"n":1,"text":"some words"}`),
			EnqueuedAt: time.Now(), Priority: task.DefaultPriority, MaxRetries: 3, Queue: "default",
		}
	}
	return list
}

func fillQueue(b *testing.B, br broker.Broker, n int) {
	b.Helper()
	for ; n > 0; n -= 1000 {
		if _, err := br.Publish(b.Context(), publications(min(n, 1000))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish reports tasks a second, in batches and one by one.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ batch, producers int }{{1000, 1}, {100, 1}, {1, 64}, {1, 1}} {
		b.Run(fmt.Sprintf("batch=%d/producers=%d", c.batch, c.producers), func(b *testing.B) {
			br := benchDB(b).Broker()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range c.producers {
				wg.Go(func() {
					for left.Add(-int64(c.batch)) > -int64(c.batch) {
						if _, err := br.Publish(b.Context(), publications(c.batch)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}

// BenchmarkProcess drains a backlog by exchanges that settle the batch before
// and receive the next, with statuses and results kept.
func BenchmarkProcess(b *testing.B) {
	for _, backlog := range []int{10_000, 200_000} {
		for _, batch := range []int{10, 128, 256} {
			b.Run(fmt.Sprintf("backlog=%d/batch=%d", backlog, batch), func(b *testing.B) {
				br := benchDB(b).Broker()
				fillQueue(b, br, max(backlog, b.N))
				b.ResetTimer()
				drain(b, br, batch)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			})
		}
	}
}

func drain(b *testing.B, br broker.Broker, batch int) {
	b.Helper()
	c, err := br.Open(b.Context(), broker.Subscription{Worker: "bench", Queues: []string{"default"}})
	if err != nil {
		b.Fatal(err)
	}
	var done []broker.Settlement
	for n := 0; n < b.N; n += len(done) {
		x, err := c.Exchange(b.Context(), done, nil, broker.Want{Count: min(batch, b.N-n)})
		if err != nil {
			b.Fatal(err)
		}
		done = done[:0]
		now := time.Now()
		for _, d := range x.Deliveries {
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{
				State: task.Succeeded, Result: json.RawMessage(`{"ok":true}`), Worker: "bench",
				StartedAt: now, EndedAt: now, Keep: 24 * time.Hour,
			}})
		}
	}
	if err := c.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}
