package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/ledger"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// record is the status of a task whose broker is another store. What a call
// makes of it is package ledger's to say.
type record struct {
	ledger.Entry
	expires int64 // ms; 0: never
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
	if err := json.Unmarshal(s.ColumnRawBlob(0), &v.Status); err != nil {
		return nil, fmt.Errorf("read a status: %w", err)
	}
	v.Status.Result = blob(s, 1)
	return v, nil
}

// scanOutcome reads the last columns of the statements record and outboxes.
func (v *record) scanOutcome(s *sqlite3.Stmt) error {
	v.Outbox = s.ColumnInt64(4)
	data := blob(s, 3)
	if data == nil {
		return nil
	}
	v.Outcome = new(ledger.Outcome)
	return json.Unmarshal(data, v.Outcome)
}

func (t *tx) saveRecord(v *record) error {
	t.touched(v.Status.ID)
	st := v.Status
	st.Result = nil // kept beside it, byte for byte
	data, err := json.Marshal(&st)
	if err != nil {
		return fmt.Errorf("%w status of %s: %w", task.ErrInvalid, st.ID, err)
	}
	var stored []byte
	if v.Outcome != nil {
		if stored, err = json.Marshal(v.Outcome); err != nil {
			return fmt.Errorf("%w outcome of %s: %w", task.ErrInvalid, st.ID, err)
		}
	}
	return t.exec("set-record", st.ID, st.EnqueuedAt.UnixMilli(), v.expires, data, []byte(v.Status.Result), stored, v.Outbox)
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
		return nil, t.saveRecord(&record{Entry: ledger.Entry{Status: batch[i]}})
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
	return &record{Entry: *ledger.New(id, e)}, nil, nil
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
		if answers[i].Stored, refused = v.Update(u, t.time()); refused != nil {
			return refused, nil
		}
		if u.Start && answers[i].Stored == nil {
			v.expires = 0
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

// Record implements store.Results.
func (s *results) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	return s.each(ctx, "record outcomes", len(batch), func(t *tx, i int) (refused, err error) {
		b := &batch[i]
		v, refused, err := t.foreign(b.ID, b.Envelope)
		if refused != nil || err != nil {
			return refused, err
		}
		changed, refused := v.Apply(b, t.time())
		if refused != nil || !changed {
			return refused, nil
		}
		return nil, t.keep(v)
	})
}

// time is the store's clock.
func (t *tx) time() time.Time { return time.UnixMilli(t.now).UTC() }

// keep saves a record for as long as it is to be kept, or removes it.
func (t *tx) keep(v *record) error {
	v.expires, v.Status.ExpiresAt = 0, time.Time{}
	keep := v.Keep()
	switch {
	case keep == 0:
		t.touched(v.Status.ID)
		return t.exec("delete-record", v.Status.ID)
	case keep > 0:
		v.expires = until(t.now, keep)
		v.Status.ExpiresAt = time.UnixMilli(v.expires).UTC()
	}
	return t.saveRecord(v)
}

// Clear implements store.Results.
func (s *results) Clear(ctx context.Context, batch []store.Key) error {
	_, err := s.each(ctx, "clear outboxes", len(batch), func(t *tx, i int) (refused, err error) {
		v, err := t.record(batch[i].ID, t.now)
		if err != nil || v == nil || !v.Clear(batch[i].Epoch) {
			return nil, err
		}
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
			if fault != nil || v.Outcome == nil {
				return fault == nil
			}
			b := v.Outcome.Record(v.Status.ID)
			b.Epoch = v.Status.Epoch
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
		v, refused, err := t.foreign(batch[i].ID, nil)
		if refused != nil || err != nil {
			return refused, err
		}
		changed, refused := v.Requeue(&batch[i])
		if refused != nil || !changed {
			return refused, nil
		}
		return nil, t.keep(v)
	})
}
