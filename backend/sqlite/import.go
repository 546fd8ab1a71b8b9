package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// deadEntry is a dead letter made ready for import outside the transaction.
type deadEntry struct {
	*broker.DeadLetter
	data    []byte // the entry
	errors  []byte // JSON
	refused error
}

// ImportDeadLetters implements broker.DeadImporter, also for entries that are
// no envelopes.
func (b *fileBroker) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	entries := make([]deadEntry, len(batch))
	for i := range batch {
		entries[i] = prepareDead(&batch[i])
	}
	errs := make([]error, len(batch))
	err := b.db.write(ctx, func(t *tx) error {
		for i := range entries {
			var err error
			if errs[i], err = t.importDead(&entries[i]); err != nil {
				return fmt.Errorf("import dead letters: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return errs, nil
}

func prepareDead(d *broker.DeadLetter) deadEntry {
	e := deadEntry{DeadLetter: d, data: d.Raw}
	if e.refused = d.Validate(); e.refused != nil {
		return e
	}
	switch {
	case d.Raw == nil:
		e.data, e.refused = encodeEnvelope(d.Envelope)
	case len(d.Raw) == 0:
		e.refused = fmt.Errorf("%w dead letter %s: its entry is empty", task.ErrInvalid, d.Envelope.ID)
	case len(d.Raw) > task.DefaultMaxSize:
		e.refused = fmt.Errorf("%w: the entry of %s has %d bytes, at most %d", task.ErrTooLarge, d.Envelope.ID, len(d.Raw), task.DefaultMaxSize)
	}
	if errs := d.AllErrors(); e.refused == nil && len(errs) > 0 {
		var err error
		if e.errors, err = json.Marshal(errs); err != nil {
			e.refused = fmt.Errorf("%w errors of %s: %w", task.ErrInvalid, d.Envelope.ID, err)
		}
	}
	return e
}

// importDead adds one dead letter, or says why not. err is the store's.
func (t *tx) importDead(d *deadEntry) (refused, err error) {
	if d.refused != nil {
		return d.refused, nil
	}
	id := d.Envelope.ID
	elsewhere, err := t.record(id, t.now)
	if err != nil {
		return nil, err
	}
	var r row
	found, err := t.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, &r) }, id)
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil, found && !r.gone(t.now):
		return fmt.Errorf("dead letter %s: %w", id, broker.ErrExists), nil
	case found:
		if err := t.remove(&r); err != nil {
			return nil, err
		}
	}
	r, n, err := t.deadRow(d)
	if err != nil {
		return nil, err
	}
	if err := t.insertDead(&r, d.data); err != nil {
		return nil, err
	}
	t.touched(id)
	return nil, t.saveNote(&r, &n)
}

// deadRow makes the row and the note of a dead letter from elsewhere.
func (t *tx) deadRow(d *deadEntry) (r row, n note, err error) {
	e := d.Envelope
	died := min(d.DeadAt.UnixMilli(), t.now)
	n = note{ended: min(micros(d.DeadAt), t.now*1000), replayed: micros(d.LastReplayAt), reason: d.Reason, errors: d.errors}
	r = row{
		id: e.ID, rank: task.MaxPriority - e.Priority, place: dead, phase: phaseOf(task.Failed), at: died,
		epoch: d.Epoch, attempt: d.Attempt, replays: d.ReplayCount, flags: flagNote,
		own: e.VisibilityTimeout.Milliseconds(), enqueued: e.EnqueuedAt.UnixMilli(),
	}
	if d.Raw != nil {
		r.rank, r.own, r.enqueued = task.MaxPriority-task.DefaultPriority, 0, died
	}
	if d.Hidden() {
		r.flags |= flagHidden
	}
	if r.seq, err = t.nextSeq(); err != nil {
		return r, n, err
	}
	r.queue, err = t.queueID(d.Queue)
	return r, n, err
}

func (t *tx) insertDead(r *row, data []byte) error {
	err := t.exec("insert", r.seq, r.id, r.queue, r.rank, int64(r.place), r.phase, r.at, r.epoch, r.attempt, r.starts,
		r.base, r.replays, r.flags, r.worker, r.own, r.enqueued, data)
	if err != nil {
		return err
	}
	if t.Changes() == 0 {
		return errors.New("a dead letter was not stored, though there is none of its id")
	}
	t.add(r.queue, dead, 1)
	return nil
}
