package broker

import (
	"fmt"
	"math"
	"time"

	"github.com/stemjobs/stem/task"
)

// DeadLetter is a task that failed for good, kept with its envelope.
type DeadLetter struct {
	Envelope *task.Envelope // read-only; with only an id for a malformed entry
	Raw      []byte         // the stored entry, when it is no envelope
	Queue    string
	Reason   string
	Error    *task.Error
	Errors   []task.Error // of the newest attempts, oldest first
	Attempt  int
	Epoch    int64
	DeadAt   time.Time

	ReplayCount  int
	LastReplayAt time.Time
}

// MaxImportedEpoch bounds the epoch of a dead letter that is imported: what
// follows it must never reach the end of the numbers.
const MaxImportedEpoch = 1 << 44

// Validate checks a dead letter that is to be imported, but for its size. The
// error wraps task.ErrInvalid.
func (d *DeadLetter) Validate() error {
	if d.Envelope == nil {
		return fmt.Errorf("%w dead letter: it has no envelope", task.ErrInvalid)
	}
	id := d.Envelope.ID
	if err := task.ValidateID(id); err != nil {
		return err
	}
	if err := task.ValidateQueue(d.Queue); err != nil {
		return err
	}
	if d.Raw == nil {
		if err := d.Envelope.Validate(); err != nil {
			return err
		}
	}
	inRange := func(n int) bool { return n >= 0 && n <= math.MaxInt32 }
	switch {
	case d.DeadAt.IsZero():
		return fmt.Errorf("%w dead letter %s: deadAt is missing", task.ErrInvalid, id)
	case !inRange(d.Attempt) || !inRange(d.ReplayCount):
		return fmt.Errorf("%w dead letter %s: attempt %d, replayCount %d: want 0 to %d", task.ErrInvalid, id, d.Attempt, d.ReplayCount, math.MaxInt32)
	case d.Epoch < 0 || d.Epoch > MaxImportedEpoch:
		return fmt.Errorf("%w dead letter %s: epoch %d: want 0 to %d", task.ErrInvalid, id, d.Epoch, int64(MaxImportedEpoch))
	}
	if err := task.ValidateTime("deadAt", d.DeadAt); err != nil {
		return err
	}
	return task.ValidateTime("lastReplayAt", d.LastReplayAt)
}

// AllErrors is the errors of the newest attempts, oldest first: at most
// task.MaxAttemptErrors, and Error where Errors has none.
func (d *DeadLetter) AllErrors() []task.Error {
	errs := d.Errors
	if len(errs) == 0 {
		return task.AppendError(nil, d.Error)
	}
	return errs[max(0, len(errs)-task.MaxAttemptErrors):]
}

// Hidden reports whether its task asked that no status of it is kept.
func (d *DeadLetter) Hidden() bool { return string(d.Envelope.Meta[task.MetaRetention]) == "0" }

// Status is the status that belongs to the dead letter.
func (d *DeadLetter) Status() task.Status {
	s := task.NewStatus(d.Envelope)
	s.State, s.Queue, s.Reason = task.Failed, d.Queue, d.Reason
	s.Attempt, s.Epoch, s.FinishedAt = d.Attempt, d.Epoch, d.DeadAt
	s.ReplayCount, s.LastReplayAt, s.NotBefore = d.ReplayCount, d.LastReplayAt, time.Time{}
	if errs := d.AllErrors(); len(errs) > 0 {
		s.Errors = errs
		s.Error = &s.Errors[len(errs)-1]
	}
	return s
}

// DeadFilter selects dead letters; fields left empty select all.
type DeadFilter struct {
	Queue  string   // a name or a pattern with "*"
	IDs    []string //
	Task   string   // a task name or a pattern with "*"
	Reason string
	Before time.Time // dead since before this moment
}

// Match reports whether the filter selects d. Backends that narrow by an index
// first still agree with it.
func (f DeadFilter) Match(d *DeadLetter) bool {
	if f.Queue != "" && !Match(f.Queue, d.Queue) || f.Task != "" && !Match(f.Task, d.Envelope.Name) {
		return false
	}
	if f.Reason != "" && f.Reason != d.Reason || !f.Before.IsZero() && !d.DeadAt.Before(f.Before) {
		return false
	}
	if len(f.IDs) == 0 {
		return true
	}
	for _, id := range f.IDs {
		if id == d.Envelope.ID {
			return true
		}
	}
	return false
}

// Page asks for one page of a listing.
type Page struct {
	Limit  int    // 0: 50; at most 1000
	Cursor string // of the page before; empty: the first page
}

// Size is the page's limit with its default and its bound applied.
func (p Page) Size() int {
	if p.Limit <= 0 {
		return 50
	}
	return min(p.Limit, 1000)
}

// ReplayOptions shape a replay.
type ReplayOptions struct {
	Limit     int // at most so many, oldest first; 0: all that match
	DryRun    bool
	NotBefore time.Time // when they are due; zero: at once

	// Edited takes the place of the envelope of the one dead letter that the
	// filter names by its id; nil: envelopes stay as they are. See CheckEdit for
	// what it may change, and PowerEdit.
	Edited *task.Envelope
}

// Check says what is wrong with the options of a replay of what f selects, or
// nil. The error wraps task.ErrInvalid.
func (o ReplayOptions) Check(f DeadFilter) error {
	if err := task.ValidateTime("notBefore", o.NotBefore); err != nil {
		return err
	}
	if o.Edited == nil {
		return nil
	}
	if len(f.IDs) != 1 || f.IDs[0] != o.Edited.ID {
		return fmt.Errorf("%w replay: an edited envelope goes with a filter that has its id, %q, and no other", task.ErrInvalid, o.Edited.ID)
	}
	return o.Edited.Validate()
}

// CheckEdit says whether edited may take the place of a dead letter's envelope
// in a replay: args, headers, meta, retries and expiry may differ, but not who
// it is and where it stands in line. The error wraps task.ErrInvalid.
func (d *DeadLetter) CheckEdit(edited *task.Envelope) error {
	e := d.Envelope
	what := ""
	switch {
	case d.Raw != nil:
		return fmt.Errorf("%w edit of %s: its entry is no envelope", task.ErrInvalid, e.ID)
	case edited.ID != e.ID:
		what = "id"
	case edited.Name != e.Name:
		what = "name"
	case edited.Queue != e.Queue:
		what = "queue"
	case edited.Priority != e.Priority:
		what = "priority"
	case edited.EnqueuedAt.UnixMilli() != e.EnqueuedAt.UnixMilli():
		what = "enqueuedAt"
	case edited.VisibilityTimeout.Milliseconds() != e.VisibilityTimeout.Milliseconds():
		what = "visibilityTimeout"
	default:
		return nil
	}
	return fmt.Errorf("%w edit of %s: its %s cannot change", task.ErrInvalid, e.ID, what)
}

// Replayed says what a replay did, or would do.
type Replayed struct {
	Count   int
	Entries []ReplayedTask // of the first 1000; of a dry run, what would be replayed
}

// ReplayedTask is one task that a replay put back.
type ReplayedTask struct {
	ID          string
	Queue       string
	Epoch       int64 // after the replay
	ReplayCount int
	ReplayedAt  time.Time

	Envelope *task.Envelope // that it carries from now on; nil: as before
}

// PurgeOptions bound a purge of dead letters.
type PurgeOptions struct {
	Limit  int // at most so many, oldest first; 0: all that match
	DryRun bool
}

// Purged says what a purge removed, or would remove.
type Purged struct {
	Count int
	IDs   []string // of the first 1000
}
