package runner_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

func TestElsewhere(t *testing.T) {
	now := time.Now()
	e := runner.Elsewhere{Worker: "w"}
	delivery := func(attempt, base, starts int) *broker.Delivery {
		return &broker.Delivery{
			Receipt: broker.Receipt{ID: "i", Epoch: 3}, Attempt: attempt, RetryBase: base, Starts: starts,
			Envelope: &task.Envelope{ID: "i", Name: "a", MaxRetries: 2, Meta: map[string]json.RawMessage{
				task.MetaRetention: json.RawMessage("1000"), task.MetaIgnoreResult: json.RawMessage("true"),
			}},
		}
	}
	o := e.Succeeded(delivery(1, 0, 0), now, json.RawMessage("1"), now).Outcome
	if o.State != task.Succeeded || o.Attempt != 2 || o.Result != nil || o.Keep != time.Second || o.Worker != "w" {
		t.Errorf("a success: %+v", o)
	}
	if o = e.Succeeded(delivery(0, 0, 0), now, json.RawMessage("{"), now).Outcome; o.Reason != task.ReasonResultInvalid {
		t.Errorf("a result that is no JSON: %+v", o)
	}
	raised := &runner.RemoteError{Type: "ValueError", Message: "no", Stack: "line 1"}
	for _, c := range []struct {
		attempt, base int
		state         task.State
	}{{0, 0, task.Retried}, {1, 0, task.Retried}, {2, 0, task.Failed}, {3, 2, task.Retried}, {4, 2, task.Failed}} {
		o := e.Failed(delivery(c.attempt, c.base, 0), now, raised, now).Outcome
		if o.State != c.state || o.Attempt != c.attempt+1 || o.Error.Type != "ValueError" || o.Error.Stack != "line 1" {
			t.Errorf("attempt %d of base %d: %+v %+v", c.attempt, c.base, o, o.Error)
		}
	}
	if o = e.Failed(delivery(0, 0, 0), now, &runner.PermanentError{Err: &runner.RemoteError{}, Reason: "r"}, now).Outcome; o.Reason != "r" || o.Error.Type != "error" {
		t.Errorf("a permanent failure: %+v %+v", o, o.Error)
	}
	if o = e.GivenBack(delivery(1, 0, 0), now).Outcome; o.State != task.Queued || o.Attempt != 1 || !o.NotBefore.IsZero() {
		t.Errorf("given back: %+v", o)
	}
	if _, no := e.Refuse(delivery(0, 0, 9), now); no {
		t.Error("the tenth start is refused")
	}
	if s, no := e.Refuse(delivery(0, 0, 10), now); !no || s.Outcome.Reason != task.ReasonCrashLoop || s.Receipt.Epoch != 3 {
		t.Errorf("the eleventh: %+v, %v", s, no)
	}
	old := delivery(0, 0, 0)
	old.Envelope.ExpiresAt = now.Add(-time.Second)
	if s, no := e.Refuse(old, now); !no || s.Outcome.State != task.Cancelled {
		t.Errorf("an expired one: %+v, %v", s, no)
	}
}
