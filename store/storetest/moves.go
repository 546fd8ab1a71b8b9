package storetest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testS1: the first status of an id stays.
func testS1(e *env) {
	first := task.NewStatus(envelope("a"))
	first.NotBefore = now().Add(long)
	e.createAll([]task.Status{first, task.NewStatus(envelope("b"))})
	if got := e.get("a"); !reflect.DeepEqual(got, first) {
		e.Errorf("created %+v\ngot     %+v", first, got)
	}
	second := task.NewStatus(envelope("a"))
	second.Queue, second.Name = "other", "other.task"
	e.unchanged("a second Create", "a", func() {
		errs := e.tryCreate([]task.Status{second, task.NewStatus(envelope("c")), task.NewStatus(envelope("c"))})
		e.is("creating a again", errs[0], store.ErrExists)
		e.is("creating c", errs[1], nil)
		e.is("creating c again in one batch", errs[2], store.ErrExists)
	})
	e.start(startOf("d", 3)) // a start comes before its Create
	e.unchanged("a Create after the start", "d", func() {
		e.is("creating a started task", e.tryCreate([]task.Status{task.NewStatus(envelope("d"))})[0], store.ErrExists)
	})
	e.record(outcomeOf("b", 1, task.Succeeded))
	e.is("creating a succeeded task", e.tryCreate([]task.Status{task.NewStatus(envelope("b"))})[0], store.ErrExists)
	e.state("after Create of it", "b", task.Succeeded)
}

// testS2: starts and progress, by epoch.
func testS2(e *env) {
	e.create("a")
	u := startOf("a", 3)
	u.At = u.At.Add(-second) // it was told late
	e.start(u)
	s := e.get("a")
	if s.State != task.Running || s.Epoch != 3 || s.Worker != "worker-3" || !s.StartedAt.Equal(u.At) || s.Starts != 1 {
		e.Errorf("after a start at epoch 3: got %+v", s)
	}
	progress := func(epoch int64, percent float64) store.Answer {
		return e.update(store.Update{
			Key: store.Key{ID: "a", Epoch: epoch}, Worker: "worker-3",
			Progress: &task.Progress{Percent: percent, Data: json.RawMessage(fmt.Sprint(percent)), At: now()},
		})
	}
	for _, p := range []float64{10, 50} {
		if a := progress(3, p); a.Err != nil {
			e.Errorf("progress: %v", a.Err)
		}
		if got := e.get("a").Progress; got == nil || got.Percent != p || string(got.Data) != fmt.Sprint(p) {
			e.Errorf("progress is %+v, want %v", got, p)
		}
	}
	e.unchanged("an older epoch", "a", func() {
		e.is("progress of an older epoch", progress(2, 90).Err, store.ErrStale)
		e.is("a start of an older epoch", e.update(startOf("a", 2)).Err, store.ErrStale)
	})
	e.start(startOf("a", 7)) // redelivered
	e.start(startOf("a", 7)) // and told twice
	if s := e.get("a"); s.Epoch != 7 || s.Worker != "worker-7" || s.Starts != 2 || s.State != task.Running || s.Progress != nil {
		e.Errorf("after a start at epoch 7: got %+v", s)
	}
	e.is("progress of the run before", progress(3, 60).Err, store.ErrStale)

	u = startOf("unknown", 2)
	u.Start, u.Progress = false, &task.Progress{Percent: 5, At: now()}
	e.update(u)
	if s, kept := e.find("unknown"); kept {
		e.Errorf("progress of an unknown task made a record: %+v", s)
	}
	u = startOf("unknown", 2)
	e.start(u)
	if s := e.get("unknown"); s.State != task.Running || s.Name != "demo.task" || s.Queue != "q" || s.Epoch != 2 || string(s.Args) != `{"n":1}` {
		e.Errorf("after a start without a record: got %+v", s)
	}

	e.in(task.Retried, "r")
	u = startOf("r", 11)
	u.Attempt = 1
	e.start(u)
	if s := e.get("r"); s.State != task.Running || s.Attempt != 1 || s.Starts != 1 || len(s.Errors) != 1 {
		e.Errorf("after the start of a retry: got %+v", s)
	}
	out, err := e.Results.Update(e.ctx, []store.Update{startOf("a", 1), startOf("b", 1)})
	if err != nil || len(out) != 2 {
		e.Fatalf("Update of two: %+v, error %v", out, err)
	}
	e.is("the stale one of two", out[0].Err, store.ErrStale)
	e.is("the good one of two", out[1].Err, nil)
}

