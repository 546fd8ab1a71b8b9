package memory_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// publications returns n small tasks of queue "q".
func publications(n int) []broker.Publication {
	batch := make([]broker.Publication, n)
	for i := range batch {
		batch[i].Envelope = &task.Envelope{
			ID: task.NewID(), Name: "bench.noop", Args: json.RawMessage(`{"n":1}`), EnqueuedAt: time.Now(),
			Priority: task.DefaultPriority, MaxRetries: 3, Queue: "q",
		}
	}
	return batch
}

// fill publishes n tasks to the db.
func fill(b *testing.B, br broker.Broker, n int) {
	b.Helper()
	for ; n > 0; n -= 1000 {
		if _, err := br.Publish(b.Context(), publications(min(n, 1000))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish publishes one task an operation, in batches; making the
// envelopes is not counted.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			br := memory.New().Broker()
			batch := publications(b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for len(batch) > 0 {
				n := min(size, len(batch))
				if _, err := br.Publish(b.Context(), batch[:n]); err != nil {
					b.Fatal(err)
				}
				batch = batch[n:]
			}
		})
	}
}

// BenchmarkCycle works off a backlog, one task an operation: each exchange
// settles what the one before received, and receives again. Statuses are kept.
func BenchmarkCycle(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			br := memory.New().Broker()
			fill(b, br, b.N)
			c, err := br.Open(b.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			work(b, c, b.N, size)
		})
	}
}

// work settles n tasks, size at a time.
func work(b *testing.B, c broker.Consumer, n, size int) {
	var done []broker.Settlement
	for n > 0 || len(done) > 0 {
		got, err := c.Exchange(b.Context(), done, nil, broker.Want{Count: size})
		if err != nil {
			b.Error(err)
			return
		}
		n -= len(got.Deliveries)
		done = done[:0]
		now := time.Now()
		for _, d := range got.Deliveries {
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{
				State: task.Succeeded, Result: json.RawMessage(`1`), Attempt: 1, Worker: "w", StartedAt: now, EndedAt: now, Keep: 24 * time.Hour,
			}})
		}
		if len(got.Deliveries) == 0 && len(done) == 0 {
			return
		}
	}
}

// BenchmarkParallel does the whole life of tasks on all CPUs at once.
func BenchmarkParallel(b *testing.B) {
	br := memory.New().Broker()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c, err := br.Open(b.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}})
		if err != nil {
			b.Error(err)
			return
		}
		for n := 0; pb.Next(); n++ {
			if n%100 == 99 {
				fill(b, br, 100)
				work(b, c, 100, 100)
			}
		}
	})
}

// BenchmarkWake is the way of one task to a consumer that waits, and back to
// one who waits for its outcome.
func BenchmarkWake(b *testing.B) {
	db := memory.New()
	br, results := db.Broker(), db.Results()
	c, err := br.Open(b.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}})
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for c.Wait(b.Context(), time.Second) == nil {
			work(b, c, 1, 1)
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		batch := publications(1)
		changed, stop := results.(store.Watcher).Subscribe(batch[0].Envelope.ID)
		if _, err := br.Publish(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		for range changed {
			f, err := results.Get(b.Context(), batch[0].Envelope.ID)
			if err != nil {
				b.Fatal(err)
			}
			if f[0].Status.State.Terminal() {
				break
			}
		}
		stop()
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}
