package redis_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/task"
)

// cpu is the processor time of a server, so far.
func cpu(b *testing.B, s *redistest.Server) time.Duration {
	b.Helper()
	sum := 0.0
	for _, field := range []string{"used_cpu_sys", "used_cpu_user"} {
		v, err := strconv.ParseFloat(strings.TrimSpace(s.Info(field)), 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += v
	}
	return time.Duration(sum * float64(time.Second))
}

func publications(n int) []broker.Publication {
	batch := make([]broker.Publication, n)
	args := json.RawMessage(`"` + strings.Repeat("x", 198) + `"`)
	for i := range batch {
		batch[i].Envelope = &task.Envelope{
			ID: task.NewID(), Name: "bench.task", Args: args, EnqueuedAt: time.Now(), Priority: 5, MaxRetries: 3, Queue: "default",
		}
	}
	return batch
}

func fill(b *testing.B, k broker.Broker, n int) {
	b.Helper()
	for at := 0; at < n; at += 1000 {
		if _, err := k.Publish(b.Context(), publications(min(1000, n-at))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish is enqueueing in batches.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := redistest.Start(b, redistest.Options{})
			k := open(b, redis.Config{Addrs: []string{s.Addr}}).Broker()
			before := cpu(b, s)
			b.ResetTimer()
			for at := 0; at < b.N; at += size {
				if _, err := k.Publish(b.Context(), publications(min(size, b.N-at))); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu(b, s)-before)/float64(b.N), "server-ns/op")
		})
	}
}

// BenchmarkProcess is a worker's exchanges: a hundred outcomes, with their
// results kept, and the next hundred tasks.
func BenchmarkProcess(b *testing.B) {
	for _, held := range []int{10, 100} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			s := redistest.Start(b, redistest.Options{})
			k := open(b, redis.Config{Addrs: []string{s.Addr}}).Broker()
			fill(b, k, b.N)
			c, err := k.Open(b.Context(), broker.Subscription{Worker: "worker-1", Queues: []string{"default"}})
			if err != nil {
				b.Fatal(err)
			}
			before := cpu(b, s)
			b.ResetTimer()
			var done []broker.Settlement
			for ended := 0; ended < b.N; {
				x, err := c.Exchange(b.Context(), done, nil, broker.Want{Count: held, Bytes: 4 << 20})
				if err != nil {
					b.Fatal(err)
				}
				ended += len(done)
				done = done[:0]
				for i := range x.Deliveries {
					done = append(done, broker.Settlement{Receipt: x.Deliveries[i].Receipt, Outcome: task.Outcome{
						State: task.Succeeded, Result: json.RawMessage(`{"ok":true}`), Attempt: 0, Worker: "worker-1",
						StartedAt: time.Now(), EndedAt: time.Now(), Keep: 24 * time.Hour,
					}})
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu(b, s)-before)/float64(b.N), "server-ns/op")
			b.Logf("%d tasks, %s", b.N, s.Info("used_memory"))
		})
	}
}
