package memory

import (
	"context"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// This file is for a broker on another store: it records here what becomes of
// its tasks. A task of this DB's own brokers is not touched from here.

// Create stores statuses that are not there yet; see store.Results.
func (s *results) Create(ctx context.Context, batch []task.Status) ([]error, error) {
	now, err := s.enter(ctx, "create statuses")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	errs := make([]error, len(batch))
	for i := range batch {
		if s.db.find(batch[i].ID, now) != nil {
			errs[i] = store.ErrExists
		} else {
			s.db.create(recordOf(&batch[i]))
		}
	}
	return errs, nil
}

// recordOf is the record of a status.
func recordOf(s *task.Status) *record {
	e := &task.Envelope{
		ID: s.ID, Name: s.Name, Args: slices.Clone(s.Args), EnqueuedAt: s.EnqueuedAt,
		Priority: s.Priority, MaxRetries: s.MaxRetries, Queue: s.Queue, Meta: s.Meta,
	}
	r := newRecord(e, 0)
	r.trimmed = true
	r.state, r.attempt, r.epoch, r.starts = stateOf(s.State), s.Attempt, s.Epoch, int32(s.Starts)
	r.worker, r.result = s.Worker, slices.Clone(s.Result)
	r.startedAt, r.finishedAt = momentOf(s.StartedAt), momentOf(s.FinishedAt)
	r.setNotBefore(s.NotBefore)
	r.setReason(s.Reason)
	if len(s.Errors) > 0 || s.ReplayCount > 0 {
		x := r.more()
		x.errors, x.replays, x.replayedAt = slices.Clone(s.Errors), s.ReplayCount, s.LastReplayAt
	} else {
		r.addError(s.Error)
	}
	r.setProgress(s.Progress)
	return r
}

func (db *DB) create(r *record) {
	r.place = foreign
	r.trim()
	db.add(r)
	db.notify(r)
}

// foreign returns the record that a call from outside may change; one that is
// missing is made from the envelope, if there is one.
func (db *DB) foreign(id string, e *task.Envelope, now time.Time) (*record, error) {
	r := db.find(id, now)
	switch {
	case r == nil && e == nil:
		return nil, store.ErrNotFound
	case r == nil:
		r = newRecord(e, 0)
		db.create(r)
	case r.place != foreign:
		return nil, store.ErrStale // a broker of this DB holds it
	}
	return r, nil
}

// Update reports starts and progress; see store.Results.
func (s *results) Update(ctx context.Context, batch []store.Update) ([]store.Answer, error) {
	now, err := s.enter(ctx, "update statuses")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	answers := make([]store.Answer, len(batch))
	for i := range batch {
		answers[i] = s.db.update(&batch[i], now)
	}
	return answers, nil
}

func (db *DB) update(u *store.Update, now time.Time) store.Answer {
	e := u.Envelope
	if !u.Start {
		e = nil
	}
	r, err := db.foreign(u.ID, e, now)
	if err != nil {
		return store.Answer{Err: err}
	}
	if u.Epoch < r.epoch {
		return store.Answer{Err: store.ErrStale}
	}
	switch {
	case u.Start:
		if stored := db.storedOutcome(r, u); stored != nil {
			r.epoch = u.Epoch
			return store.Answer{Stored: stored}
		}
		r.startForeign(u, now)
		delete(db.outboxes, r.id)
	case r.state != running:
		return store.Answer{Err: store.ErrStale} // its run has ended
	}
	r.setProgress(u.Progress)
	db.notify(r)
	return store.Answer{}
}

// storedOutcome is the outcome that forbids a start, if there is one: it
// belongs to the very execution that is about to begin again.
func (db *DB) storedOutcome(r *record, u *store.Update) *store.Record {
	x := r.extra
	replayed := u.Replays > r.replays()
	switch {
	case r.state == failed && replayed:
		return nil
	case r.state.terminal() && (x == nil || x.outcome == nil):
		return &store.Record{Key: store.Key{ID: r.id, Epoch: r.epoch}, Outcome: r.outcome()}
	case r.state.terminal():
		return x.outcome
	case r.state == retried && db.pending(r) && u.Attempt < x.outcome.Outcome.Attempt && !replayed:
		return x.outcome
	}
	return nil
}

// outcome is what a terminal status that was created as such came to.
func (r *record) outcome() task.Outcome {
	o := task.Outcome{
		State: r.state.name(), Result: r.result, Attempt: r.attempt,
		Worker: r.worker, StartedAt: timeOf(r.startedAt), EndedAt: timeOf(r.finishedAt), Keep: task.Forever,
	}
	if x := r.extra; x != nil {
		o.Reason = x.reason
		if n := len(x.errors); n > 0 {
			o.Error = &x.errors[n-1]
		}
	}
	return o
}

func (r *record) startForeign(u *store.Update, now time.Time) {
	if u.Replays > r.replays() {
		if r.state == failed {
			r.requeue(now)
		}
		r.more().replays = u.Replays
		r.edit(u.Envelope)
	}
	if u.Epoch > r.epoch || r.state != running {
		r.starts++
	}
	r.state, r.epoch, r.worker, r.startedAt = running, u.Epoch, u.Worker, momentOf(u.At)
	r.attempt = max(r.attempt, u.Attempt)
	if r.startedAt == 0 {
		r.startedAt = now.UnixNano()
	}
	if x := r.extra; x != nil {
		x.progress, x.outcome = nil, nil
	}
}

// edit shows what a replay may have changed of a task.
func (r *record) edit(e *task.Envelope) {
	if e == nil {
		return
	}
	now := *r.env // readers may have the old one
	now.Args, now.Meta, now.MaxRetries = slices.Clone(task.KeepArgs(e.Args)), e.Meta, e.MaxRetries
	r.env = &now
}

// Record stores outcomes; see store.Results.
func (s *results) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	now, err := s.enter(ctx, "record outcomes")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = s.db.record(&batch[i], now)
	}
	return errs, nil
}

