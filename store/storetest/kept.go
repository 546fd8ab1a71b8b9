package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testS5: the outbox stays until it is cleared, and its record with it.
func testS5(e *env) {
	if o, ok := e.Results.(store.Outboxes); ok && e.Outboxes == nil {
		e.Errorf("%T has Outboxes, and Backend.Outboxes is not set", o)
	}
	withOutbox := func(id string, keep time.Duration) store.Record {
		r := outcomeOf(id, 1, task.Succeeded)
		r.Outcome.Keep = keep
		r.Followups = []broker.Publication{{Envelope: envelope("f")}}
		return r
	}
	for _, r := range []store.Record{withOutbox("brief", e.o.Keep), withOutbox("none", 0)} {
		e.start(startOf(r.ID, 1))
		e.record(r)
	}
	claims := outcomeOf("claims", 1, task.Succeeded) // claims alone make an outbox too
	claims.Outcome.Keep, claims.Release = 0, []string{"c"}
	e.record(claims)
	retry := outcomeOf("retry", 1, task.Retried) // and so does a retry
	e.record(retry)
	listed(e, "brief", "claims", "none", "retry")
	over := time.Now().Add(e.o.Keep + e.o.Keep/2)
	for time.Now().Before(over) {
		for _, id := range []string{"brief", "none", "claims"} {
			e.state("with an outbox", id, task.Succeeded)
		}
		time.Sleep(10 * poll)
	}
	if a := e.update(startOf("brief", 4)); a.Stored == nil || len(a.Stored.Followups) != 1 {
		e.Fatalf("a start that finds an outbox: got %+v", a)
	}
	e.clear("brief", 1) // by one who is too late
	if a := e.update(startOf("brief", 5)); a.Stored == nil || len(a.Stored.Followups) != 1 {
		e.Errorf("after a Clear of an older epoch: got %+v, want the outbox still", a)
	}
	e.clear("brief", 5)
	e.clear("none", 1)
	e.clear("claims", 1)
	e.clear("unknown", 1)
	listed(e, "retry")
	e.gone("Keep 0, after Clear", "none", 0)
	e.gone("Keep 0, after Clear", "claims", 0)
	e.gone("its time has passed, after Clear", "brief", e.o.Keep+2*second)

	u := startOf("retry", 2)
	u.Attempt = 1
	e.start(u)
	listed(e) // a later attempt's start ends the outbox
	kept := withOutbox("kept", long)
	e.record(kept)
	e.clear("kept", 1)
	if a := e.update(startOf("kept", 2)); a.Stored == nil || len(a.Stored.Followups) != 0 || a.Stored.Outcome.State != task.Succeeded {
		e.Errorf("a start after Clear: got %+v, want the outcome without an outbox", a)
	}
}

