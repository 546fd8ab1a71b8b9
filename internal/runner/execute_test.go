package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func TestTaskSucceeds(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.handle("sum", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			if j.Worker != "w1" || j.Started.IsZero() || j.Envelope().Name != "sum" {
				t.Errorf("job says worker %q, started %s, name %q", j.Worker, j.Started, j.Envelope().Name)
			}
			time.Sleep(1500 * time.Microsecond)
			return json.RawMessage(`{"sum":3}`), nil
		})
		g.start()
		id := g.publish("sum")
		after(time.Second)
		s := g.want(id, task.Succeeded)
		if string(s.Result) != `{"sum":3}` || s.Attempt != 1 || s.Worker != "w1" || s.StartedAt.IsZero() || s.FinishedAt.IsZero() {
			t.Errorf("status %+v", s)
		}
		if got := s.ExpiresAt.Sub(s.FinishedAt); got != 24*time.Hour {
			t.Errorf("kept for %s, want the default of 24h", got)
		}
		lines := g.logs.lines("task succeeded")
		if len(lines) != 1 {
			t.Fatalf("%d lines for one outcome", len(lines))
		}
		for key, want := range map[string]any{"task": "sum", "task_id": id, "queue": "default", "attempt": 0.0, "worker": "w1", "duration_ms": 1.5} {
			if lines[0][key] != want {
				t.Errorf("log has %s=%v, want %v", key, lines[0][key], want)
			}
		}
		if strings.Contains(g.logs.text(), `\"sum\":3`) {
			t.Error("a result was logged")
		}
	})
}

func TestNilResultIsNull(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("noop")
		g.start()
		id := g.publish("noop")
		settle()
		if s := g.want(id, task.Succeeded); string(s.Result) != "null" {
			t.Errorf("result %s, want null", s.Result)
		}
	})
}

func TestRetriesThenDeadLetter(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var at []time.Time
		g.handle("fail", func(context.Context, *runner.Job) (json.RawMessage, error) {
			at = append(at, time.Now())
			return nil, fmt.Errorf("opening: %w", &fs.PathError{Op: "open", Path: "/x", Err: os.ErrNotExist})
		})
		g.start()
		id := g.publish("fail", func(e *task.Envelope) { e.MaxRetries = 2 })
		settle()
		if s := g.want(id, task.Retried); s.Attempt != 1 || s.Error == nil || !s.Error.Retryable {
			t.Errorf("after the first failure: %+v", s)
		}
		after(time.Minute)
		s := g.want(id, task.Failed)
		if s.Reason != task.ReasonRetriesExhausted || s.Attempt != 3 || len(s.Errors) != 3 {
			t.Errorf("reason %q, attempt %d, %d errors", s.Reason, s.Attempt, len(s.Errors))
		}
		if s.Error.Type != "*fs.PathError" || s.Error.Message != "opening: open /x: file does not exist" || s.Error.Attempt != 2 {
			t.Errorf("error %+v", *s.Error)
		}
		if len(at) != 3 || at[1].Sub(at[0]) != time.Second || at[2].Sub(at[1]) != 2*time.Second {
			t.Errorf("attempts at %v, want waits of 1s and 2s", at)
		}
	})
}

func TestReplayGetsFreshRetries(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		runs := 0
		g.handle("fail", func(context.Context, *runner.Job) (json.RawMessage, error) {
			runs++
			return nil, errBroken
		})
		g.start()
		id := g.publish("fail", func(e *task.Envelope) { e.MaxRetries = 1 })
		after(time.Minute)
		g.want(id, task.Failed)
		if _, err := g.broker.DeadLetters().ReplayDeadLetters(context.Background(), broker.DeadFilter{}, broker.ReplayOptions{}); err != nil {
			t.Fatalf("replay: %v", err)
		}
		after(time.Minute)
		if s := g.want(id, task.Failed); runs != 4 || s.Attempt != 4 {
			t.Errorf("%d runs, attempt %d; want two more runs after the replay", runs, s.Attempt)
		}
	})
}