func (db *DB) record(rec *store.Record, now time.Time) error {
	r, err := db.foreign(rec.ID, rec.Envelope, now)
	if err != nil {
		return err
	}
	if rec.Epoch < r.epoch {
		return store.ErrStale
	}
	o := &rec.Outcome
	if x := r.extra; x != nil && x.outcome != nil && x.outcome.Epoch == rec.Epoch && x.outcome.Outcome.State == o.State {
		return nil
	}
	if !legal(r.state.name(), o) {
		return store.ErrStale
	}
	r.epoch = rec.Epoch
	r.note(o)
	kept := *rec
	kept.Envelope, kept.Followups, kept.Release = nil, slices.Clone(rec.Followups), slices.Clone(rec.Release)
	kept.Outcome.Result = slices.Clone(o.Result)
	x := r.more()
	x.outcome, x.recordedAt = &kept, now
	delete(db.outboxes, r.id)
	if len(rec.Followups)+len(rec.Release) > 0 || o.State == task.Retried {
		db.outboxes[r.id] = r
	}
	db.applyForeign(r, &kept.Outcome, now)
	db.notify(r)
	return nil
}

// legal reports whether an outcome may follow a state. A task that waits
// stands for a run whose start was not reported.
func legal(from task.State, o *task.Outcome) bool {
	waits := from == task.Queued || from == task.Retried
	return o.State != task.Running && from != task.Failed &&
		(task.CanMove(from, o.State) || waits && task.CanMove(task.Running, o.State))
}

func (db *DB) applyForeign(r *record, o *task.Outcome, now time.Time) {
	if o.State.Terminal() {
		r.end(o, now)
		db.retainForeign(r, now)
		return
	}
	r.state = stateOf(o.State)
	if o.State == task.Retried || !o.NotBefore.IsZero() {
		r.setNotBefore(o.NotBefore)
		if !r.reserved {
			r.starts = 0
		}
	}
}

// retainForeign lets a terminal record go after its retention, unless its
// outbox is not cleared yet.
func (db *DB) retainForeign(r *record, now time.Time) {
	keep := r.extra.outcome.Outcome.Keep
	if db.pending(r) || r.state == failed && keep != 0 {
		return
	}
	db.retain(r, keep, now)
}

// pending reports whether a record has an outbox.
func (db *DB) pending(r *record) bool { return db.outboxes[r.id] == r }

// Clear removes outboxes; see store.Results.
func (s *results) Clear(ctx context.Context, batch []store.Key) error {
	now, err := s.enter(ctx, "clear outboxes")
	if err != nil {
		return err
	}
	defer s.db.leave()
	for _, k := range batch {
		r := s.db.outboxes[k.ID]
		if r == nil || k.Epoch != r.epoch {
			continue
		}
		delete(s.db.outboxes, k.ID)
		o := *r.extra.outcome // readers may have the old one
		o.Followups, o.Release = nil, nil
		r.extra.outcome = &o
		if r.state.terminal() {
			s.db.retainForeign(r, now)
		}
	}
	return nil
}

// ListOutboxes lists what was not cleared, by id; see store.Outboxes.
func (s *results) ListOutboxes(ctx context.Context, before time.Time, p broker.Page) ([]store.Record, string, error) {
	if _, err := s.enter(ctx, "list outboxes"); err != nil {
		return nil, "", err
	}
	defer s.db.leave()
	var ids []string
	for id, r := range s.db.outboxes {
		if id > p.Cursor && r.extra.recordedAt.Before(before) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	cursor := ""
	if len(ids) > p.Size() {
		ids = ids[:p.Size()]
		cursor = ids[len(ids)-1]
	}
	page := make([]store.Record, len(ids))
	for i, id := range ids {
		r := s.db.outboxes[id]
		page[i] = *r.extra.outcome
		page[i].Epoch = r.epoch
	}
	return page, cursor, nil
}

// Requeue makes failed tasks queued; see store.Results.
func (s *results) Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error) {
	now, err := s.enter(ctx, "requeue statuses")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = s.db.requeueForeign(&batch[i], now)
	}
	return errs, nil
}

func (db *DB) requeueForeign(t *broker.ReplayedTask, now time.Time) error {
	r, err := db.foreign(t.ID, nil, now)
	switch {
	case err != nil:
		return err
	case t.ReplayCount <= r.replays():
		return nil // it was told before
	case r.state != failed || t.Epoch < r.epoch:
		return store.ErrStale
	}
	r.requeue(t.ReplayedAt)
	r.edit(t.Envelope)
	r.epoch = t.Epoch
	x := r.more()
	x.replays, x.outcome = t.ReplayCount, nil
	delete(db.outboxes, r.id)
	db.notify(r)
	return nil
}
