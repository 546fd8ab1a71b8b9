package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// Tasks of seconds are not prefetched at all.
func TestNoPrefetchOfLongTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.sleeper("second", time.Second)
		for range 40 {
			g.publish("second")
		}
		g.start()
		for range 8 {
			after(time.Second)
			if h := g.runner.Snapshot(); h.Inflight > g.cfg.Concurrency {
				t.Errorf("holds %d with %d isolates", h.Inflight, g.cfg.Concurrency)
			}
		}
	})
}

// Tasks of a tenth of a millisecond are prefetched: what starts within 10 ms.
func TestPrefetchOfShortTasks(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.sleeper("short", 100*time.Microsecond) // 40,000 a second
		for range 20_000 {
			g.publish("short")
		}
		g.start()
		most := 0
		for range 100 {
			after(time.Millisecond)
			most = max(most, g.runner.Snapshot().Inflight)
		}
		if most < 200 || most > 256+g.cfg.Concurrency {
			t.Errorf("held %d at most, want about 256", most)
		}
	})
}

// Prefetched deliveries are bounded in bytes.
func TestPrefetchIsBoundedInBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 100
		g.sleeper("big", 100*time.Millisecond)
		args := json.RawMessage(`"` + strings.Repeat("x", 900_000) + `"`)
		for range 20 {
			g.publish("big", func(e *task.Envelope) { e.Args = args })
		}
		g.start()
		settle()
		if h := g.runner.Snapshot(); h.Inflight < 4 || h.Inflight > 7 {
			t.Errorf("holds %d deliveries of 900 kB, want those of 4 MiB and the one that runs", h.Inflight)
		}
	})
}

// What no isolate took for a second goes back, uncounted, and is not fetched
// again before something can start.
func TestPrefetchedIsGivenBackAfterASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 5
		g.sleeper("long", 20*time.Second)
		g.start()
		g.held("long", 5)
		if h := g.runner.Snapshot(); h.Inflight != 5 {
			t.Fatalf("holds %d, want 5", h.Inflight)
		}
		after(1200 * time.Millisecond)
		if h := g.runner.Snapshot(); h.Inflight != 1 {
			t.Errorf("holds %d after a second, want the one that runs", h.Inflight)
		}
		after(15 * time.Second)
		released := 0
		for _, s := range g.broker.settlements() {
			if s.Outcome.State == task.Queued && s.Outcome.NotBefore.IsZero() {
				released++
			}
		}
		if released != 4 {
			t.Errorf("%d releases, want 4: no to and fro", released)
		}
	})
}

// Short tasks behind long ones start as soon as any isolate is free.
func TestLongTaskDoesNotHoldAShortOne(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 10
		g.sleeper("long", time.Second)
		var worst box[time.Duration]
		g.handle("short", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			waited := time.Since(j.Envelope().EnqueuedAt)
			worst.update(func(w time.Duration) time.Duration { return max(w, waited) })
			time.Sleep(time.Millisecond)
			return nil, nil
		})
		g.start()
		for range 100 {
			for i := range 50 {
				if i%10 == 0 {
					g.publish("long")
				}
				g.publish("short")
				after(20 * time.Millisecond)
			}
		}
		if worst.get() > 20*time.Millisecond {
			t.Errorf("a short task waited for %s", worst.get())
		}
	})
}

func TestStrictOrderOfQueues(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		g.cfg.Queues = []runner.Queue{{Name: "critical"}, {Name: "default"}, {Name: "tenant-*"}}
		var ran box[[]string]
		g.handle("t", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			ran.update(func(l []string) []string { return append(l, j.Delivery.Queue) })
			time.Sleep(100 * time.Millisecond)
			return nil, nil
		})
		for range 3 {
			for _, q := range []string{"tenant-a", "default", "critical"} {
				g.publish("t", func(e *task.Envelope) { e.Queue = q })
			}
		}
		g.start()
		after(2 * time.Second)
		if got := fmt.Sprint(ran.get()); got != "[critical critical critical default default default tenant-a tenant-a tenant-a]" {
			t.Errorf("served %s", got)
		}
	})
}

// With weights the queues are served in proportion, and none starves.
func TestWeightedOrderOfQueues(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		g.cfg.Queues = []runner.Queue{{Name: "a", Weight: 6}, {Name: "b", Weight: 3}, {Name: "c", Weight: 1}}
		var ran box[map[string]int]
		ran.set(map[string]int{})
		g.handle("t", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			ran.update(func(m map[string]int) map[string]int { m[j.Delivery.Queue]++; return m })
			time.Sleep(time.Second)
			return nil, nil
		})
		for range 1000 {
			for _, q := range []string{"a", "b", "c"} {
				g.publish("t", func(e *task.Envelope) { e.Queue = q })
			}
		}
		g.start()
		after(1000*time.Second - 100*time.Millisecond)
		g.broker.set(func() {})
		got := ran.get()
		for q, want := range map[string]int{"a": 600, "b": 300, "c": 100} {
			if n := got[q]; n < want*8/10-10 || n > want*12/10+10 {
				t.Errorf("queue %s was served %d times of 1000, want about %d", q, n, want)
			}
		}
	})
}

// A revocation drops what waits for an isolate, and stops what runs when it is
// told to.
func TestRevocation(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 3, 2
		var runs box[map[string]int]
		runs.set(map[string]int{})
		count := func(j *runner.Job) {
			runs.update(func(m map[string]int) map[string]int { m[j.Envelope().ID]++; return m })
		}
		g.handle("polite", func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
			count(j)
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(10 * time.Second):
				return nil, nil
			}
		})
		g.handle("finishes", func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
			count(j)
			<-ctx.Done()
			return json.RawMessage(`"done anyway"`), nil
		})
		g.handle("snoozes", func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, &runner.SnoozeError{In: time.Minute}
		})
		g.cfg.Concurrency = 4
		g.start()
		snoozes := g.publish("snoozes")
		stopped, finished, left := g.publish("polite"), g.publish("finishes"), g.publish("polite")
		settle()
		waiting := g.publish("polite")
		settle()
		revoker, ok := broker.As[broker.Revoker](g.broker)
		if !ok {
			t.Fatal("the memory backend cannot revoke")
		}
		answers, err := revoker.Revoke(context.Background(), []broker.Revocation{
			{ID: stopped, Terminate: true, Keep: time.Hour}, {ID: finished, Terminate: true, Keep: time.Hour},
			{ID: left, Keep: time.Hour}, {ID: waiting, Keep: time.Hour}, {ID: snoozes, Terminate: true, Keep: time.Hour},
		})
		if err != nil {
			t.Fatalf("revoke: %v", err)
		}
		for i, a := range answers {
			if a.State != broker.RevokeAsked || a.Worker != "w1" {
				t.Errorf("answer %d: %+v, want that w1 was asked", i, a)
			}
		}
		after(150 * time.Millisecond)
		if s := g.want(stopped, task.Cancelled); s.Reason != task.ReasonRevoked {
			t.Errorf("reason %q", s.Reason)
		}
		g.want(snoozes, task.Cancelled) // a revocation beats a snooze
		if s := g.want(finished, task.Succeeded); string(s.Result) != `"done anyway"` {
			t.Errorf("result %s", s.Result)
		}
		if s := g.want(waiting, task.Cancelled); s.Reason != task.ReasonRevoked || runs.get()[waiting] != 0 {
			t.Errorf("reason %q, %d runs", s.Reason, runs.get()[waiting])
		}
		after(10 * time.Second)
		g.want(left, task.Succeeded) // it ran, and nobody asked to terminate it
	})
}
