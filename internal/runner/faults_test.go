package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// The broker fails again and again and comes back: nothing is lost, what runs
// goes on, and the log does not grow with every failure.
func TestBrokerAwayAndBack(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var runs box[int]
		g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) {
			runs.update(func(n int) int { return n + 1 })
			time.Sleep(2 * time.Second)
			return nil, nil
		})
		g.start()
		id := g.publish("t")
		after(time.Second)
		g.broker.set(func() { g.broker.fail = func() error { return errAway } })
		after(20 * time.Second)
		if err := g.runner.Ready(5 * time.Second); err == nil {
			t.Error("ready while the broker is away")
		}
		warned := len(g.logs.lines("cannot reach the broker; will try again"))
		exchanges := len(g.broker.log())
		after(4 * time.Second)
		if n := len(g.broker.log()) - exchanges; n > 4 {
			t.Errorf("%d tries within 4s, after 20s of failures", n)
		}
		if warned < 3 || warned > 5 {
			t.Errorf("%d warnings in 20s, want one at 1, 2, 4, 8 failures", warned)
		}
		g.broker.set(func() { g.broker.fail = nil })
		after(6 * time.Second)
		if s := g.want(id, task.Succeeded); s.Attempt != 1 || runs.get() != 1 {
			t.Errorf("attempt %d after %d runs, want one", s.Attempt, runs.get())
		}
		if err := g.runner.Ready(5 * time.Second); err != nil {
			t.Errorf("not ready after the broker came back: %v", err)
		}
		next := g.publish("t")
		after(3 * time.Second)
		g.want(next, task.Succeeded)
	})
}

// The reply is lost although the exchange took place: what was settled stays
// settled, and what was delivered into the void comes again.
func TestLostReplies(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Lease = 5 * time.Second
		g.noop("t")
		g.start()
		g.broker.set(func() { g.broker.failAfter = times(3, errAway) })
		var ids []string
		for range 20 {
			ids = append(ids, g.publish("t"))
			after(50 * time.Millisecond)
		}
		after(20 * time.Second)
		for _, id := range ids {
			g.want(id, task.Succeeded)
		}
		if n := len(g.logs.lines("lease lost: the task belongs to another worker now")); n != 0 {
			t.Errorf("%d leases reported lost although the outcome is stored", n)
		}
	})
}

func TestOpenWaitsForTheBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("t")
		id := g.publish("t")
		g.broker.fail = times(5, errAway)
		g.start()
		after(10 * time.Second)
		g.want(id, task.Succeeded)
	})
	inBubble(t, func(t *testing.T, g *rig) { // and gives up when told to stop
		g.broker.fail = func() error { return errAway }
		g.start()
		after(10 * time.Second)
		g.stop()
	})
	inBubble(t, func(t *testing.T, g *rig) { // but not for what will not pass
		g.broker.fail = func() error { return errBroken }
		g.start()
		if err := <-g.ended; !errors.Is(err, errBroken) {
			t.Errorf("Run: %v, want the error of Open", err)
		}
		g.cancel()
		g.cancel = nil
	})
}

func TestBrokerClosedEndsRun(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.start()
		if err := g.broker.Broker.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		if err := <-g.ended; !errors.Is(err, broker.ErrClosed) {
			t.Errorf("Run: %v, want ErrClosed", err)
		}
		g.cancel()
		g.cancel = nil
	})
}

// A follow-up that the broker refuses makes the task a dead letter that says
// why; the neighbours go on.
func TestRefusedOutcome(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("good")
		g.handle("bad", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			j.OnSuccess(broker.Publication{Envelope: linked("x", ""), Group: &broker.Member{Group: "g"}})
			return nil, nil
		})
		g.broker.refuse = func(s broker.Settlement) error {
			for _, p := range s.Followups {
				if p.Group != nil {
					return fmt.Errorf("follow-up: %w", broker.ErrUnsupported)
				}
			}
			return nil
		}
		g.start()
		bad, good := g.publish("bad"), g.publish("good")
		after(5 * time.Second)
		g.want(good, task.Succeeded)
		if s := g.want(bad, task.Failed); s.Reason != task.ReasonResultInvalid || !strings.Contains(s.Error.Message, "not supported") {
			t.Errorf("reason %q, error %+v", s.Reason, s.Error)
		}
	})
}

// One that the broker refuses whatever it says is left to its lease.
func TestOutcomeThatIsAlwaysRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("bad")
		g.broker.refuse = func(broker.Settlement) error { return errBroken }
		g.start()
		id := g.publish("bad")
		after(5 * time.Second)
		g.want(id, task.Queued)
		if n := len(g.logs.lines("an outcome cannot be stored; the task will be delivered again")); n != 1 {
			t.Errorf("%d lines, want one", n)
		}
		if h := g.runner.Snapshot(); h.Inflight != 0 {
			t.Errorf("still holds %d", h.Inflight)
		}
		g.broker.set(func() { g.broker.refuse = nil })
		after(time.Minute)
		g.want(id, task.Succeeded)
	})
}

// A wake-up that never comes costs a second.
func TestLostWakeUp(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.broker.deaf = true
		g.noop("t")
		g.start()
		after(10*time.Second + 300*time.Millisecond)
		id := g.publish("t")
		after(time.Second)
		g.want(id, task.Succeeded)
	})
}

