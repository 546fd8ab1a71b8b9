package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// sleeper registers a handler that takes d, unless its context ends first.
func (g *rig) sleeper(name string, d time.Duration) *runner.Task {
	return g.handle(name, func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
		select {
		case <-time.After(d):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

func TestLeasesAreRenewedAtHalf(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease, g.cfg.Concurrency = 10*time.Second, 2
		g.sleeper("long", time.Minute)
		g.start()
		a := g.publish("long")
		b := g.publish("long", func(e *task.Envelope) { e.VisibilityTimeout = 40 * time.Second })
		after(61 * time.Second)
		for _, id := range []string{a, b} {
			if s := g.want(id, task.Succeeded); s.Attempt != 1 || s.Epoch != g.status(id).Epoch {
				t.Errorf("attempt %d", s.Attempt)
			}
		}
		renewals := map[string]int{}
		for _, x := range g.broker.log() {
			for _, r := range x.live {
				renewals[r.Receipt.ID]++
			}
		}
		// The start, which renews too, and then one each half length.
		if renewals[a] < 12 || renewals[a] > 13 || renewals[b] < 3 || renewals[b] > 4 {
			t.Errorf("%d renewals of the lease of 10s, %d of the one of 40s", renewals[a], renewals[b])
		}
	})
}

// What is prefetched is renewed with what runs; here it is given back only
// because the test's prefetch is fixed and its age is not reached.
func TestStartIsReportedOnlyForWhatStillRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.sleeper("long", 10*time.Second)
		g.noop("short")
		g.start()
		short, long := g.publish("short"), g.publish("long")
		after(250 * time.Millisecond)
		if s := g.want(long, task.Running); s.Worker != "w1" || s.Starts != 1 {
			t.Errorf("worker %q, starts %d", s.Worker, s.Starts)
		}
		g.want(short, task.Succeeded)
		if got := g.broker.starts(); !slices.Equal(got, []string{long}) {
			t.Errorf("starts of %v, want only the one of the long task, once", got)
		}
	})
}

// steal lets the lease of a running task pass to another consumer.
func (g *rig) steal(id string) broker.Delivery {
	g.t.Helper()
	ctx := context.Background()
	c, err := g.db.Broker().Open(ctx, broker.Subscription{Worker: "thief", Queues: []string{"default"}})
	if err != nil {
		g.t.Fatalf("open: %v", err)
	}
	for range 100 {
		b, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 1})
		if err != nil {
			g.t.Fatalf("exchange: %v", err)
		}
		for _, d := range b.Deliveries {
			if d.Receipt.ID == id {
				return d
			}
		}
		after(100 * time.Millisecond)
	}
	g.t.Fatalf("task %s was not delivered again", id)
	return broker.Delivery{}
}

func TestLeaseLost(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = 5 * time.Second
		var cause box[error]
		g.handle("long", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			cause.set(context.Cause(ctx))
			return json.RawMessage(`"stale"`), nil
		})
		g.start()
		id := g.publish("long")
		after(time.Second)
		g.broker.set(func() { g.broker.fail = func() error { return errAway } })
		d := g.steal(id)
		if !errors.Is(cause.get(), runner.ErrLeaseLost) {
			t.Errorf("cause %v, want ErrLeaseLost: the lease could not be renewed in time", cause.get())
		}
		g.broker.set(func() { g.broker.fail = nil })
		after(10 * time.Second)
		if s := g.want(id, task.Running); s.Epoch != d.Receipt.Epoch || s.Result != nil {
			t.Logf("status %+v", s)
		}
		errs, err := g.broker.Settle(context.Background(), []broker.Settlement{{
			Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Result: json.RawMessage(`"fresh"`), Attempt: 1, Keep: time.Hour},
		}})
		if err != nil || errs[0] != nil {
			t.Fatalf("the newer run cannot settle: %v, %v", errs, err)
		}
		if s := g.want(id, task.Succeeded); string(s.Result) != `"fresh"` {
			t.Errorf("result %s, want that of the newer run", s.Result)
		}
		if n := len(g.logs.lines("lease lost: the task belongs to another worker now")); n != 1 {
			t.Errorf("%d lines of the lost lease, want one", n)
		}
	})
}

// A worker that is told in time, by its renewal, that the lease has gone.
func TestLeaseLostByRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = 10 * time.Second
		var cause box[error]
		g.handle("long", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			cause.set(context.Cause(ctx))
			return nil, ctx.Err()
		})
		g.start()
		id := g.publish("long")
		after(time.Second)
		g.broker.set(func() {
			g.broker.edit = func(b *broker.Batch) {
				for i := range b.Renewed {
					b.Renewed[i] = fmt.Errorf("renew: %w", broker.ErrLeaseLost)
				}
			}
		})
		after(6 * time.Second)
		if !errors.Is(cause.get(), runner.ErrLeaseLost) {
			t.Errorf("cause %v, want ErrLeaseLost", cause.get())
		}
		for _, s := range g.broker.settlements() {
			t.Errorf("settled %+v; the outcome was to be dropped", s)
		}
		if h := g.runner.Snapshot(); h.Inflight != 0 || h.Isolates.Active != 0 {
			t.Errorf("still holds %d, executes %d", h.Inflight, h.Isolates.Active)
		}
		g.broker.set(func() { g.broker.edit = nil })
		after(time.Minute)
		g.status(id)
	})
}

