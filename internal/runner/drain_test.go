package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// held publishes running tasks for every isolate and prefetched ones behind
// them, in that order.
func (g *rig) held(name string, n int) []string {
	g.t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = g.publish(name)
	}
	settle()
	return ids
}

func TestWarmStop(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch, g.cfg.Lease = 2, 3, 6*time.Second
		g.sleeper("ten", 10*time.Second)
		g.start()
		ids := g.held("ten", 6)
		g.runner.Shutdown(runner.Warm)
		settle()
		followed, err := g.db.Heartbeats().(store.BeatFollower).Follow(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := g.runner.Ready(time.Minute); err == nil {
			t.Error("ready while stopping")
		}
		if h := g.runner.Snapshot(); !h.Draining || h.Inflight != 2 {
			t.Errorf("heartbeat says draining %v, inflight %d; want true and what runs, 2", h.Draining, h.Inflight)
		}
		for _, id := range ids[2:] {
			if s := g.want(id, task.Queued); s.Attempt != 0 || s.Starts != 0 {
				t.Errorf("given back with attempt %d, starts %d", s.Attempt, s.Starts)
			}
		}
		late := g.publish("ten")
		g.wait()
		for _, id := range ids[:2] { // renewed to their end, past the lease
			if s := g.want(id, task.Succeeded); s.Attempt != 1 {
				t.Errorf("attempt %d", s.Attempt)
			}
		}
		g.want(late, task.Queued)
		if rep := g.runner.Report(); rep != (runner.Report{Finished: 2, Released: 4}) {
			t.Errorf("report %+v, want 2 finished, 4 released", rep)
		}
		if last, err := followed.Next(context.Background()); err != nil || !last.Stopped || !last.Draining || last.Succeeded != 2 {
			t.Errorf("last heartbeat %+v, %v", last, err)
		}
		if err := followed.Close(); err != nil {
			t.Error(err)
		}
		if list, err := g.db.Heartbeats().Workers(context.Background()); err != nil || len(list) != 0 {
			t.Errorf("listed after its end: %+v, %v", list, err)
		}
	})
}

// A drain that takes too long turns soft for its last part: contexts are
// cancelled, and an interruption counts no attempt.
func TestWarmTurnsSoft(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Grace, g.cfg.SoftGrace = 2, 20*time.Second, 5*time.Second
		var causes box[[]error]
		g.handle("polite", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			causes.update(func(l []error) []error { return append(l, context.Cause(ctx)) })
			return nil, ctx.Err()
		})
		g.handle("saves", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			time.Sleep(3 * time.Second)
			return json.RawMessage(`"saved"`), nil
		})
		g.start()
		polite, saves := g.publish("polite"), g.publish("saves")
		settle()
		began := time.Now()
		g.stop()
		if took := time.Since(began); took != 18*time.Second {
			t.Errorf("stopped after %s, want 15s until soft and 3s of the slower handler", took)
		}
		if len(causes.get()) != 1 || !errors.Is(causes.get()[0], runner.ErrShutdown) {
			t.Errorf("causes %v, want ErrShutdown", causes.get())
		}
		if s := g.want(polite, task.Queued); s.Attempt != 0 || len(s.Errors) != 0 {
			t.Errorf("attempt %d, errors %v; an interruption does not count", s.Attempt, s.Errors)
		}
		g.want(saves, task.Succeeded)
		if rep := g.runner.Report(); rep != (runner.Report{Finished: 1, Released: 1}) {
			t.Errorf("report %+v", rep)
		}
	})
}

// What a handler says on its way out counts when it is its own word.
func TestWordsOfAnInterruptedHandler(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		say := func(err error) func(context.Context, *runner.Job) (json.RawMessage, error) {
			return func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) { <-ctx.Done(); return nil, err }
		}
		g.handle("plain", say(errBroken))
		g.handle("permanent", say(&runner.PermanentError{Err: errBroken}))
		g.handle("wrapped", say(&runner.PermanentError{Err: context.Canceled}))
		g.handle("retry", say(&runner.RetryError{In: time.Hour}))
		g.handle("snooze", say(&runner.SnoozeError{In: time.Hour}))
		g.cfg.Concurrency = 5
		g.start()
		ids := map[string]string{}
		for _, name := range []string{"plain", "permanent", "wrapped", "retry", "snooze"} {
			ids[name] = g.publish(name)
		}
		settle()
		g.runner.Shutdown(runner.Soft)
		g.wait()
		for name, want := range map[string]task.State{
			"plain": task.Queued, "permanent": task.Failed, "wrapped": task.Queued, "retry": task.Queued, "snooze": task.Queued,
		} {
			s := g.want(ids[name], want)
			if want == task.Queued && s.Attempt != 0 {
				t.Errorf("%s counts attempt %d", name, s.Attempt)
			}
			if later := name == "retry" || name == "snooze"; later && !s.NotBefore.Equal(time.Now().Add(time.Hour)) {
				t.Errorf("%s is due at %s, want in an hour", name, s.NotBefore)
			}
		}
	})
}

