package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// record is the status of a task whose broker is another store.
type record struct {
	status  task.Status
	expires int64 // ms; 0: never
	outcome *outcome
	outbox  int64 // when the outcome was recorded, while its outbox is not cleared; else 0
}

// outcome is a stored outcome as JSON.
type outcome struct {
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

func newOutcome(v *store.Record) *outcome {
	o := &v.Outcome
	return &outcome{
		Epoch: v.Epoch, State: o.State, Result: o.Result, Error: o.Error, Reason: o.Reason, NotBefore: o.NotBefore,
		Attempt: o.Attempt, Worker: o.Worker, StartedAt: o.StartedAt, EndedAt: o.EndedAt, Keep: o.Keep,
		Followups: v.Followups, Release: v.Release,
	}
}

// stored is the outcome as a start gets it.
func (o *outcome) stored(id string) *store.Record {
	return &store.Record{
		Key: store.Key{ID: id, Epoch: o.Epoch},
		Outcome: task.Outcome{
			State: o.State, Result: o.Result, Error: o.Error, Reason: o.Reason, NotBefore: o.NotBefore,
			Attempt: o.Attempt, Worker: o.Worker, StartedAt: o.StartedAt, EndedAt: o.EndedAt, Keep: o.Keep,
		},
		Followups: o.Followups, Release: o.Release,
	}
}

func (v *record) gone(now int64) bool { return v.expires > 0 && v.expires <= now }

// record reads a record that is not past its retention, or nil.
func (c *conn) record(id string, now int64) (v *record, err error) {
	var fault error
	_, err = c.one("record", func(s *sqlite3.Stmt) {
		if v, fault = scanRecord(s); fault != nil {
			return
		}
		fault = v.scanOutcome(s)
	}, id)
	if err = errors.Join(err, fault); err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", id, err)
	}
	if v != nil && v.gone(now) {
		return nil, nil
	}
	return v, nil
}

// scanRecord reads the first columns of the statements record and
// list-records.
func scanRecord(s *sqlite3.Stmt) (*record, error) {
	v := &record{expires: s.ColumnInt64(2)}
	if err := json.Unmarshal(s.ColumnRawBlob(0), &v.status); err != nil {
		return nil, fmt.Errorf("read a status: %w", err)
	}
	v.status.Result = blob(s, 1)
	return v, nil
}

// scanOutcome reads the last columns of the statements record and outboxes.
func (v *record) scanOutcome(s *sqlite3.Stmt) error {
	v.outbox = s.ColumnInt64(4)
	data := blob(s, 3)
	if data == nil {
		return nil
	}
	v.outcome = new(outcome)
	return json.Unmarshal(data, v.outcome)
}

func (t *tx) saveRecord(v *record) error {
	t.touched(v.status.ID)
	st := v.status
	st.Result = nil // kept beside it, byte for byte
	data, err := json.Marshal(&st)
	if err != nil {
		return fmt.Errorf("%w status of %s: %w", task.ErrInvalid, st.ID, err)
	}
	var stored []byte
	if v.outcome != nil {
		if stored, err = json.Marshal(v.outcome); err != nil {
			return fmt.Errorf("%w outcome of %s: %w", task.ErrInvalid, st.ID, err)
		}
	}
	return t.exec("set-record", st.ID, st.EnqueuedAt.UnixMilli(), v.expires, data, []byte(v.status.Result), stored, v.outbox)
}

