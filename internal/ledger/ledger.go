// Package ledger is what a result store makes of what a broker on another store
// tells it: the rules S2 to S6 of package store, as moves of one entry. A
// backend reads an entry, calls a method, and stores what is left, all in one
// step or by comparing versions.
//
// It imports broker, store and task.
package ledger

import (
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Entry is the status of a task whose broker is another store, with what must
// be known to answer a later start. Its JSON is what backends store.
type Entry struct {
	Status  task.Status `json:"status"`
	Result  []byte      `json:"result,omitempty"` // of Status, byte for byte
	Outcome *Outcome    `json:"outcome,omitempty"`

	// Outbox is when the outcome was recorded, in ms, while its outbox is not
	// cleared; else 0.
	Outbox int64 `json:"outbox,omitempty"`
}

// Outcome is a stored outcome with its outbox.
type Outcome struct {
	Epoch     int64                `json:"epoch"`
	State     task.State           `json:"state"`
	Result    []byte               `json:"result,omitempty"`
	Error     *task.Error          `json:"error,omitempty"`
	Reason    string               `json:"reason,omitempty"`
	NotBefore time.Time            `json:"notBefore,omitzero"`
	Attempt   int                  `json:"attempt"`
	Worker    string               `json:"worker,omitempty"`
	StartedAt time.Time            `json:"startedAt,omitzero"`
	EndedAt   time.Time            `json:"endedAt,omitzero"`
	Keep      time.Duration        `json:"keep"`
	Followups []broker.Publication `json:"followups,omitempty"`
	Release   []string             `json:"release,omitempty"`
}

func newOutcome(v *store.Record) *Outcome {
	o := &v.Outcome
	return &Outcome{
		Epoch: v.Epoch, State: o.State, Result: o.Result, Error: o.Error, Reason: o.Reason, NotBefore: o.NotBefore,
		Attempt: o.Attempt, Worker: o.Worker, StartedAt: o.StartedAt, EndedAt: o.EndedAt, Keep: o.Keep,
		Followups: v.Followups, Release: v.Release,
	}
}

// Record is the outcome as a start gets it.
func (o *Outcome) Record(id string) *store.Record {
	return &store.Record{
		Key: store.Key{ID: id, Epoch: o.Epoch},
		Outcome: task.Outcome{
			State: o.State, Result: o.Result, Error: o.Error, Reason: o.Reason, NotBefore: o.NotBefore,
			Attempt: o.Attempt, Worker: o.Worker, StartedAt: o.StartedAt, EndedAt: o.EndedAt, Keep: o.Keep,
		},
		Followups: o.Followups, Release: o.Release,
	}
}

// New is the entry of a task of which the store had not heard.
func New(id string, e *task.Envelope) *Entry {
	v := &Entry{Status: task.NewStatus(e)}
	v.Status.ID = id
	return v
}

// Update applies a start or progress at a moment by the store's clock. When
// the error is nil the entry is to be stored; a stored outcome that forbids the
// start is returned. The error is store.ErrStale.
func (v *Entry) Update(u *store.Update, now time.Time) (*store.Record, error) {
	st := &v.Status
	switch {
	case u.Epoch < st.Epoch:
		return nil, store.ErrStale
	case u.Start:
		if stored := v.forbids(u); stored != nil {
			st.Epoch = u.Epoch
			return stored, nil
		}
		v.start(u, now)
	case st.State != task.Running:
		return nil, store.ErrStale // its run has ended
	}
	if u.Progress != nil {
		st.Progress = u.Progress
	}
	return nil, nil
}

// forbids is the stored outcome that forbids a start: it belongs to the very
// execution that is about to begin again.
func (v *Entry) forbids(u *store.Update) *store.Record {
	st := &v.Status
	replayed := u.Replays > st.ReplayCount
	switch {
	case st.State == task.Failed && replayed:
		return nil
	case st.State.Terminal() && v.Outcome == nil:
		return v.created()
	case st.State.Terminal():
		return v.Outcome.Record(u.ID)
	case st.State == task.Retried && v.Outbox > 0 && u.Attempt < v.Outcome.Attempt && !replayed:
		return v.Outcome.Record(u.ID)
	}
	return nil
}

// created is the outcome of a status that was created as a terminal one.
func (v *Entry) created() *store.Record {
	st := &v.Status
	return &store.Record{
		Key: store.Key{ID: st.ID, Epoch: st.Epoch},
		Outcome: task.Outcome{
			State: st.State, Result: st.Result, Error: st.Error, Reason: st.Reason, Attempt: st.Attempt,
			Worker: st.Worker, StartedAt: st.StartedAt, EndedAt: st.FinishedAt, Keep: task.Forever,
		},
	}
}

func (v *Entry) start(u *store.Update, now time.Time) {
	st := &v.Status
	if u.Replays > st.ReplayCount {
		if st.State == task.Failed {
			v.requeue(now)
		}
		st.ReplayCount = u.Replays
		v.edit(u.Envelope)
	}
	if u.Epoch > st.Epoch || st.State != task.Running {
		st.Starts++
	}
	st.State, st.Epoch, st.Worker, st.StartedAt = task.Running, u.Epoch, u.Worker, u.At
	st.Attempt = max(st.Attempt, u.Attempt)
	if st.StartedAt.IsZero() {
		st.StartedAt = now
	}
	st.Progress, v.Outcome, v.Outbox = nil, nil, 0
}

// requeue makes a failed entry one that waits.
func (v *Entry) requeue(at time.Time) {
	st := &v.Status
	st.State, st.LastReplayAt = task.Queued, at
	st.Reason, st.Result, st.Progress, st.Starts, st.Worker = "", nil, nil, 0, ""
	st.StartedAt, st.FinishedAt, st.NotBefore = time.Time{}, time.Time{}, time.Time{}
	v.Outcome, v.Outbox = nil, 0
}

// edit shows what a replay may have changed of a task.
func (v *Entry) edit(e *task.Envelope) {
	if e != nil {
		v.Status.Args, v.Status.Meta, v.Status.MaxRetries = task.KeepArgs(e.Args), e.Meta, e.MaxRetries
	}
}

// Apply moves the entry to where an outcome says. It reports whether anything
// changed; the error is store.ErrStale.
func (v *Entry) Apply(b *store.Record, now time.Time) (bool, error) {
	st, o := &v.Status, &b.Outcome
	switch {
	case b.Epoch < st.Epoch:
		return false, store.ErrStale
	case v.Outcome != nil && v.Outcome.Epoch == b.Epoch && v.Outcome.State == o.State:
		return false, nil // the same once more
	case !legal(st.State, o.State):
		return false, store.ErrStale
	}
	v.Outcome, v.Outbox = newOutcome(b), 0
	if len(b.Followups)+len(b.Release) > 0 || o.State == task.Retried {
		v.Outbox = now.UnixMilli()
	}
	st.State, st.Epoch, st.Attempt = o.State, b.Epoch, o.Attempt
	if o.Worker != "" {
		st.Worker = o.Worker
	}
	if !o.StartedAt.IsZero() {
		st.StartedAt = o.StartedAt
	}
	st.Errors = task.AppendError(st.Errors, o.Error)
	if k := len(st.Errors); k > 0 {
		st.Error = &st.Errors[k-1]
	}
	switch {
	case o.State.Terminal():
		st.Reason, st.FinishedAt = o.Reason, o.EndedAt
		if st.FinishedAt.IsZero() {
			st.FinishedAt = now
		}
		if o.State == task.Succeeded {
			st.Result = o.Result
		}
		if o.State != task.Failed && !task.KeepsArgs(st.Meta) {
			st.Args = nil
		}
	case o.State == task.Retried || !o.NotBefore.IsZero():
		st.NotBefore = o.NotBefore
		if !o.Reserved {
			st.Starts = 0
		}
	}
	st.MarkRateLimited(o.State == task.Queued && o.Reserved)
	return true, nil
}

// legal reports whether an outcome may follow a state. A task that waits
// stands for a run whose start was not reported.
func legal(from, to task.State) bool {
	waits := from == task.Queued || from == task.Retried
	return to != task.Running && from != task.Failed &&
		(task.CanMove(from, to) || waits && task.CanMove(task.Running, to))
}

// Clear drops the outbox, if the entry has that epoch still, and reports
// whether there was one.
func (v *Entry) Clear(epoch int64) bool {
	if v.Outbox == 0 || v.Status.Epoch != epoch {
		return false
	}
	v.Outbox, v.Outcome.Followups, v.Outcome.Release = 0, nil, nil
	return true
}

// Requeue applies a replay and reports whether anything changed; the error is
// store.ErrStale.
func (v *Entry) Requeue(b *broker.ReplayedTask) (bool, error) {
	switch {
	case b.ReplayCount <= v.Status.ReplayCount:
		return false, nil // it was told before
	case v.Status.State != task.Failed || b.Epoch < v.Status.Epoch:
		return false, store.ErrStale
	}
	v.requeue(b.ReplayedAt)
	v.edit(b.Envelope)
	v.Status.Epoch, v.Status.ReplayCount = b.Epoch, b.ReplayCount
	return true, nil
}

// Keep is how long the entry is to be kept: task.Forever, or 0 for not at all.
// One with an outbox stays, whatever its retention, until that is cleared.
func (v *Entry) Keep() time.Duration {
	if !v.Status.State.Terminal() || v.Outcome == nil || v.Outbox > 0 {
		return task.Forever
	}
	if keep := v.Outcome.Keep; keep == 0 || keep > 0 && v.Status.State != task.Failed {
		return keep
	}
	return task.Forever
}
