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

// firing is a firing made ready outside the transaction.
type firing struct {
	*store.Firing
	invalid error

	publication publication // of an atomic one
	envelope    []byte      // of a pending one, as is rest
	rest        []byte
	unfit       error // why it cannot be pending
}

func prepareFirings(batch []store.Firing) []firing {
	list := make([]firing, len(batch))
	for i := range batch {
		f := firing{Firing: &batch[i], invalid: batch[i].Check()}
		p := f.Publication
		switch {
		case f.invalid != nil || p == nil || p.Envelope == nil:
		case f.Atomic:
			f.publication = encode(p)
		default:
			rest := *p
			rest.Envelope = nil
			var fault error
			f.envelope, f.unfit = task.Encode(p.Envelope)
			f.rest, fault = json.Marshal(&rest)
			f.unfit = errors.Join(f.unfit, fault)
		}
		list[i] = f
	}
	return list
}

// Fire implements store.Schedules.
func (s *schedules) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	firings := prepareFirings(batch)
	answers := make([]store.FireAnswer, len(batch))
	var refused error
	err := s.db.write(ctx, func(t *tx) (err error) {
		if refused, err = t.leads(lead, true); refused != nil || err != nil {
			return err
		}
		for i := range firings {
			if answers[i], err = t.fire(&firings[i]); err != nil {
				return fmt.Errorf("schedule %s: %w", firings[i].ID, err)
			}
		}
		return nil
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("fire schedules: %w", err)
	}
	return answers, nil
}

// fire claims one moment, with its task or leaving that pending.
func (t *tx) fire(f *firing) (a store.FireAnswer, err error) {
	if f.invalid != nil {
		return store.FireAnswer{Err: f.invalid}, nil
	}
	e, err := t.entry(f.ID)
	if err != nil {
		return a, err
	}
	now := time.Now()
	if refused := f.Conflict(e.schedule(), now); refused != nil {
		return store.FireAnswer{Err: refused}, nil
	}
	r := f.Record(now)
	if r.Outcome == store.OutcomePending {
		if err := t.enqueue(f, &r); err != nil {
			return a, err
		}
	}
	e.Claim(f.Firing, &r)
	if err := t.addFiring(e, &r); err != nil {
		return a, err
	}
	return store.FireAnswer{Record: r}, t.exec("claim-schedule", dueMillis(e.NextDue), dueMillis(e.NextAt), dueMillis(e.LastDue),
		micros(e.LastFired), int64(e.Jitter), int64(e.Drift), e.Fired, e.Misfired, e.records, e.LastTask, e.LastError, e.seq)
}

// enqueue publishes the task of a firing, or keeps it as pending.
func (t *tx) enqueue(f *firing, r *store.FireRecord) error {
	if f.Atomic {
		out, err := t.publish(&f.publication)
		r.Settle(out)
		return err
	}
	if f.unfit != nil {
		r.Settle(broker.Outcome{State: broker.Refused, Err: f.unfit})
		return nil
	}
	record, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a record: %w", err)
	}
	return t.exec("set-pending", r.ID, dueMillis(r.Due), record, f.envelope, f.rest)
}

// addFiring puts a line into the history. The caller saves the entry.
func (t *tx) addFiring(e *plan, r *store.FireRecord) error {
	number := e.records
	e.records++
	return t.exec("set-firing", e.seq, number%store.MaxHistory, number, dueMillis(r.Due), micros(r.Fired), string(r.Outcome),
		int64(r.Jitter), int64(r.Drift), r.Missed, r.Task, r.Error, r.Beat)
}

// markEntry saves what a record changes of an entry.
func (t *tx) markEntry(e *plan) error {
	return t.exec("mark-schedule", e.Fired, e.records, e.LastTask, e.LastError, e.seq)
}

// Finish implements store.Schedules.
func (s *schedules) Finish(ctx context.Context, lead store.Lock, batch []store.FireRecord) error {
	if err := store.CheckFinish(batch); err != nil {
		return err
	}
	if err := s.check(ctx); err != nil {
		return err
	}
	var refused error
	err := s.db.write(ctx, func(t *tx) (err error) {
		if refused, err = t.leads(lead, false); refused != nil || err != nil {
			return err
		}
		for i := range batch {
			if err := t.finishFiring(&batch[i]); err != nil {
				return fmt.Errorf("schedule %s: %w", batch[i].ID, err)
			}
		}
		return nil
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return fmt.Errorf("finish firings: %w", err)
	}
	return nil
}

func (t *tx) finishFiring(end *store.FireRecord) error {
	var r store.FireRecord
	var fault error
	due := dueMillis(end.Due)
	found, err := t.one("pending", func(s *sqlite3.Stmt) { fault = json.Unmarshal(s.ColumnRawBlob(0), &r) }, end.ID, due)
	if err = errors.Join(err, fault); err != nil || !found {
		return err
	}
	if err := t.exec("delete-pending", end.ID, due); err != nil {
		return err
	}
	e, err := t.entry(end.ID)
	if err != nil || e == nil {
		return err
	}
	e.Finish(&r, end)
	if err := t.markEntry(e); err != nil {
		return err
	}
	return t.exec("finish-firing", string(r.Outcome), r.Task, r.Error, e.seq, due)
}

// allPending calls visit with the firings that are pending, the oldest first, or
// with why one cannot be read, until it returns false.
func (c *conn) allPending(visit func(seq int64, w store.Pending, fault error) bool) error {
	return c.each("all-pending", func(s *sqlite3.Stmt) bool {
		var w store.Pending
		err := errors.Join(json.Unmarshal(s.ColumnRawBlob(3), &w.Record), json.Unmarshal(s.ColumnRawBlob(5), &w.Publication))
		if err == nil {
			w.Publication.Envelope, err = task.Decode(blob(s, 4))
		}
		if id, due := s.ColumnText(1), s.ColumnInt64(2); err == nil && (w.Record.ID != id || dueMillis(w.Record.Due) != due) {
			err = fmt.Errorf("it says that it is of schedule %.140q at %s", w.Record.ID, w.Record.Due)
		}
		if err != nil {
			err = fmt.Errorf("pending firing of schedule %s, due at %d, cannot be read: %w", s.ColumnText(1), s.ColumnInt64(2), err)
		}
		return visit(s.ColumnInt64(0), w, err)
	})
}

// pending returns the oldest firings that are pending. What cannot be read must
// not keep the others from firing: the log says so once, and Check does.
func (s *schedules) pending(c *conn, limit int) (list []store.Pending, err error) {
	err = c.allPending(func(seq int64, w store.Pending, fault error) bool {
		if fault == nil {
			list = append(list, w)
		} else if s.first(seq) {
			s.db.log.Error("a firing cannot be read and is passed over; delete its row from the table of pending ones", "row", seq, "error", fault)
		}
		return len(list) < limit
	})
	return list, err
}

// first reports whether a row that cannot be read was not told of yet.
func (s *schedules) first(seq int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed[seq] {
		return false
	}
	if s.passed == nil {
		s.passed = make(map[int64]bool)
	}
	s.passed[seq] = true
	return true
}
