package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// told collects what OnDead is told.
type told struct {
	mu  sync.Mutex
	all []runner.Dead
}

func (t *told) add(d runner.Dead) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, d)
}

func (t *told) list() []runner.Dead {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func permanent(_ context.Context, _ *runner.Job) (json.RawMessage, error) {
	return nil, &runner.PermanentError{Err: errors.New("no"), Reason: "mine"}
}

func TestOnDead(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var calls told
		g.cfg.OnDead = func(_ context.Context, d runner.Dead) {
			if s := g.status(d.Envelope.ID); s.State != task.Failed || len(g.deadLetters()) == 0 {
				t.Errorf("told before the dead letter is stored: %+v", s)
			}
			calls.add(d)
		}
		g.handle("bad", permanent)
		g.noop("good")
		g.start()
		g.publish("good")
		id := g.publish("bad")
		settle()
		all := calls.list()
		if len(all) != 1 {
			t.Fatalf("told of %d deaths, want 1", len(all))
		}
		if d := all[0]; d.Envelope.ID != id || d.Envelope.Name != "bad" || d.Reason != "mine" || d.Error == nil || d.Error.Message != "no" ||
			d.Attempt != 1 || d.Replays != 0 || d.Queue != "default" || d.Worker != "w1" || d.At.IsZero() {
			t.Errorf("told %+v", d)
		}
	})
}

func TestOnDeadPanics(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.OnDead = func(context.Context, runner.Dead) { panic("oh") }
		g.handle("bad", permanent)
		g.noop("good")
		g.start()
		g.publish("bad")
		settle()
		good := g.publish("good")
		settle()
		g.want(good, task.Succeeded)
		if lines := g.logs.lines("OnDead panicked"); len(lines) != 1 || lines[0]["error"] != "oh" {
			t.Errorf("the log of the panic: %v", lines)
		}
	})
}

// One that does not return holds up neither the work nor the next call, and
// whoever stops the worker waits for no longer than one call may take.
func TestOnDeadIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var calls told
		release := make(chan struct{})
		g.cfg.OnDead = func(ctx context.Context, d runner.Dead) {
			calls.add(d)
			if len(calls.list()) == 1 {
				<-release // whatever its context says
				return
			}
			<-ctx.Done()
		}
		g.handle("bad", permanent)
		g.noop("good")
		g.start()
		for range 10 {
			g.publish("bad")
		}
		settle()
		good := g.publish("good")
		settle()
		g.want(good, task.Succeeded)
		after(6 * time.Second)
		if n := len(calls.list()); n != 2 {
			t.Errorf("after 6 s: %d calls, want 2", n)
		}
		if n := len(g.logs.lines("OnDead has not returned in time, and is left behind")); n != 1 {
			t.Errorf("%d lines of calls left behind", n)
		}
		began := time.Now()
		g.stop()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the stop took %s", d)
		}
		if lines := g.logs.lines("OnDead was not told of dead letters before the stop"); len(lines) != 1 || lines[0]["tasks"].(float64) < 7 {
			t.Errorf("what was not told: %v", lines)
		}
		close(release)
	})
}