// A delivery that arrives, or is taken, after its lease has ended is not
// executed: another worker may have it.
func TestLeaseThatEndedBeforeTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = time.Second
		slow := newSlowBroker(g.broker)
		slow.took.set(3 * time.Second)
		g.cfg.Broker = slow
		var runs box[int]
		g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) {
			runs.update(func(n int) int { return n + 1 })
			return nil, nil
		})
		id := g.publish("t")
		g.start()
		after(20 * time.Second)
		if runs.get() != 0 {
			t.Errorf("%d runs without a lease", runs.get())
		}
		slow.took.set(0)
		after(5 * time.Second)
		if s := g.want(id, task.Succeeded); s.Attempt != 1 || runs.get() != 1 {
			t.Errorf("attempt %d after %d runs", s.Attempt, runs.get())
		}
	})
}

func TestProgressHeartbeatAndExtension(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = 10 * time.Second
		step := make(chan func(*runner.Job))
		g.handle("talks", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			for f := range step {
				f(j)
			}
			return nil, nil
		})
		g.start()
		id := g.publish("talks")
		settle()
		for i := range 100 { // of many reports in one moment the last one counts
			step <- func(j *runner.Job) { j.Progress(float64(i), json.RawMessage(`"step"`)) }
		}
		before := len(g.broker.log())
		after(200 * time.Millisecond)
		if s := g.want(id, task.Running); s.Progress == nil || s.Progress.Percent != 99 || string(s.Progress.Data) != `"step"` {
			t.Errorf("progress %+v", s.Progress)
		}
		if n := len(g.broker.log()) - before; n > 5 {
			t.Errorf("%d exchanges for a burst of progress", n)
		}
		step <- func(j *runner.Job) { j.Progress(150, nil) }
		after(200 * time.Millisecond)
		if s := g.status(id); s.Progress.Percent != 100 {
			t.Errorf("progress %v, want at most 100", s.Progress.Percent)
		}

		count := func() (n int) {
			for _, x := range g.broker.log() {
				n += len(x.live)
			}
			return n
		}
		n := count()
		step <- func(j *runner.Job) { j.Heartbeat() }
		settle()
		if count() != n+1 {
			t.Errorf("%d renewals at once, want one", count()-n)
		}
		step <- func(j *runner.Job) { j.ExtendLease(10 * time.Minute) }
		settle()
		if count() != n+2 {
			t.Errorf("%d renewals, want two", count()-n)
		}
		after(9 * time.Minute) // no renewal is due before the extension's end comes near
		if count() != n+2 {
			t.Errorf("%d renewals within the extension, want none", count()-n-2)
		}
		step <- func(j *runner.Job) { j.Progress(5, nil) } // does not cut it short
		after(200 * time.Millisecond)
		g.broker.set(func() { g.broker.fail = func() error { return errAway } })
		after(50 * time.Second)
		g.broker.set(func() { g.broker.fail = nil })
		after(10 * time.Second)
		close(step)
		settle()
		if s := g.want(id, task.Succeeded); s.Attempt != 1 {
			t.Errorf("attempt %d", s.Attempt)
		}
	})
}

// deliverAgain makes a task that was started starts times without an outcome,
// by workers that died.
func (g *rig) deliverAgain(id string, starts int) {
	g.t.Helper()
	ctx := context.Background()
	for i := range starts {
		c, err := g.db.Broker().Open(ctx, broker.Subscription{Worker: fmt.Sprintf("dead-%d", i), Queues: []string{"default"}, Lease: time.Second})
		if err != nil {
			g.t.Fatalf("open: %v", err)
		}
		b, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 1})
		if err != nil || len(b.Deliveries) != 1 || b.Deliveries[0].Receipt.ID != id {
			g.t.Fatalf("exchange: %+v, %v", b, err)
		}
		if errs, err := g.db.Broker().Renew(ctx, []broker.Renewal{{Receipt: b.Deliveries[0].Receipt, Start: true}}); err != nil || errs[0] != nil {
			g.t.Fatalf("start: %v, %v", errs, err)
		}
		after(2 * time.Second)
	}
}

func TestRedeliveryIsStartedByACallOfItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var seen box[int]
		g.handle("t", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			seen.set(g.status(j.Envelope().ID).Starts)
			return nil, nil
		})
		id := g.publish("t")
		g.deliverAgain(id, 1)
		g.start()
		settle()
		g.want(id, task.Succeeded)
		own := g.broker.ownRenewals()
		if len(own) != 1 || !own[0].Start || own[0].Receipt.ID != id || own[0].Worker != "w1" {
			t.Errorf("calls of their own: %+v, want one start", own)
		}
		if seen.get() != 2 {
			t.Errorf("the handler saw %d counted starts, want 2: its own was to be counted before it ran", seen.get())
		}
		if got := g.broker.starts(); len(got) != 0 {
			t.Errorf("starts were reported again with an exchange: %v", got)
		}
	})
}