// What a handler may return, and what becomes of the task at once.
func TestVerdicts(t *testing.T) {
	long := strings.Repeat("é", 10_000)
	for _, c := range []struct {
		name    string
		err     error
		result  json.RawMessage
		state   task.State
		reason  string
		kind    string
		attempt int
		wait    time.Duration // until due again
	}{
		{name: "plain error", err: errors.New("no"), state: task.Retried, kind: "error", attempt: 1, wait: time.Second},
		{name: "joined errors", err: errors.Join(&fs.PathError{Op: "a", Path: "b", Err: errBroken}, errBroken), state: task.Retried, kind: "*fs.PathError", attempt: 1, wait: time.Second},
		{name: "permanent", err: &runner.PermanentError{Err: os.ErrPermission}, state: task.Failed, reason: task.ReasonPermanent, kind: "error", attempt: 1},
		{name: "permanent with a reason", err: fmt.Errorf("x: %w", &runner.PermanentError{Err: errBroken, Reason: "no-such-user"}), state: task.Failed, reason: "no-such-user", kind: "error", attempt: 1},
		{name: "retry in", err: &runner.RetryError{Err: errBroken, In: 7 * time.Minute}, state: task.Retried, kind: "error", attempt: 1, wait: 7 * time.Minute},
		{name: "retry at", err: &runner.RetryError{At: time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)}, state: task.Retried, kind: "error", attempt: 1, wait: 3 * time.Hour},
		{name: "snooze", err: &runner.SnoozeError{In: time.Hour}, state: task.Queued, wait: time.Hour},
		{name: "arguments", err: &runner.ArgsError{Reason: task.ReasonEncoderUnknown, Err: errBroken}, state: task.Failed, reason: task.ReasonEncoderUnknown, kind: task.ReasonEncoderUnknown, attempt: 1},
		{name: "result", err: &runner.ResultError{Err: errBroken}, state: task.Failed, reason: task.ReasonResultInvalid, kind: task.ReasonResultInvalid, attempt: 1},
		{name: "result too large", result: json.RawMessage(`"` + strings.Repeat("x", 100) + `"`), state: task.Failed, reason: task.ReasonResultTooLarge, kind: task.ReasonResultTooLarge, attempt: 1},
		{name: "result not JSON", result: json.RawMessage(`{`), state: task.Failed, reason: task.ReasonResultInvalid, kind: task.ReasonResultInvalid, attempt: 1},
		{name: "long message", err: errors.New(long), state: task.Retried, kind: "error", attempt: 1, wait: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, g *rig) {
				g.cfg.MaxResult = 64
				g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) { return c.result, c.err })
				g.start()
				id := g.publish("t")
				settle()
				s := g.want(id, c.state)
				if s.Reason != c.reason || s.Attempt != c.attempt {
					t.Errorf("reason %q, attempt %d; want %q, %d", s.Reason, s.Attempt, c.reason, c.attempt)
				}
				if c.kind != "" && (s.Error == nil || s.Error.Type != c.kind) {
					t.Errorf("error %+v, want type %s", s.Error, c.kind)
				}
				if s.Error != nil && (len(s.Error.Message) > 4096 || strings.ContainsRune(s.Error.Message, '\uFFFD')) {
					t.Errorf("message of %d bytes, or cut within a letter", len(s.Error.Message))
				}
				if c.wait > 0 && !s.NotBefore.Equal(time.Now().Add(c.wait)) {
					t.Errorf("due at %s, want in %s", s.NotBefore, c.wait)
				}
			})
		})
	}
}

func TestPanicIsAnError(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		g.handle("panic", func(context.Context, *runner.Job) (json.RawMessage, error) { panic("oh no") })
		g.noop("noop")
		g.start()
		bad, good := g.publish("panic"), g.publish("noop")
		settle()
		s := g.want(bad, task.Retried)
		if s.Error.Type != "panic" || s.Error.Message != "oh no" || !strings.Contains(s.Error.Stack, "TestPanicIsAnError") || len(s.Error.Stack) > 16<<10 {
			t.Errorf("error %+v", *s.Error)
		}
		g.want(good, task.Succeeded)
	})
}

// A handler that ends its goroutine costs neither the worker nor the isolate.
func TestGoexitIsAnError(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		g.handle("exit", func(context.Context, *runner.Job) (json.RawMessage, error) { runtime.Goexit(); return nil, nil })
		g.noop("noop")
		g.start()
		bad, good := g.publish("exit"), g.publish("noop")
		settle()
		if s := g.want(bad, task.Retried); !strings.Contains(s.Error.Message, "Goexit") {
			t.Errorf("error %+v", *s.Error)
		}
		g.want(good, task.Succeeded)
	})
}

func TestSoftTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var cause error
		tk := g.handle("slow", func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
			if want := j.Started.Add(2 * time.Second); !j.Deadline.Equal(want) {
				t.Errorf("deadline %s, want %s", j.Deadline, want)
			}
			if d, ok := ctx.Deadline(); !ok || !d.Equal(j.Deadline) {
				t.Errorf("the context's deadline is %s, %v", d, ok)
			}
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil, ctx.Err()
		})
		tk.SoftTimeout = 2 * time.Second
		g.start()
		id := g.publish("slow")
		after(2 * time.Second)
		if s := g.want(id, task.Retried); s.Attempt != 1 || s.Error.Type != "soft-timeout" {
			t.Errorf("attempt %d, error %+v", s.Attempt, s.Error)
		}
		if !errors.Is(cause, runner.ErrSoftTimeout) {
			t.Errorf("cause %v, want ErrSoftTimeout", cause)
		}
	})
}

// A handler may use the soft limit to end well.
// The limit is named once, also by a handler that returns why it was stopped.
func TestSoftTimeoutIsToldOnce(t *testing.T) {
	for name, says := range map[string]func(ctx context.Context) error{
		"soft time limit reached":                            context.Cause,
		"soft time limit reached: context deadline exceeded": context.Context.Err,
	} {
		inBubble(t, func(t *testing.T, g *rig) {
			tk := g.handle("slow", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
				<-ctx.Done()
				return nil, says(ctx)
			})
			tk.SoftTimeout = time.Second
			g.start()
			id := g.publish("slow")
			after(time.Second)
			if s := g.want(id, task.Retried); s.Error.Message != name {
				t.Errorf("the error is %q, want %q", s.Error.Message, name)
			}
		})
	}
}

func TestSoftTimeoutLetsSuccessStand(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		tk := g.handle("slow", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			return json.RawMessage(`"partly"`), nil
		})
		tk.SoftTimeout = time.Second
		g.start()
		id := g.publish("slow")
		after(time.Second)
		g.want(id, task.Succeeded)
	})
}

func TestHardTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 1
		finish := make(chan struct{})
		tk := g.handle("stuck", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-finish // ignores its context
			return json.RawMessage(`"too late"`), nil
		})
		tk.HardTimeout = 5 * time.Second
		g.noop("noop")
		g.start()
		id := g.publish("stuck", func(e *task.Envelope) { e.MaxRetries = 0 })
		settle()
		next := g.publish("noop")
		after(5 * time.Second)
		s := g.want(id, task.Failed)
		if s.Attempt != 1 || s.Error.Type != "hard-timeout" || s.Reason != task.ReasonRetriesExhausted {
			t.Errorf("attempt %d, reason %s, error %+v", s.Attempt, s.Reason, s.Error)
		}
		after(time.Second) // the grace, after which the isolate is replaced
		g.want(next, task.Succeeded)
		lines := g.logs.lines("handler does not return after its hard limit")
		if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["stack"]), "TestHardTimeout") || lines[0]["replaced"] != true {
			t.Errorf("logged %v, want one line with the handler's stack", lines)
		}
		if h := g.runner.Snapshot(); h.Isolates != (store.Isolates{Active: 0, Total: 1}) {
			t.Errorf("isolates %+v, want one, idle", h.Isolates)
		}
		close(finish)
		after(time.Second)
		g.want(id, task.Failed) // its late word changes nothing
		if h := g.runner.Snapshot(); h.Isolates.Total != 1 {
			t.Errorf("isolates %+v after the handler returned, want one", h.Isolates)
		}
	})
}

// A handler that ends when its hard limit cancels it costs no isolate.
func TestHardTimeoutOfAWellBehavedHandler(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var cause error
		tk := g.handle("slow", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil, nil
		})
		tk.HardTimeout = 5 * time.Second
		g.start()
		id := g.publish("slow")
		after(5 * time.Second)
		if s := g.status(id); s.State != task.Retried && s.State != task.Succeeded {
			t.Errorf("state %s", s.State)
		}
		if !errors.Is(cause, runner.ErrHardTimeout) {
			t.Errorf("cause %v, want ErrHardTimeout", cause)
		}
		after(500 * time.Millisecond)
		if n := len(g.logs.lines("handler does not return after its hard limit")); n != 0 {
			t.Errorf("%d lines of a stuck handler", n)
		}
	})
}

