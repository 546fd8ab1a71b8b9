package runner_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// linked makes an envelope for a link.
func linked(name, args string) *task.Envelope {
	e := &task.Envelope{
		ID: task.NewID(), Name: name, Queue: "default", EnqueuedAt: time.Now().Add(-time.Hour),
		Priority: task.DefaultPriority, Headers: map[string]string{"tenant": "acme"},
	}
	if args != "" {
		e.Args = json.RawMessage(args)
	}
	return e
}

// withLinks puts links into the meta of an envelope.
func withLinks(t *testing.T, key string, es ...*task.Envelope) edit {
	t.Helper()
	raw, err := runner.EncodeLinks(es...)
	if err != nil {
		t.Fatalf("EncodeLinks: %v", err)
	}
	return func(e *task.Envelope) {
		if e.Meta == nil {
			e.Meta = map[string]json.RawMessage{}
		}
		e.Meta[key] = raw
	}
}

func TestLinksFollowSuccess(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		seen := map[string]*task.Envelope{}
		g.handle("next", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			seen[j.Envelope().ID] = j.Envelope()
			return nil, nil
		})
		g.handle("first", func(context.Context, *runner.Job) (json.RawMessage, error) { return json.RawMessage(`{"n":7}`), nil })
		g.start()
		byResult, own, onError := linked("next", ""), linked("next", `"mine"`), linked("next", "")
		id := g.publish("first", withLinks(t, task.MetaLinks, byResult, own), withLinks(t, task.MetaErrorLinks, onError),
			func(e *task.Envelope) { e.Meta[task.MetaIgnoreResult] = json.RawMessage("true") })
		now := time.Now()
		settle()
		g.want(id, task.Succeeded)
		for _, c := range []struct {
			e    *task.Envelope
			args string
		}{{byResult, `{"n":7}`}, {own, `"mine"`}} {
			got := seen[c.e.ID]
			if got == nil {
				t.Fatalf("link with args %q did not run", c.args)
			}
			if string(got.Args) != c.args || !got.EnqueuedAt.Equal(now) || got.Headers["tenant"] != "acme" {
				t.Errorf("args %s, enqueued %s, headers %v", got.Args, got.EnqueuedAt, got.Headers)
			}
			if p, r := string(got.Meta[task.MetaParent]), string(got.Meta[task.MetaRoot]); p != `"`+id+`"` || r != p {
				t.Errorf("parent %s, root %s; want both %s", p, r, id)
			}
		}
		if seen[onError.ID] != nil {
			t.Error("the error link ran after a success")
		}
	})
}

func TestErrorLinksFollowTheDeadLetterAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		var alarm box[*task.Envelope]
		g.handle("alarm", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			alarm.set(j.Envelope())
			return nil, nil
		})
		g.handle("fail", func(context.Context, *runner.Job) (json.RawMessage, error) { return nil, errBroken })
		g.start()
		id := g.publish("fail", withLinks(t, task.MetaErrorLinks, linked("alarm", "")), withLinks(t, task.MetaLinks, linked("nobody", "")),
			func(e *task.Envelope) { e.MaxRetries = 1; e.Meta[task.MetaRoot] = json.RawMessage(`"grandma"`) })
		settle()
		if alarm.get() != nil {
			t.Fatal("the error link ran after a retry")
		}
		after(time.Minute)
		g.want(id, task.Failed)
		var got struct{ Type, Message, ID string }
		args := alarm.get().Args
		if err := json.Unmarshal(args, &got); err != nil || got.Type != "error" || got.Message != "broken" || got.ID != id {
			t.Errorf("args %s (%v), want the error and the task's id", args, err)
		}
		if root := string(alarm.get().Meta[task.MetaRoot]); root != `"grandma"` {
			t.Errorf("root %s, want that of the parent", root)
		}
	})
}

// A link that cannot be read is no silent loss.
func TestUnreadableLinkFailsTheTask(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.noop("first")
		g.start()
		id := g.publish("first", func(e *task.Envelope) {
			e.Meta = map[string]json.RawMessage{task.MetaLinks: json.RawMessage(`[{"id":""}]`)}
		})
		settle()
		if s := g.want(id, task.Failed); s.Reason != task.ReasonResultInvalid {
			t.Errorf("reason %q", s.Reason)
		}
	})
}

func TestOnSuccess(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		ran := map[string]int{}
		g.handle("next", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			ran[j.Envelope().ID]++
			return nil, nil
		})
		first, second := linked("next", `1`), linked("next", `2`)
		var kept *runner.Job
		g.handle("first", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			kept = j
			if j.Delivery.Attempt == 0 {
				j.OnSuccess(broker.Publication{Envelope: first})
				return nil, errBroken
			}
			j.OnSuccess(broker.Publication{Envelope: second})
			return nil, nil
		})
		g.start()
		id := g.publish("first")
		after(10 * time.Second)
		g.want(id, task.Succeeded)
		if ran[first.ID] != 0 || ran[second.ID] != 1 {
			t.Errorf("of the failed attempt %d, of the successful one %d; want 0 and 1", ran[first.ID], ran[second.ID])
		}
		kept.OnSuccess(broker.Publication{Envelope: linked("next", `3`)}) // the execution is over
		kept.Progress(50, nil)
		kept.Heartbeat()
		after(time.Second)
		g.want(id, task.Succeeded)
		(&runner.Job{}).Progress(1, nil) // one that no runner made
		(&runner.Job{}).OnSuccess()
	})
}