// An outcome that a start finds stored already is not executed over.
func TestStoredOutcomeIsNotExecuted(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
	}{{"settled", broker.ErrSettled}, {"lost", broker.ErrLeaseLost}} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, g *rig) {
				var runs box[int]
				g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) {
					runs.update(func(n int) int { return n + 1 })
					return nil, nil
				})
				id := g.publish("t")
				g.deliverAgain(id, 1)
				w := &startRefuser{tap: g.broker, err: c.err}
				g.cfg.Broker = w
				g.start()
				settle()
				if runs.get() != 0 || w.calls != 1 {
					t.Errorf("%d runs after %d starts, want none after one", runs.get(), w.calls)
				}
				if n := len(g.broker.settlements()); n != 0 {
					t.Errorf("%d settlements, want none", n)
				}
				if h := g.runner.Snapshot(); h.Inflight != 0 || h.Isolates.Active != 0 {
					t.Errorf("still holds %d", h.Inflight)
				}
				g.stop()
			})
		})
	}
}

// startRefuser answers starts with an error.
type startRefuser struct {
	*tap
	err   error
	calls int
}

func (b *startRefuser) Renew(_ context.Context, batch []broker.Renewal) ([]error, error) {
	b.calls++
	errs := make([]error, len(batch))
	for i := range errs {
		errs[i] = fmt.Errorf("start: %w", b.err)
	}
	return errs, nil
}

// A start cannot be agreed while the broker is away; it is when it is back.
func TestRedeliveryWaitsForTheBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("t")
		id := g.publish("t")
		g.deliverAgain(id, 1)
		g.start() // the tap fails only from the first start on
		g.stop()
		g.broker.set(func() { g.broker.fail = times(0, nil) })
		id = g.publish("t")
		g.deliverAgain(id, 1)
		w := &awayRenew{tap: g.broker, n: 3}
		g.cfg.Broker = w
		g.start()
		settle()
		if s := g.status(id); s.State == task.Succeeded {
			t.Error("executed without an agreed start")
		}
		after(5 * time.Second)
		g.want(id, task.Succeeded)
	})
}

type awayRenew struct {
	*tap
	n int
}

func (b *awayRenew) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	if b.n--; b.n >= 0 {
		return nil, errAway
	}
	return b.tap.Renew(ctx, batch)
}

func TestCrashLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.MaxDeliveries = 3
		g.handle("bomb", func(context.Context, *runner.Job) (json.RawMessage, error) {
			t.Error("executed")
			return nil, nil
		})
		id := g.publish("bomb")
		g.deliverAgain(id, 3)
		g.start()
		settle()
		if s := g.want(id, task.Failed); s.Reason != task.ReasonCrashLoop || s.Attempt != 0 {
			t.Errorf("reason %q, attempt %d", s.Reason, s.Attempt)
		}
		if dead := g.deadLetters(); len(dead) != 1 || dead[0].Reason != task.ReasonCrashLoop {
			t.Errorf("dead letters %+v", dead)
		}
	})
}

// From its third start on a task runs alone: it waits for what runs, and what
// comes after waits for it.
func TestSuspectRunsAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var log box[[]string]
		note := func(s string) { log.update(func(l []string) []string { return append(l, s) }) }
		slow := func(name string, d time.Duration) {
			g.handle(name, func(context.Context, *runner.Job) (json.RawMessage, error) {
				note("+" + name)
				time.Sleep(d)
				note("-" + name)
				return nil, nil
			})
		}
		slow("before", 3*time.Second)
		slow("suspect", time.Second)
		slow("behind", time.Second)
		suspect := g.publish("suspect", func(e *task.Envelope) { e.Priority = 0 })
		g.deliverAgain(suspect, 2)
		g.publish("before")
		g.start()
		after(100 * time.Millisecond)
		g.publish("behind")
		after(20 * time.Second)
		want := []string{"+before", "-before", "+suspect", "-suspect", "+behind", "-behind"}
		if got := log.get(); !slices.Equal(got, want) {
			t.Errorf("ran %v, want %v", got, want)
		}
		g.want(suspect, task.Succeeded)
	})
}

// It does not wait for ever: beside a task that takes longer than the bound it
// runs after all.
func TestSuspectDoesNotWaitForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.sleeper("hour", time.Hour)
		g.noop("suspect")
		suspect := g.publish("suspect", func(e *task.Envelope) { e.Priority = 0 })
		g.deliverAgain(suspect, 2)
		g.publish("hour")
		g.start()
		after(9 * time.Second)
		if s := g.status(suspect); s.State == task.Succeeded {
			t.Error("it did not wait")
		}
		after(2 * time.Second)
		g.want(suspect, task.Succeeded)
		g.runner.Shutdown(runner.Hard)
	})
}