// testS3: a start of what has an outcome already answers it.
func testS3(e *env) {
	for _, s := range []task.State{task.Succeeded, task.Failed, task.Cancelled, task.Retried} {
		id := "at-" + string(s)
		e.create(id)
		e.start(startOf(id, 1))
		r := outcomeOf(id, 1, s)
		r.Release = []string{"claim"}
		r.Followups = []broker.Publication{{
			Envelope: envelope("f-" + id), Claims: []broker.Claim{{Key: "k", For: long}}, Limits: []string{"l"},
			Hold: "h", Group: &broker.Member{Group: "g", Index: 2},
		}}
		e.record(r)
		for epoch := int64(2); epoch < 4; epoch++ { // found again by the next one, too
			stored(e, epoch, r)
		}
		other := task.Failed
		if s == task.Failed {
			other = task.Succeeded
		}
		e.is("another outcome of an epoch before", e.tryRecord(outcomeOf(id, 1, other)), store.ErrStale)
		e.state("after a start", id, s)
	}
	u := startOf("at-retried", 5)
	u.Attempt = 1 // the next attempt, though the outbox was not cleared
	e.start(u)
	e.state("the next attempt's start", "at-retried", task.Running)

	e.in(task.Retried, "cleared")
	u = startOf("cleared", 12)
	u.Attempt = 1
	e.start(u)
	e.state("a retry whose outbox is cleared", "cleared", task.Running)

	e.in(task.Failed, "replayed")
	e.is("Requeue", e.requeue("replayed", 11, 1, now()), nil)
	u = startOf("replayed", 12)
	u.Attempt, u.Replays = 1, 1
	e.start(u)
	e.state("a start after a replay", "replayed", task.Running)

	e.in(task.Failed, "ahead") // the start comes before the Requeue of its replay
	u = startOf("ahead", 12)
	u.Attempt, u.Replays = 1, 1
	e.start(u)
	e.state("a start ahead of its replay's Requeue", "ahead", task.Running)
}

// stored starts a task whose outcome r is stored, at that epoch.
func stored(e *env, epoch int64, r store.Record) {
	e.Helper()
	a := e.update(startOf(r.ID, epoch))
	if a.Err != nil || a.Stored == nil {
		e.Fatalf("start of %s, whose outcome is stored: got error %v, stored %+v", r.ID, a.Err, a.Stored)
	}
	got, want := a.Stored.Outcome, r.Outcome
	if got.State != want.State || string(got.Result) != string(want.Result) || got.Reason != want.Reason ||
		got.Attempt != want.Attempt || !got.NotBefore.Equal(want.NotBefore) || !reflect.DeepEqual(got.Error, want.Error) {
		e.Errorf("the stored outcome of %s: got %+v, want %+v", r.ID, got, want)
	}
	if !reflect.DeepEqual(a.Stored.Release, r.Release) || len(a.Stored.Followups) != len(r.Followups) {
		e.Fatalf("the stored outbox of %s: got %+v, want %+v", r.ID, a.Stored, r)
	}
	for i, f := range a.Stored.Followups {
		x, err1 := task.Encode(f.Envelope)
		y, err2 := task.Encode(r.Followups[i].Envelope)
		f.Envelope = r.Followups[i].Envelope
		if err1 != nil || err2 != nil || string(x) != string(y) || !reflect.DeepEqual(f, r.Followups[i]) {
			e.Errorf("follow-up %d of %s: got %+v (%s), want %+v (%s)", i, r.ID, f, x, r.Followups[i], y)
		}
	}
	if s := e.get(r.ID); s.Epoch != epoch || s.State != want.State {
		e.Errorf("after a start that found it, %s has epoch %d and state %s; want %d, %s", r.ID, s.Epoch, s.State, epoch, want.State)
	}
}

// legal is what rule S4 accepts at a newer epoch.
func legal(from, to task.State) bool {
	return task.CanMove(from, to) || (from == task.Queued || from == task.Retried) && task.CanMove(task.Running, to)
}

// testS4: outcomes by epoch and legal move.
func testS4(e *env) {
	for _, from := range task.States() {
		for _, to := range task.States() {
			if to == task.Running || from == task.Failed && to == task.Queued {
				continue // no outcome; and a replay's move, which is Requeue's
			}
			move(e, from, to)
		}
	}
	e.create("a")
	e.start(startOf("a", 1))
	r := outcomeOf("a", 1, task.Succeeded)
	e.record(r)
	s := e.get("a")
	if s.State != task.Succeeded || s.Attempt != 1 || string(s.Result) != `{"ok": true}` || !s.FinishedAt.Equal(r.Outcome.EndedAt) ||
		!s.StartedAt.Equal(r.Outcome.StartedAt) || s.Worker != "worker-1" || s.Error != nil {
		e.Errorf("after success: got %+v", s)
	}
	e.unchanged("the same outcome again", "a", func() { e.is("the same outcome again", e.tryRecord(r), nil) })

	r = outcomeOf("unknown", 4, task.Failed)
	e.record(r)
	if s := e.get("unknown"); s.State != task.Failed || s.Name != "demo.task" || s.Epoch != 4 || s.Reason != task.ReasonPermanent || s.Error == nil {
		e.Errorf("after an outcome without a record: got %+v", s)
	}

	e.create("r")
	e.start(startOf("r", 1))
	r = outcomeOf("r", 1, task.Retried)
	e.record(r)
	e.record(r) // its error is not remembered twice
	if s := e.get("r"); s.State != task.Retried || s.Attempt != 1 || s.Starts != 0 || !s.NotBefore.Equal(r.Outcome.NotBefore) || len(s.Errors) != 1 {
		e.Errorf("after a retry, recorded twice: got %+v", s)
	}
	errs, err := e.Results.Record(e.ctx, []store.Record{outcomeOf("a", 9, task.Failed), outcomeOf("b", 1, task.Cancelled)})
	if err != nil || len(errs) != 2 {
		e.Fatalf("Record of two: %v, error %v", errs, err)
	}
	e.is("the illegal one of two", errs[0], store.ErrStale)
	e.is("the good one of two", errs[1], nil)
}