// listed checks what ListOutboxes finds, in pages.
func listed(e *env, want ...string) {
	e.Helper()
	if e.Outboxes == nil {
		return
	}
	got, cursor := []string{}, ""
	for range 10 {
		page, next, err := e.Outboxes.ListOutboxes(e.ctx, time.Now().Add(time.Minute), broker.Page{Limit: 3, Cursor: cursor})
		if err != nil || len(page) > 3 {
			e.Fatalf("ListOutboxes: %d in a page of three, error %v", len(page), err)
		}
		for _, r := range page {
			got = append(got, r.ID)
			if r.Outcome.State == task.Succeeded && len(r.Followups)+len(r.Release) != 1 {
				e.Errorf("ListOutboxes: %s comes without its outbox: %+v", r.ID, r)
			}
		}
		if cursor = next; next == "" {
			break
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, append([]string{}, want...)) {
		e.Errorf("outboxes: got %v, want %v", got, want)
	}
	old, _, err := e.Outboxes.ListOutboxes(e.ctx, time.Now().Add(-time.Minute), broker.Page{})
	if err != nil || len(old) != 0 {
		e.Errorf("outboxes of a minute ago: got %d, error %v", len(old), err)
	}
}

// testS7: terminal records go when their time has come.
func testS7(e *env) {
	began := time.Now()
	for i, s := range []task.State{task.Succeeded, task.Cancelled, task.Failed} {
		for keep, d := range map[string]time.Duration{"brief": e.o.Keep, "zero": 0, "ever": task.Forever, "long": long} {
			r := outcomeOf(fmt.Sprintf("%s-%s", keep, s), 1, s)
			r.Outcome.Keep = d
			if i == 0 {
				e.start(startOf(r.ID, 1))
			}
			e.record(r)
			e.clear(r.ID, 1)
		}
	}
	if s, kept := e.find("zero-failed"); kept {
		e.Errorf("a failed status with Keep 0 is kept: %+v", s)
	}
	for _, s := range []task.State{task.Succeeded, task.Cancelled} {
		if _, kept := e.find("zero-" + string(s)); kept {
			e.Errorf("a %s status with Keep 0 is kept", s)
		}
		st := e.get("long-" + string(s))
		if left := st.ExpiresAt.Sub(st.FinishedAt); (left - long).Abs() > second+e.o.Slack {
			e.Errorf("a %s status kept for %s says it goes %s after its end", s, long, left)
		}
		if st := e.get("ever-" + string(s)); !st.ExpiresAt.IsZero() {
			e.Errorf("a %s status kept for ever says it goes at %s", s, st.ExpiresAt)
		}
		at := e.gone("its time has passed", "brief-"+string(s), e.o.Keep+2*second)
		if held := at.Sub(began); held < e.o.Keep-early {
			e.Errorf("a %s status kept for %s is gone after %s", s, e.o.Keep, held)
		}
	}
	time.Sleep(time.Until(began.Add(e.o.Keep + e.o.Keep/2)))
	for _, id := range []string{"brief-failed", "ever-failed", "long-failed"} {
		e.state("whatever its Keep", id, task.Failed)
	}
	e.is("Requeue", e.requeue("brief-failed", 2, 1, now()), nil)
	e.state("requeued", "brief-failed", task.Queued)
	l, err := e.Results.List(e.ctx, store.Query{})
	if err != nil {
		e.Fatalf("List: %v", err)
	}
	for _, s := range l.Statuses {
		if strings.HasPrefix(s.ID, "brief") && s.State.Terminal() || s.ID == "zero-succeeded" || s.ID == "zero-cancelled" {
			e.Errorf("List has %s, whose time has passed", s.ID)
		}
	}
}

// testS8: Get answers in order.
func testS8(e *env) {
	if found, err := e.Results.Get(e.ctx); err != nil || len(found) != 0 {
		e.Errorf("Get of nothing: got %+v, error %v", found, err)
	}
	e.create("a", "b", "c")
	ids := []string{"c", "none", "a", "c", "b", "no/id"}
	found, err := e.Results.Get(e.ctx, ids...)
	if err != nil || len(found) != len(ids) {
		e.Fatalf("Get of %v: %d answers, error %v", ids, len(found), err)
	}
	for i, f := range found {
		if known := len(ids[i]) == 1; known && (f.Err != nil || f.Status.ID != ids[i]) || !known && !errors.Is(f.Err, store.ErrNotFound) {
			e.Errorf("answer %d, for %s: got %s, error %v", i, ids[i], f.Status.ID, f.Err)
		}
	}
	var many []string
	for i := range 250 {
		many = append(many, fmt.Sprintf("m%03d", i))
	}
	e.create(many...)
	slices.Reverse(many)
	if found, err = e.Results.Get(e.ctx, many...); err != nil || len(found) != len(many) {
		e.Fatalf("Get of %d: %d answers, error %v", len(many), len(found), err)
	}
	for i, f := range found {
		if f.Err != nil || f.Status.ID != many[i] {
			e.Fatalf("answer %d, for %s: got %s, error %v", i, many[i], f.Status.ID, f.Err)
		}
	}
	if e.o.Reopen != nil {
		other := *e
		other.Backend = e.o.Reopen(e.TB, e.Backend)
		other.state("through another handle", "a", task.Queued)
	}
}

// testS10: only what has finished is deleted.
func testS10(e *env) {
	var ids []string
	for _, s := range task.States() {
		e.in(s, string(s))
		ids = append(ids, string(s))
	}
	ids = append(ids, "unknown")
	errs, err := e.Results.Delete(e.ctx, ids...)
	if err != nil || len(errs) != len(ids) {
		e.Fatalf("Delete: %d answers, error %v", len(errs), err)
	}
	for i, s := range task.States() {
		want := error(nil)
		if !s.Terminal() {
			want = store.ErrNotFinished
		}
		e.is("Delete of a task that is "+string(s), errs[i], want)
		if _, kept := e.find(string(s)); kept == s.Terminal() {
			e.Errorf("after Delete, a task that was %s is kept: %v", s, kept)
		}
	}
	e.is("Delete of an unknown id", errs[len(errs)-1], store.ErrNotFound)
	e.create("succeeded") // the id is free again
}

// testS11: what of errors, args and results is kept.
func testS11(e *env) {
	args := json.RawMessage(`"` + strings.Repeat("ä", 900) + `"`)
	v := envelope("a")
	v.Args = args
	e.createAll([]task.Status{task.NewStatus(v)})
	for attempt := range 13 {
		epoch := int64(attempt + 1)
		u := startOf("a", epoch)
		u.Attempt, u.Envelope = attempt, v
		e.start(u)
		r := outcomeOf("a", epoch, task.Retried)
		r.Outcome.Attempt = attempt + 1
		r.Outcome.Error.Message, r.Outcome.Error.Attempt = fmt.Sprintf("boom %d", attempt), attempt
		r.Outcome.Error.Stack = "line 1\nline 2"
		e.record(r)
		e.clear("a", epoch)
	}
	s := e.get("a")
	if len(s.Errors) != task.MaxAttemptErrors || s.Errors[0].Message != "boom 3" || s.Errors[9].Message != "boom 12" {
		e.Errorf("errors of thirteen attempts: got %d, %+v", len(s.Errors), s.Errors)
	}
	if s.Error == nil || s.Error.Message != "boom 12" || s.Error.Stack != "line 1\nline 2" || !s.Error.Retryable || s.Error.Attempt != 12 {
		e.Errorf("the newest error: got %+v", s.Error)
	}
	if string(s.Args) != string(task.KeepArgs(args)) || len(s.Args) > 1200 {
		e.Errorf("of %d bytes of args %d are kept: %.60s", len(args), len(s.Args), s.Args)
	}
	for _, state := range []task.State{task.Succeeded, task.Cancelled, task.Failed} {
		b := envelope("bare-" + string(state))
		b.Meta = map[string]json.RawMessage{task.MetaKeepArgs: json.RawMessage("false")}
		e.createAll([]task.Status{task.NewStatus(b)})
		e.record(outcomeOf(b.ID, 1, state))
		if got := e.get(b.ID).Args; (len(got) > 0) != (state == task.Failed) {
			e.Errorf("a %s status that is to keep no args: got %s", state, got)
		}
	}
	for i, result := range []string{
		`{ "b" : 1.0, "a":12345678901234567890,  "e":[] }`, "\"\\u0000 \\ud83d\\ude00 ü\"", `null`, `[1e400]`, ``,
		`"` + strings.Repeat("y", 300_000) + `"`,
	} {
		r := outcomeOf(fmt.Sprintf("r%d", i), 1, task.Succeeded)
		if r.Outcome.Result = json.RawMessage(result); result == "" {
			r.Outcome.Result = nil
		}
		e.record(r)
		if got := string(e.get(r.ID).Result); got != result {
			e.Errorf("result %.80s: got %.80s", result, got)
		}
	}
}