// each runs fn for every item of a batch in one transaction, and collects the
// items' own errors.
func (s *results) each(ctx context.Context, what string, n int, fn func(t *tx, i int) (refused, err error)) ([]error, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, nil
	}
	errs := make([]error, n)
	err := s.db.write(ctx, func(t *tx) error {
		for i := range errs {
			var err error
			if errs[i], err = fn(t, i); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return errs, nil
}

// Create implements store.Results.
func (s *results) Create(ctx context.Context, batch []task.Status) ([]error, error) {
	return s.each(ctx, "create statuses", len(batch), func(t *tx, i int) (refused, err error) {
		_, found, err := t.db.status(t.conn, batch[i].ID, t.now)
		if err != nil || found {
			return store.ErrExists, err
		}
		return nil, t.saveRecord(&record{status: batch[i]})
	})
}

// foreign returns the record that a call from outside may change; one that is
// missing is made from the envelope, if there is one.
func (t *tx) foreign(id string, e *task.Envelope) (v *record, refused, err error) {
	var r row
	found, err := t.byID(id, &r)
	if err != nil || found {
		return nil, store.ErrStale, err // the broker of this file holds it
	}
	v, err = t.record(id, t.now)
	if err != nil || v != nil {
		return v, nil, err
	}
	if e == nil {
		return nil, store.ErrNotFound, nil
	}
	v = &record{status: task.NewStatus(e)}
	v.status.ID = id
	return v, nil, nil
}

// Update implements store.Results.
func (s *results) Update(ctx context.Context, batch []store.Update) ([]store.Answer, error) {
	answers := make([]store.Answer, len(batch))
	errs, err := s.each(ctx, "update statuses", len(batch), func(t *tx, i int) (refused, err error) {
		u := &batch[i]
		answers[i] = store.Answer{}
		var e *task.Envelope
		if u.Start {
			e = u.Envelope
		}
		v, refused, err := t.foreign(u.ID, e)
		if refused != nil || err != nil {
			return refused, err
		}
		if u.Epoch < v.status.Epoch {
			return store.ErrStale, nil
		}
		if u.Start {
			if answers[i].Stored = v.found(u); answers[i].Stored != nil {
				v.status.Epoch = u.Epoch
				return nil, t.saveRecord(v)
			}
			v.start(u, t.now)
		} else if v.status.State != task.Running {
			return store.ErrStale, nil // its run has ended
		}
		if u.Progress != nil {
			v.status.Progress = u.Progress
		}
		return nil, t.saveRecord(v)
	})
	if err != nil {
		return nil, err
	}
	for i := range errs {
		answers[i].Err = errs[i]
	}
	return answers, nil
}

// found is the stored outcome that forbids a start: it belongs to the very
// execution that is about to begin again.
func (v *record) found(u *store.Update) *store.Record {
	st := &v.status
	replayed := u.Replays > st.ReplayCount
	switch {
	case st.State == task.Failed && replayed:
		return nil
	case st.State.Terminal() && v.outcome == nil:
		return v.created()
	case st.State.Terminal():
		return v.outcome.stored(u.ID)
	case st.State == task.Retried && v.outbox > 0 && u.Attempt < v.outcome.Attempt && !replayed:
		return v.outcome.stored(u.ID)
	}
	return nil
}

// created is the outcome of a status that was created as a terminal one.
func (v *record) created() *store.Record {
	st := &v.status
	return &store.Record{
		Key: store.Key{ID: st.ID, Epoch: st.Epoch},
		Outcome: task.Outcome{
			State: st.State, Result: st.Result, Error: st.Error, Reason: st.Reason, Attempt: st.Attempt,
			Worker: st.Worker, StartedAt: st.StartedAt, EndedAt: st.FinishedAt, Keep: task.Forever,
		},
	}
}

func (v *record) start(u *store.Update, now int64) {
	st := &v.status
	if u.Replays > st.ReplayCount {
		if st.State == task.Failed {
			v.requeue(time.UnixMilli(now).UTC())
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
		st.StartedAt = time.UnixMilli(now).UTC()
	}
	st.Progress, v.outcome, v.outbox, v.expires = nil, nil, 0, 0
}

// requeue makes a failed record one that waits.
func (v *record) requeue(at time.Time) {
	st := &v.status
	st.State, st.LastReplayAt = task.Queued, at
	st.Reason, st.Result, st.Progress, st.Starts, st.Worker = "", nil, nil, 0, ""
	st.StartedAt, st.FinishedAt, st.NotBefore = time.Time{}, time.Time{}, time.Time{}
	v.outcome, v.outbox, v.expires = nil, 0, 0
}

// edit shows what a replay may have changed of a task.
func (v *record) edit(e *task.Envelope) {
	if e != nil {
		v.status.Args, v.status.Meta, v.status.MaxRetries = task.KeepArgs(e.Args), e.Meta, e.MaxRetries
	}
}

// Record implements store.Results.
func (s *results) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	return s.each(ctx, "record outcomes", len(batch), func(t *tx, i int) (refused, err error) {
		b := &batch[i]
		v, refused, err := t.foreign(b.ID, b.Envelope)
		if refused != nil || err != nil {
			return refused, err
		}
		switch {
		case b.Epoch < v.status.Epoch:
			return store.ErrStale, nil
		case v.outcome != nil && v.outcome.Epoch == b.Epoch && v.outcome.State == b.Outcome.State:
			return nil, nil // the same once more
		case !legal(v.status.State, b.Outcome.State):
			return store.ErrStale, nil
		}
		return nil, t.applyOutcome(v, b)
	})
}

// legal reports whether an outcome may follow a state. A task that waits
// stands for a run whose start was not reported.
func legal(from, to task.State) bool {
	waits := from == task.Queued || from == task.Retried
	return to != task.Running && from != task.Failed &&
		(task.CanMove(from, to) || waits && task.CanMove(task.Running, to))
}

// applyOutcome moves a record to where an outcome says.
func (t *tx) applyOutcome(v *record, b *store.Record) error {
	st, o := &v.status, &b.Outcome
	v.outcome, v.outbox = newOutcome(b), 0
	if len(b.Followups)+len(b.Release) > 0 || o.State == task.Retried {
		v.outbox = t.now
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
			st.FinishedAt = time.UnixMilli(t.now).UTC()
		}
		if o.State == task.Succeeded {
			st.Result = o.Result
		}
	case o.State == task.Retried || !o.NotBefore.IsZero():
		st.NotBefore = o.NotBefore
		if !o.Reserved {
			st.Starts = 0
		}
	}
	st.MarkRateLimited(o.State == task.Queued && o.Reserved)
	return t.keep(v)
}

// keep saves a record, or removes what need not be kept. One with an outbox
// stays, whatever its retention, until that is cleared.
func (t *tx) keep(v *record) error {
	v.expires, v.status.ExpiresAt = 0, time.Time{}
	if !v.status.State.Terminal() || v.outcome == nil || v.outbox > 0 {
		return t.saveRecord(v)
	}
	keep := v.outcome.Keep
	switch {
	case keep == 0:
		t.touched(v.status.ID)
		return t.exec("delete-record", v.status.ID)
	case keep > 0 && v.status.State != task.Failed:
		v.expires = until(t.now, keep)
		v.status.ExpiresAt = time.UnixMilli(v.expires).UTC()
	}
	return t.saveRecord(v)
}

// Clear implements store.Results.
func (s *results) Clear(ctx context.Context, batch []store.Key) error {
	_, err := s.each(ctx, "clear outboxes", len(batch), func(t *tx, i int) (refused, err error) {
		v, err := t.record(batch[i].ID, t.now)
		if err != nil || v == nil || v.outbox == 0 || v.status.Epoch != batch[i].Epoch {
			return nil, err
		}
		v.outbox, v.outcome.Followups, v.outcome.Release = 0, nil, nil
		return nil, t.keep(v)
	})
	return err
}

// ListOutboxes implements store.Outboxes, by id.
func (s *results) ListOutboxes(ctx context.Context, before time.Time, p broker.Page) ([]store.Record, string, error) {
	if err := s.check(ctx); err != nil {
		return nil, "", err
	}
	var page []store.Record
	more := false
	err := s.db.read(ctx, func(c *conn) error {
		page, more = nil, false
		var fault error
		err := c.each("outboxes", func(st *sqlite3.Stmt) bool {
			if more = len(page) == p.Size(); more {
				return false
			}
			var v *record
			if v, fault = scanRecord(st); fault == nil {
				fault = v.scanOutcome(st)
			}
			if fault != nil || v.outcome == nil {
				return fault == nil
			}
			b := v.outcome.stored(v.status.ID)
			b.Epoch = v.status.Epoch
			page = append(page, *b)
			return true
		}, p.Cursor, millis(before))
		return firstError(err, fault)
	})
	if err != nil {
		return nil, "", fmt.Errorf("list outboxes: %w", err)
	}
	if more {
		return page, page[len(page)-1].ID, nil
	}
	return page, "", nil
}

// Requeue implements store.Results.
func (s *results) Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error) {
	return s.each(ctx, "requeue statuses", len(batch), func(t *tx, i int) (refused, err error) {
		b := &batch[i]
		v, refused, err := t.foreign(b.ID, nil)
		switch {
		case refused != nil || err != nil:
			return refused, err
		case b.ReplayCount <= v.status.ReplayCount:
			return nil, nil // it was told before
		case v.status.State != task.Failed || b.Epoch < v.status.Epoch:
			return store.ErrStale, nil
		}
		v.requeue(b.ReplayedAt)
		v.edit(b.Envelope)
		v.status.Epoch, v.status.ReplayCount = b.Epoch, b.ReplayCount
		return nil, t.keep(v)
	})
}