// A handler that ignores its context is given back, and left behind.
func TestSoftStopLeavesTheDeafBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		finish := make(chan struct{})
		g.handle("deaf", func(context.Context, *runner.Job) (json.RawMessage, error) {
			<-finish
			return json.RawMessage(`"late"`), nil
		})
		g.start()
		id := g.publish("deaf")
		after(time.Second)
		began := time.Now()
		g.runner.Shutdown(runner.Soft)
		g.wait()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("stopped after %s, want the soft grace of 5s", took)
		}
		if s := g.want(id, task.Queued); s.Attempt != 0 {
			t.Errorf("attempt %d", s.Attempt)
		}
		if rep := g.runner.Report(); rep != (runner.Report{Released: 1}) {
			t.Errorf("report %+v", rep)
		}
		close(finish)
		settle()
		g.want(id, task.Queued) // its late word is nothing
	})
}

func TestHardStop(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = 10 * time.Second
		g.sleeper("long", time.Hour)
		g.start()
		id := g.publish("long")
		after(time.Second)
		began := time.Now()
		g.runner.Shutdown(runner.Warm)
		g.runner.Shutdown(runner.Hard)
		g.runner.Shutdown(runner.Soft) // less urgent: nothing
		g.wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s, want no time", took)
		}
		g.want(id, task.Running) // the lease brings it back
		if rep := g.runner.Report(); rep != (runner.Report{Abandoned: 1}) {
			t.Errorf("report %+v", rep)
		}
		g.noop("long")
		g.start()
		after(12 * time.Second)
		g.want(id, task.Succeeded)
	})
}

// A second, more urgent word shortens the stop.
func TestStopBecomesMoreUrgent(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.sleeper("long", time.Hour)
		g.start()
		id := g.publish("long")
		settle()
		began := time.Now()
		g.cancel()
		after(3 * time.Second)
		g.runner.Shutdown(runner.Soft)
		g.wait()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %s, want 3s", took)
		}
		g.want(id, task.Queued)
	})
}

// Stopped while the broker is away: the outcome waits for it within the grace,
// and is abandoned after it.
func TestStopWhileTheBrokerIsAway(t *testing.T) {
	for _, back := range []time.Duration{2 * time.Second, 0} {
		inBubble(t, func(t *testing.T, g *rig) {
			g.cfg.Lease, g.cfg.Grace, g.cfg.SoftGrace = time.Minute, 10*time.Second, 2*time.Second
			g.sleeper("t", time.Second)
			g.start()
			id := g.publish("t")
			after(500 * time.Millisecond)
			g.broker.set(func() { g.broker.fail = func() error { return errAway } })
			g.cancel()
			began := time.Now()
			if back > 0 {
				after(back)
				g.broker.set(func() { g.broker.fail = nil })
			}
			g.wait()
			took := time.Since(began)
			g.broker.set(func() { g.broker.fail = nil })
			if back > 0 {
				g.want(id, task.Succeeded)
				return
			}
			if took > 11*time.Second {
				t.Errorf("took %s, want no more than the grace and a last second", took)
			}
			if rep := g.runner.Report(); rep.Abandoned != 1 {
				t.Errorf("report %+v, want one abandoned", rep)
			}
		})
	}
}

// Deployments interrupt a long task again and again: it is no crash loop, and
// does not end up in a corner of its own.
func TestInterruptionsAreNoCrashLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.MaxDeliveries = 3
		g.sleeper("long", time.Hour)
		id := g.publish("long")
		for range 8 {
			g.start()
			after(time.Second)
			g.want(id, task.Running)
			g.runner.Shutdown(runner.Soft)
			g.wait()
		}
		if s := g.want(id, task.Queued); s.Attempt != 0 || s.Starts > 2 {
			t.Errorf("attempt %d, starts %d", s.Attempt, s.Starts)
		}
	})
}

// One isolate sees the order of publication, also after what it held was given
// back.
func TestOrderSurvivesARelease(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 8
		var ran box[[]string]
		g.handle("t", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			ran.update(func(l []string) []string { return append(l, j.Envelope().ID) })
			time.Sleep(100 * time.Millisecond)
			return nil, nil
		})
		var ids []string
		for range 20 {
			ids = append(ids, g.publish("t"))
		}
		for range 5 {
			g.start()
			after(350 * time.Millisecond)
			g.stop()
		}
		g.start()
		after(10 * time.Second)
		got := ran.get()
		if len(got) != len(ids) {
			t.Fatalf("%d runs of %d tasks", len(got), len(ids))
		}
		for i := range ids {
			if got[i] != ids[i] {
				t.Fatalf("run %d was another task than the one published as number %d", i, i)
			}
		}
	})
}
