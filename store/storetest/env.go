package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

const (
	// long is a retention that does not end in a test.
	long = 10 * time.Minute
	// early is by how much a moment kept in whole milliseconds may come early.
	early = 2 * time.Millisecond
	// second is the unit of the bounds that rules name.
	second = time.Second
	// poll is the pause between two looks.
	poll = 5 * time.Millisecond
)

// env is one rule's backend with what its test needs.
type env struct {
	testing.TB
	Backend
	o   Options
	ctx context.Context
}

func newEnv(t testing.TB, o Options) *env {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return &env{TB: t, Backend: o.Open(t), o: o, ctx: ctx}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// envelope returns a valid envelope.
func envelope(id string) *task.Envelope {
	return &task.Envelope{
		ID: id, Name: "demo.task", Queue: "q", Args: json.RawMessage(`{"n":1}`), EnqueuedAt: now(),
		Priority: task.DefaultPriority, MaxRetries: 3,
		Meta: map[string]json.RawMessage{task.MetaUser: json.RawMessage(`{"k":"v"}`)},
	}
}

// create stores the status of an envelope for each id.
func (e *env) create(ids ...string) {
	e.Helper()
	var batch []task.Status
	for _, id := range ids {
		batch = append(batch, task.NewStatus(envelope(id)))
	}
	e.createAll(batch)
}

func (e *env) createAll(batch []task.Status) {
	e.Helper()
	for i, err := range e.tryCreate(batch) {
		if err != nil {
			e.Fatalf("Create of %s: %v", batch[i].ID, err)
		}
	}
}

func (e *env) tryCreate(batch []task.Status) []error {
	e.Helper()
	errs, err := e.Results.Create(e.ctx, batch)
	if err != nil || len(errs) != len(batch) {
		e.Fatalf("Create of %d: %d answers, error %v", len(batch), len(errs), err)
	}
	return errs
}

// get returns the status of id, which must be there.
func (e *env) get(id string) task.Status {
	e.Helper()
	s, ok := e.find(id)
	if !ok {
		e.Fatalf("%s has no status", id)
	}
	return s
}

// find returns the status of id, and whether there is one.
func (e *env) find(id string) (task.Status, bool) {
	e.Helper()
	found, err := e.Results.Get(e.ctx, id)
	if err != nil || len(found) != 1 {
		e.Fatalf("Get of %s: %d answers, error %v", id, len(found), err)
	}
	if err := found[0].Err; err != nil && !errors.Is(err, store.ErrNotFound) {
		e.Fatalf("Get of %s: %v", id, err)
	}
	return found[0].Status, found[0].Err == nil
}

// state checks the state of id.
func (e *env) state(what, id string, want task.State) {
	e.Helper()
	if got := e.get(id).State; got != want {
		e.Errorf("%s: state of %s is %s, want %s", what, id, got, want)
	}
}

// gone looks until id has no status, and says when that was.
func (e *env) gone(what, id string, within time.Duration) time.Time {
	e.Helper()
	began := time.Now()
	for {
		if _, kept := e.find(id); !kept {
			return time.Now()
		}
		if passed := time.Since(began); passed > within+e.o.Slack {
			e.Fatalf("%s: %s is kept still after %s", what, id, passed)
		}
		time.Sleep(poll)
	}
}

// unchanged runs act, and checks that the status of id is as it was.
func (e *env) unchanged(what, id string, act func()) {
	e.Helper()
	before := e.get(id)
	act()
	if after := e.get(id); !reflect.DeepEqual(before, after) {
		e.Errorf("%s changed %s:\n%+v\n%+v", what, id, before, after)
	}
}

// update applies one update.
func (e *env) update(u store.Update) store.Answer {
	e.Helper()
	out, err := e.Results.Update(e.ctx, []store.Update{u})
	if err != nil || len(out) != 1 {
		e.Fatalf("Update of one: %d answers, error %v", len(out), err)
	}
	return out[0]
}

// startOf is the start of a first attempt.
func startOf(id string, epoch int64) store.Update {
	return store.Update{
		Key: store.Key{ID: id, Epoch: epoch}, Start: true, Worker: fmt.Sprintf("worker-%d", epoch),
		At: now(), Envelope: envelope(id),
	}
}

// start applies a start that must succeed and find nothing.
func (e *env) start(u store.Update) {
	e.Helper()
	if a := e.update(u); a.Err != nil || a.Stored != nil {
		e.Fatalf("start of %s at epoch %d: got error %v, stored %+v", u.ID, u.Epoch, a.Err, a.Stored)
	}
}

// outcomeOf is a plausible outcome at that epoch, as of attempt 0.
func outcomeOf(id string, epoch int64, s task.State) store.Record {
	at := now()
	o := task.Outcome{State: s, Attempt: 1, Worker: fmt.Sprintf("worker-%d", epoch), StartedAt: at, EndedAt: at, Keep: long}
	failure := &task.Error{Type: "demo.Error", Message: "boom", Retryable: true, At: at}
	switch s {
	case task.Queued:
		o.Attempt, o.StartedAt = 0, time.Time{}
	case task.Retried:
		o.Error, o.NotBefore = failure, at.Add(time.Hour)
	case task.Failed:
		o.Error, o.Reason = failure, task.ReasonPermanent
	case task.Cancelled:
		o.Attempt, o.StartedAt, o.Reason = 0, time.Time{}, task.ReasonExpired
	case task.Succeeded:
		o.Result = json.RawMessage(`{"ok": true}`)
	}
	return store.Record{Key: store.Key{ID: id, Epoch: epoch}, Outcome: o, Envelope: envelope(id)}
}

// tryRecord records one outcome and returns its error.
func (e *env) tryRecord(r store.Record) error {
	e.Helper()
	errs, err := e.Results.Record(e.ctx, []store.Record{r})
	if err != nil || len(errs) != 1 {
		e.Fatalf("Record of one: %d answers, error %v", len(errs), err)
	}
	return errs[0]
}

// record records an outcome that must be accepted.
func (e *env) record(r store.Record) {
	e.Helper()
	if err := e.tryRecord(r); err != nil {
		e.Fatalf("Record of %s as %s at epoch %d: %v", r.ID, r.Outcome.State, r.Epoch, err)
	}
}

// clear clears the outbox of id at that epoch.
func (e *env) clear(id string, epoch int64) {
	e.Helper()
	if err := e.Results.Clear(e.ctx, []store.Key{{ID: id, Epoch: epoch}}); err != nil {
		e.Fatalf("Clear of %s: %v", id, err)
	}
}

// requeue requeues one and returns its error.
func (e *env) requeue(id string, epoch int64, count int, at time.Time) error {
	e.Helper()
	errs, err := e.Results.Requeue(e.ctx, []broker.ReplayedTask{{ID: id, Queue: "q", Epoch: epoch, ReplayCount: count, ReplayedAt: at}})
	if err != nil || len(errs) != 1 {
		e.Fatalf("Requeue of one: %d answers, error %v", len(errs), err)
	}
	return errs[0]
}

// is checks an error.
func (e *env) is(what string, err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// in brings a fresh task into a state, at epoch 10.
func (e *env) in(s task.State, id string) {
	e.Helper()
	e.create(id)
	switch s {
	case task.Queued:
		r := outcomeOf(id, 10, task.Queued) // released: queued at epoch 10
		e.start(startOf(id, 10))
		e.record(r)
	case task.Running:
		e.start(startOf(id, 10))
	default:
		e.start(startOf(id, 10))
		e.record(outcomeOf(id, 10, s))
		e.clear(id, 10)
	}
	e.state("made so", id, s)
}

// ending returns a close that a test may call, and what its end calls: it closes what
// the test has not, and reports what goes wrong.
func ending(t testing.TB, end func() error) (once func() error, last func()) {
	once = sync.OnceValue(end)
	return once, func() {
		t.Helper()
		if err := once(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}
