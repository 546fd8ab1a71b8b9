package memory

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/ledger"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// This file is for a broker on another store: it records here what becomes of
// its tasks. What a call makes of a record is package ledger's to say. A task of
// this DB's own brokers is not touched from here.

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
			s.db.create(&ledger.Entry{Status: ownStatus(&batch[i])})
		}
	}
	return errs, nil
}

// ownStatus is a copy of a status that shares nothing with it which may change.
func ownStatus(s *task.Status) task.Status {
	own := *s
	own.Args, own.Result, own.Progress = bytes.Clone(s.Args), bytes.Clone(s.Result), ownProgress(s.Progress)
	if own.Errors = slices.Clone(s.Errors); len(own.Errors) > 0 {
		own.Error = &own.Errors[len(own.Errors)-1]
	}
	return own
}

func ownProgress(p *task.Progress) *task.Progress {
	if p == nil {
		return nil
	}
	own := *p
	own.Data = bytes.Clone(p.Data)
	return &own
}

func (db *DB) create(v *ledger.Entry) *record {
	r := &record{
		id: v.Status.ID, at: v.Status.EnqueuedAt.UnixMilli(), index: -1, place: foreign,
		state: stateOf(v.Status.State), entry: v,
	}
	db.add(r)
	db.notify(r)
	return r
}

// moved follows an entry that is not what it was.
func (db *DB) moved(r *record, now time.Time) {
	v := r.entry
	r.state = stateOf(v.Status.State)
	delete(db.outboxes, r.id)
	if v.Outbox > 0 {
		db.outboxes[r.id] = r
	}
	db.retain(r, v.Keep(), now)
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
		v := ledger.New(id, e)
		v.Status = ownStatus(&v.Status)
		return db.create(v), nil
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
		answers[i] = s.db.update(batch[i], now)
	}
	return answers, nil
}

func (db *DB) update(u store.Update, now time.Time) store.Answer {
	if !u.Start {
		u.Envelope = nil
	}
	r, err := db.foreign(u.ID, u.Envelope, now)
	if err != nil {
		return store.Answer{Err: err}
	}
	u.Progress = ownProgress(u.Progress)
	stored, err := r.entry.Update(&u, now)
	if err == nil && stored == nil {
		r.entry.Status.Args = bytes.Clone(r.entry.Status.Args) // a replay's are its envelope's
		db.moved(r, now)
	}
	return store.Answer{Stored: stored, Err: err}
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
		errs[i] = s.db.record(batch[i], now)
	}
	return errs, nil
}

func (db *DB) record(rec store.Record, now time.Time) error {
	r, err := db.foreign(rec.ID, rec.Envelope, now)
	if err != nil {
		return err
	}
	rec.Outcome.Result = bytes.Clone(rec.Outcome.Result)
	rec.Followups, rec.Release = slices.Clone(rec.Followups), slices.Clone(rec.Release)
	changed, err := r.entry.Apply(&rec, now)
	if changed {
		db.moved(r, now)
	}
	return err
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
		if r := s.db.outboxes[k.ID]; r != nil && r.entry.Clear(k.Epoch) {
			s.db.moved(r, now)
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
		if id > p.Cursor && time.UnixMilli(r.entry.Outbox).Before(before) {
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
		page[i] = *r.entry.Outcome.Record(id)
		page[i].Epoch = r.entry.Status.Epoch
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
	if err != nil {
		return err
	}
	changed, err := r.entry.Requeue(t)
	if changed {
		r.entry.Status.Args = bytes.Clone(r.entry.Status.Args)
		db.moved(r, now)
	}
	return err
}
