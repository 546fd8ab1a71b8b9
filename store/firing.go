package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// This file has what every backend of Schedules and Locks does alike: what is
// refused, and how an entry moves.

// maxName is how long the name and the holder of a lock may be.
const maxName = 256

// CheckLock says what is wrong with what Acquire was asked, or nil. The error
// wraps task.ErrInvalid.
func CheckLock(name, holder string, ttl time.Duration) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%w lock name %.300q: want 1–%d bytes", task.ErrInvalid, name, maxName)
	case holder == "" || len(holder) > maxName:
		return fmt.Errorf("%w holder %.300q of lock %s: want 1–%d bytes", task.ErrInvalid, holder, name, maxName)
	case ttl < time.Millisecond:
		return fmt.Errorf("%w time of lock %s: %s, want a millisecond at least", task.ErrInvalid, name, ttl)
	}
	return nil
}

// MaxChanges is how many changes one Apply takes.
const MaxChanges = 100_000

// CheckChanges checks each change of a batch, that no id is there twice, and
// that there are not too many. The error wraps task.ErrInvalid.
func CheckChanges(changes []ScheduleChange) error {
	if len(changes) > MaxChanges {
		return fmt.Errorf("%w changes: %d schedules in one batch, at most %d", task.ErrInvalid, len(changes), MaxChanges)
	}
	seen := make(map[string]bool, len(changes))
	for i := range changes {
		c := &changes[i]
		if err := c.Check(); err != nil {
			return err
		}
		if seen[c.ID] {
			return fmt.Errorf("%w changes: schedule %s is there twice", task.ErrInvalid, c.ID)
		}
		seen[c.ID] = true
	}
	return nil
}

// Check says what is wrong with a change, or nil. The error wraps
// task.ErrInvalid.
func (c *ScheduleChange) Check() error {
	if err := task.ValidateID(c.ID); err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	switch {
	case c.Version < 0:
		return fmt.Errorf("%w change of schedule %s: version %d is negative", task.ErrInvalid, c.ID, c.Version)
	case c.Delete:
		return nil
	case c.Version == 0 && c.Definition == nil:
		return fmt.Errorf("%w schedule %s: a new entry needs a definition", task.ErrInvalid, c.ID)
	case len(c.Definition) > MaxDefinition:
		return fmt.Errorf("%w schedule %s: its definition has %d bytes, at most %d", task.ErrInvalid, c.ID, len(c.Definition), MaxDefinition)
	case c.Definition != nil && !json.Valid(c.Definition):
		return fmt.Errorf("%w schedule %s: its definition is not JSON", task.ErrInvalid, c.ID)
	case c.Version == 0 && !c.LastDue.IsZero():
		return fmt.Errorf("%w schedule %s: a new entry has a last due moment", task.ErrInvalid, c.ID)
	}
	return checkNext(c.ID, c.LastDue, c.NextDue, c.NextAt)
}

// checkNext checks where an entry is to go from its last due moment.
func checkNext(id string, last, due, at time.Time) error {
	switch {
	case due.IsZero() != at.IsZero():
		return fmt.Errorf("%w schedule %s: it is due at %v and to be looked at at %v: want both moments or none", task.ErrInvalid, id, due, at)
	case due.IsZero():
		return nil
	case !known(due), !known(at):
		return fmt.Errorf("%w schedule %s: due at %v, looked at at %v: want moments from 1970 to 9999", task.ErrInvalid, id, due, at)
	case due.UnixMilli() <= last.UnixMilli():
		return fmt.Errorf("%w schedule %s: its next due moment %v is not after its last, %v", task.ErrInvalid, id, due, last)
	}
	return nil
}

// known reports whether every store can keep a moment.
func known(t time.Time) bool { return t.UnixMilli() > 0 && t.Year() <= 9999 }

// Conflict says why a change does not apply to what the store has; have is nil
// for nothing. It is ErrNoSchedule, a *ConflictError, or nil.
func (c *ScheduleChange) Conflict(have *Schedule) error {
	switch {
	case have == nil && c.Version == 0 && !c.Delete:
		return nil
	case have == nil:
		return fmt.Errorf("schedule %s: %w", c.ID, ErrNoSchedule)
	case have.Version != c.Version, !c.Delete && !same(have.LastDue, c.LastDue):
		return &ConflictError{ID: c.ID, Have: have.Version, Want: c.Version}
	}
	return nil
}

// Change brings an entry to what the change asks for, as of now. The caller
// sets its version.
func (s *Schedule) Change(c *ScheduleChange, now time.Time) {
	s.ID, s.UpdatedAt = c.ID, happened(now)
	if c.Definition != nil {
		s.Definition = bytes.Clone(c.Definition)
	}
	s.NextDue, s.NextAt = moment(c.NextDue), moment(c.NextAt)
}

// Check says what is wrong with a firing, or nil. The error wraps
// task.ErrInvalid.
func (f *Firing) Check() error {
	switch {
	case !known(f.Due):
		return fmt.Errorf("%w firing of schedule %s: due at %v", task.ErrInvalid, f.ID, f.Due)
	case f.Publication == nil && f.Outcome != OutcomeMisfired && f.Outcome != OutcomeOverlap && f.Outcome != OutcomeFailed:
		return fmt.Errorf("%w firing of schedule %s: it has no publication, and its outcome is %q", task.ErrInvalid, f.ID, f.Outcome)
	case f.Missed < 0:
		return fmt.Errorf("%w firing of schedule %s: %d missed", task.ErrInvalid, f.ID, f.Missed)
	}
	return checkNext(f.ID, f.Due, f.Next, f.NextAt)
}