// When as many handlers are stuck as there are isolates, and their
// replacements too, the worker says that it is not ready; it recovers when
// they return.
func TestLostIsolatesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 2
		finish := make(chan struct{})
		tk := g.handle("stuck", func(context.Context, *runner.Job) (json.RawMessage, error) { <-finish; return nil, nil })
		tk.HardTimeout = time.Second
		g.noop("noop")
		g.start()
		for range 6 {
			g.publish("stuck", func(e *task.Envelope) { e.MaxRetries = 0 })
		}
		after(10 * time.Second)
		if err := g.runner.Ready(time.Minute); err == nil {
			t.Error("ready, although no isolate is left")
		}
		close(finish)
		after(time.Second)
		if err := g.runner.Ready(time.Minute); err != nil {
			t.Errorf("not ready after the handlers returned: %v", err)
		}
		id := g.publish("noop")
		after(time.Second)
		g.want(id, task.Succeeded)
		if h := g.runner.Snapshot(); h.Isolates.Total != 2 {
			t.Errorf("isolates %+v, want two", h.Isolates)
		}
	})
}

func TestExpiredIsNotExecuted(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 4
		ran := map[string]int{}
		g.handle("count", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			ran[j.Envelope().ID]++
			return nil, nil
		})
		g.handle("slow", func(context.Context, *runner.Job) (json.RawMessage, error) {
			time.Sleep(500 * time.Millisecond)
			return nil, nil
		})
		soon := func(d time.Duration) edit { return func(e *task.Envelope) { e.ExpiresAt = time.Now().Add(d) } }
		late := g.publish("count", soon(time.Second))
		after(2 * time.Second)
		g.start()
		settle()
		g.publish("slow")
		settle()
		prefetched := g.publish("count", soon(100*time.Millisecond)) // expires while it waits for an isolate
		fine := g.publish("count", soon(time.Hour))
		after(time.Second)
		for _, id := range []string{late, prefetched} {
			if s := g.want(id, task.Cancelled); s.Reason != task.ReasonExpired || ran[id] != 0 {
				t.Errorf("reason %q, %d runs", s.Reason, ran[id])
			}
		}
		g.want(fine, task.Succeeded)
	})
}

func TestRetention(t *testing.T) {
	hour := time.Hour
	meta := func(key, value string) edit {
		return func(e *task.Envelope) { e.Meta = map[string]json.RawMessage{key: json.RawMessage(value)} }
	}
	for _, c := range []struct {
		name string
		task *time.Duration
		edit edit
		want time.Duration
	}{
		{"the worker's", nil, func(*task.Envelope) {}, 24 * time.Hour},
		{"the task's", &hour, func(*task.Envelope) {}, time.Hour},
		{"the envelope's", &hour, meta(task.MetaRetention, "60000"), time.Minute},
		{"for ever", &hour, meta(task.MetaRetention, "-1"), task.Forever},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, g *rig) {
				g.noop("t")
				g.tasks["t"].Keep = c.task
				g.start()
				id := g.publish("t", c.edit)
				settle()
				s := g.want(id, task.Succeeded)
				got := task.Forever
				if !s.ExpiresAt.IsZero() {
					got = s.ExpiresAt.Sub(s.FinishedAt)
				}
				if got != c.want {
					t.Errorf("kept for %s, want %s", got, c.want)
				}
			})
		})
	}
	t.Run("not at all", func(t *testing.T) {
		inBubble(t, func(t *testing.T, g *rig) {
			g.noop("t")
			g.start()
			id := g.publish("t", meta(task.MetaRetention, "0"))
			settle()
			found, err := g.results.Get(context.Background(), id)
			if err != nil || !errors.Is(found[0].Err, store.ErrNotFound) {
				t.Errorf("status %+v, %v; want none", found, err)
			}
		})
	})
	t.Run("result ignored", func(t *testing.T) {
		inBubble(t, func(t *testing.T, g *rig) {
			g.handle("t", func(context.Context, *runner.Job) (json.RawMessage, error) { return json.RawMessage(`1`), nil })
			g.start()
			id := g.publish("t", meta(task.MetaIgnoreResult, "true"))
			settle()
			if s := g.want(id, task.Succeeded); s.Result != nil {
				t.Errorf("result %s, want none", s.Result)
			}
		})
	})
}