// move tries one move at an older and at a newer epoch.
func move(e *env, from, to task.State) {
	e.Helper()
	id := fmt.Sprintf("%s-%s", from, to)
	what := fmt.Sprintf("%s to %s", from, to)
	e.in(from, id)
	e.unchanged(what+" at an older epoch", id, func() {
		e.is(what+" at an older epoch", e.tryRecord(outcomeOf(id, 9, to)), store.ErrStale)
	})
	if legal(from, to) {
		e.is(what, e.tryRecord(outcomeOf(id, 11, to)), nil)
		if s := e.get(id); s.State != to || s.Epoch != 11 {
			e.Errorf("%s: state %s, epoch %d", what, s.State, s.Epoch)
		}
		return
	}
	e.unchanged(what+", which is illegal,", id, func() {
		e.is(what, e.tryRecord(outcomeOf(id, 11, to)), store.ErrStale)
	})
}

// testS6: a replay's move, once.
func testS6(e *env) {
	e.in(task.Failed, "a")
	at := now()
	e.is("Requeue", e.requeue("a", 12, 1, at), nil)
	s := e.get("a")
	if s.State != task.Queued || s.Epoch != 12 || s.ReplayCount != 1 || !s.LastReplayAt.Equal(at) || s.Attempt != 1 ||
		s.Reason != "" || !s.FinishedAt.IsZero() || !s.ExpiresAt.IsZero() {
		e.Errorf("after Requeue: got %+v", s)
	}
	e.is("an outcome of before the replay", e.tryRecord(outcomeOf("a", 11, task.Succeeded)), store.ErrStale)
	u := startOf("a", 13)
	u.Attempt, u.Replays = 1, 1
	e.start(u)
	e.unchanged("the same Requeue again", "a", func() { _ = e.requeue("a", 12, 1, at) })
	r := outcomeOf("a", 13, task.Failed)
	r.Outcome.Attempt = 2
	e.record(r)
	e.unchanged("the same Requeue after the second death", "a", func() { _ = e.requeue("a", 12, 1, at) })
	e.unchanged("a Requeue of an older epoch", "a", func() { _ = e.requeue("a", 12, 2, at) })
	e.is("the second replay's Requeue", e.requeue("a", 14, 2, at.Add(second)), nil)
	if s := e.get("a"); s.State != task.Queued || s.ReplayCount != 2 || s.Epoch != 14 || len(s.Errors) != 2 {
		e.Errorf("after the second Requeue: got %+v", s)
	}
	for _, from := range []task.State{task.Succeeded, task.Cancelled} {
		id := "not-" + string(from)
		e.in(from, id)
		e.unchanged("Requeue of a task that is "+string(from), id, func() { _ = e.requeue(id, 12, 1, at) })
	}
	e.is("Requeue of an unknown id", e.requeue("unknown", 2, 1, at), store.ErrNotFound)
	if _, kept := e.find("unknown"); kept {
		e.Errorf("Requeue made a record")
	}
	e.in(task.Failed, "ahead") // its start was told of the replay first
	u = startOf("ahead", 13)
	u.Attempt, u.Replays = 1, 1
	e.start(u)
	_ = e.requeue("ahead", 12, 1, time.Now())
	e.state("a Requeue that comes after the start", "ahead", task.Running)
	edited(e)
}

// edited: a replay may have changed the arguments, and shows it.
func edited(e *env) {
	v := *envelope("told")
	v.Args, v.MaxRetries = json.RawMessage(`{"edited":true}`), 9
	v.Meta = map[string]json.RawMessage{task.MetaEdited: json.RawMessage(`{"args":null}`)}
	shown := func(what, id string) {
		e.Helper()
		if s := e.get(id); string(s.Args) != `{"edited":true}` || s.Meta[task.MetaEdited] == nil || s.MaxRetries != 9 {
			e.Errorf("%s: got args %s, meta %s, %d retries", what, s.Args, s.Meta, s.MaxRetries)
		}
	}
	e.in(task.Failed, "told")
	t := broker.ReplayedTask{ID: "told", Epoch: 12, ReplayCount: 1, ReplayedAt: now(), Envelope: &v}
	if errs, err := e.Results.Requeue(e.ctx, []broker.ReplayedTask{t}); err != nil || errs[0] != nil {
		e.Errorf("Requeue with an edit: %v, %v", errs, err)
	}
	shown("after a Requeue with an edit", "told")
	e.in(task.Failed, "untold")
	u := startOf("untold", 13)
	other := v
	other.ID = "untold"
	u.Attempt, u.Replays, u.Envelope = 1, 1, &other
	e.start(u)
	shown("after the start of an edited replay", "untold")
}