// Conflict says why a firing does not apply now to what the store has; have is nil
// for nothing. It is ErrNoSchedule, a *ConflictError, ErrNotDue, or nil.
func (f *Firing) Conflict(have *Schedule, now time.Time) error {
	switch {
	case have == nil:
		return fmt.Errorf("schedule %s: %w", f.ID, ErrNoSchedule)
	case have.Version != f.Version, !same(have.NextDue, f.Due):
		return &ConflictError{ID: f.ID, Have: have.Version, Want: f.Version}
	case now.Before(f.NotBefore):
		return fmt.Errorf("schedule %s: %w", f.ID, ErrNotDue)
	}
	return nil
}

// Record is what the history says of a firing that claims its moment now. One
// with a publication is pending until Settle.
func (f *Firing) Record(now time.Time) FireRecord {
	r := FireRecord{
		ID: f.ID, Due: moment(f.Due), Fired: happened(now), Outcome: f.Outcome,
		Jitter: f.Jitter, Missed: f.Missed, Error: short(f.Error), Beat: f.Beat,
	}
	r.Drift = r.Fired.Sub(r.Due.Add(r.Jitter))
	if f.Publication == nil {
		return r
	}
	r.Outcome, r.Error = OutcomePending, ""
	if f.Publication.Envelope == nil {
		r.Outcome, r.Error = OutcomeFailed, "its publication has no envelope"
	} else {
		r.Task = f.Publication.Envelope.ID
	}
	return r
}

// Settle says in a record what became of its publication.
func (r *FireRecord) Settle(o broker.Outcome) {
	switch o.State {
	case broker.Stored:
		r.Outcome, r.Error = OutcomeFired, ""
	case broker.Exists, broker.Duplicate:
		r.Outcome, r.Error = OutcomeDuplicate, ""
		if o.ExistingID != "" {
			r.Task = o.ExistingID
		}
	case broker.Full:
		r.Outcome, r.Task, r.Error = OutcomeFailed, "", "the queue is full"
	default:
		r.Outcome, r.Task, r.Error = OutcomeFailed, "", "refused"
		if o.Err != nil {
			r.Error = short(o.Err.Error())
		}
	}
}

// Finish brings a pending record to what end says became of it. It reports
// whether that says anything: an outcome that ends it.
func (r *FireRecord) Finish(end *FireRecord) bool {
	switch end.Outcome {
	case OutcomeFired, OutcomeDuplicate, OutcomeFailed, OutcomeUnknown:
		r.Outcome, r.Task, r.Error = end.Outcome, end.Task, short(end.Error)
		return true
	default:
		return false
	}
}

// CheckFinish says what is wrong with the records of a Finish, or nil. The
// error wraps task.ErrInvalid.
func CheckFinish(batch []FireRecord) error {
	for i := range batch {
		if r := (FireRecord{}); !r.Finish(&batch[i]) {
			return fmt.Errorf("%w end of a firing of schedule %s: outcome %q", task.ErrInvalid, batch[i].ID, batch[i].Outcome)
		}
	}
	return nil
}

// Claim moves an entry on by a firing, whose record is r.
func (s *Schedule) Claim(f *Firing, r *FireRecord) {
	s.LastDue, s.NextDue, s.NextAt = moment(f.Due), moment(f.Next), moment(f.NextAt)
	s.LastFired, s.Jitter, s.Drift = r.Fired, r.Jitter, r.Drift
	s.Misfired += int64(r.Missed)
	s.mark(r)
}

// mark sets what an entry shows of the outcome of a moment that it claims.
func (s *Schedule) mark(r *FireRecord) {
	switch r.Outcome {
	case OutcomeFired:
		s.Fired++
		s.LastTask, s.LastError = r.Task, ""
	case OutcomeDuplicate:
		s.LastTask, s.LastError = r.Task, ""
	case OutcomePending:
		s.LastTask = r.Task
	case OutcomeFailed:
		s.LastError = r.Error
	}
}

// Finish brings a record of the entry that is pending, and what the entry shows of
// it, to what end says became of it. An entry of the same id that was made since
// the claim knows nothing of it.
func (s *Schedule) Finish(r, end *FireRecord) {
	newest := s.LastTask == r.Task
	r.Finish(end)
	if r.Due.After(s.LastDue) {
		return
	}
	switch r.Outcome {
	case OutcomeFired:
		s.Fired++
		s.LastError = ""
	case OutcomeDuplicate:
		s.LastError = ""
	case OutcomeFailed, OutcomeUnknown:
		s.LastError = r.Error
	}
	if newest && r.Outcome != OutcomeUnknown {
		s.LastTask = r.Task
	}
}

// ByHand is the record of a run by hand as it is stored now, which is when it was
// due unless it says otherwise.
func (r FireRecord) ByHand(id string, now time.Time) FireRecord {
	if r.Due.IsZero() {
		r.Due = now
	}
	r.ID, r.Due, r.Fired, r.Error = id, moment(r.Due), happened(now), short(r.Error)
	r.Drift = r.Fired.Sub(r.Due.Add(r.Jitter))
	return r
}

// moment is a moment as it is kept: in whole milliseconds.
func moment(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}

// happened is when something happened as it is kept: in whole microseconds.
func happened(t time.Time) time.Time { return time.UnixMicro(t.UnixMicro()).UTC() }

func same(a, b time.Time) bool { return a.UnixMilli() == b.UnixMilli() }

// maxError is how much of an error is kept.
const maxError = 1024

func short(s string) string {
	if len(s) > maxError {
		return s[:maxError]
	}
	return s
}