// An idle worker looks about once a second, and not more.
func TestIdleIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.start()
		after(10 * time.Second)
		n := len(g.broker.log())
		after(time.Minute)
		if got := len(g.broker.log()) - n; got < 55 || got > 65 {
			t.Errorf("%d exchanges in an idle minute, want about 60", got)
		}
		if err := g.runner.Ready(2 * time.Second); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// A full worker is quiet too, however much is published meanwhile, and ready.
func TestFullIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		g.sleeper("long", 10*time.Minute)
		g.start()
		for range 3 {
			g.publish("long")
		}
		after(10 * time.Second)
		n := len(g.broker.log())
		for range 600 {
			after(100 * time.Millisecond)
			g.publish("long")
		}
		if got := len(g.broker.log()) - n; got > 700 {
			t.Errorf("%d exchanges in a minute while full", got)
		}
		if err := g.runner.Ready(2 * time.Second); err != nil {
			t.Errorf("not ready: %v", err)
		}
		g.runner.Shutdown(runner.Hard)
	})
}

func TestDelayedTaskIsOnTime(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var at box[time.Time]
		g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) {
			at.set(time.Now())
			return nil, nil
		})
		g.start()
		due := time.Now().Add(3*time.Second + 456*time.Millisecond)
		g.publish("t", func(e *task.Envelope) { e.NotBefore = due })
		after(5 * time.Second)
		if late := at.get().Sub(due); late < 0 || late > 5*time.Millisecond {
			t.Errorf("%s late", late)
		}
	})
}

// malformer hands out one delivery that is no envelope.
func TestMalformedIsDeadLettered(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("t")
		id := g.publish("t")
		g.broker.edit = func(b *broker.Batch) {
			for i := range b.Deliveries {
				if b.Deliveries[i].Receipt.ID == id {
					b.Deliveries[i].Envelope = &task.Envelope{ID: id}
					b.Deliveries[i].Malformed = errBroken
				}
			}
		}
		g.start()
		good := g.publish("t")
		settle()
		if s := g.want(id, task.Failed); s.Reason != task.ReasonMalformed || !strings.Contains(s.Error.Message, "broken") {
			t.Errorf("reason %q, error %+v", s.Reason, s.Error)
		}
		g.want(good, task.Succeeded)
		if n := len(g.logs.lines("task dead-lettered")); n != 1 {
			t.Errorf("%d lines, want one", n)
		}
	})
}

func TestUnknownNameIsLeftToOthersForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.UnknownGrace = 10 * time.Minute
		g.start()
		id := g.publish("new.task")
		other := g.publish("new.task")
		after(9 * time.Minute)
		for _, i := range []string{id, other} {
			if s := g.want(i, task.Queued); s.Attempt != 0 || s.NotBefore.IsZero() {
				t.Errorf("attempt %d, due %s", s.Attempt, s.NotBefore)
			}
		}
		if n := len(g.logs.lines("this worker does not know the task; leaving it to others")); n != 1 {
			t.Errorf("%d lines for one name, want one", n)
		}
		if n := len(g.broker.settlements()); n < 40 || n > 120 {
			t.Errorf("released %d times in 9 minutes, two tasks", n)
		}
		after(2 * time.Minute)
		for _, i := range []string{id, other} {
			if s := g.want(i, task.Failed); s.Reason != task.ReasonTaskUnknown {
				t.Errorf("reason %q", s.Reason)
			}
		}
		// A replay has its grace anew, although the envelope is old.
		if _, err := g.broker.DeadLetters().ReplayDeadLetters(context.Background(), broker.DeadFilter{IDs: []string{id}}, broker.ReplayOptions{}); err != nil {
			t.Fatalf("replay: %v", err)
		}
		after(9 * time.Minute)
		g.want(id, task.Queued)
		g.broker.set(func() {}) // the roll-out arrives
		g.stop()
		g.noop("new.task")
		g.start()
		after(time.Minute)
		g.want(id, task.Succeeded)
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	g := newRig(t)
	defer func() {
		if err := g.db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := runner.New(g.cfg); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	for _, c := range []struct {
		want string
		edit func(*runner.Config)
	}{
		{"no broker", func(c *runner.Config) { c.Broker = nil }},
		{"no Lookup", func(c *runner.Config) { c.Lookup = nil }},
		{"no queues", func(c *runner.Config) { c.Queues = nil }},
		{`"../x"`, func(c *runner.Config) { c.Queues = []runner.Queue{{Name: "../x"}} }},
		{"queue b: weight 0", func(c *runner.Config) { c.Queues = []runner.Queue{{Name: "a", Weight: 2}, {Name: "b"}} }},
		{"weight -1", func(c *runner.Config) { c.Queues = []runner.Queue{{Name: "a", Weight: -1}} }},
		{"concurrency -1", func(c *runner.Config) { c.Concurrency = -1 }},
		{"prefetch -1", func(c *runner.Config) { c.Prefetch = -1 }},
		{"lease -1s", func(c *runner.Config) { c.Lease = -time.Second }},
		{"grace -1s", func(c *runner.Config) { c.Grace = -time.Second }},
	} {
		cfg := g.cfg
		c.edit(&cfg)
		if _, err := runner.New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New: %v, want an error about %s", err, c.want)
		}
	}
	r, err := runner.New(g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(time.Second); err == nil {
		t.Error("ready before Run")
	}
	r.Shutdown(runner.Warm)
	if err := r.Run(context.Background()); err != nil {
		t.Errorf("Run after Shutdown: %v, want an end at once", err)
	}
	if err := r.Run(context.Background()); err == nil {
		t.Error("Run twice")
	}
}
