package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
)

// ErrConflict says that an entry was changed by somebody else since it was read.
// Backends return it as a *ConflictError.
var ErrConflict = errors.New("changed by somebody else")

// ErrNoSchedule says that there is no entry of that id.
var ErrNoSchedule = errors.New("schedule not found")

// ErrNotDue says that the moment of a firing has not come by the store's clock.
var ErrNotDue = errors.New("schedule not due yet")

// LeadLock is the name of the lock whose holder fires schedules.
const LeadLock = "beat"

// MaxHistory is how many of its newest firings an entry keeps.
const MaxHistory = 100

// DueLimit is how many entries Due returns when it is not told.
const DueLimit = 1000

// MaxDefinition is how many bytes a definition may have.
const MaxDefinition = 64 << 10

// Schedules keeps the entries of the scheduler. What an entry means is beat's
// business: a store sees when the entry is next to be looked at, and moves it on
// when a firing claims its due moment. "Now" is the store's clock everywhere.
// Moments are kept, and compared, in whole milliseconds; those at which
// something happened in whole microseconds.
//
//   - T1  Apply is all or nothing. A change applies when its entry is at the
//     version and the last due moment that the change was made from (zero for an
//     entry that must not exist yet; a delete asks for the version alone); else
//     it is a *ConflictError. It raises the version. Versions of an id are never
//     used again, not even after the entry was deleted. What CheckChanges
//     refuses is task.ErrInvalid: a wrong change, an id that is there twice, more
//     than MaxChanges. The answer has each entry as it is stored now, or as it
//     was before it was deleted.
//   - T2  A delete removes the entry with its history; what is pending stays
//     so. Deleting, or changing, what is not there is ErrNoSchedule.
//   - T3  Get and List show what an earlier call stored. List goes by id, in
//     pages that neither repeat nor skip an entry that did not change.
//   - T4  Due returns the entries whose NextAt has come, or will have come by
//     so much ahead, the earliest first and then by id, at most limit; and how
//     long it is until the next one. It changes nothing. An entry with a zero
//     NextAt is never due.
//   - T5  Fire claims: a firing applies when the lead is the newest token of
//     its lock and has not ended (else broker.ErrLeaseLost, for all of the
//     batch), the entry is there (ErrNoSchedule) at the version given, and Due
//     is its NextDue (else a *ConflictError), and its NotBefore has come (else
//     ErrNotDue). The entry then has LastDue, NextDue, NextAt and the marks of
//     the firing, and its history the record.
//     Each firing applies whole or not at all, and fails alone; one that Check
//     refuses is task.ErrInvalid. Several of one entry apply in their order.
//   - T6  Where FiresInto is true for a broker, the publication of an Atomic
//     firing is stored in that broker in the same step. An id that is known, or
//     a claim that is held, is OutcomeDuplicate; one that is refused is
//     OutcomeFailed with the error: the entry moves on in both cases, as its
//     record says. Where it is true for none, an Atomic firing is
//     broker.ErrUnsupported.
//   - T7  Otherwise Fire keeps the publication as pending in the same step,
//     and Due lists what is pending, the oldest first, until Finish says what
//     became of it: the history's record and the entry's marks follow. Only
//     LastTask is set by the claim already, since a process that dies between
//     the two may have enqueued it; Finish takes it back when it was refused.
//     Finish under a lead that is not the newest is broker.ErrLeaseLost;
//     finishing twice is no error and changes nothing. What is pending and
//     cannot be read is passed over: it keeps nobody else from firing.
//   - T8  History has an entry's newest records, the newest first, MaxHistory
//     at most; of what is not there it is ErrNoSchedule.
//   - T9  Wait returns soon after an entry was applied, by whichever process,
//     since the Due whose Changes it is told, whoever called Due meanwhile; and
//     at the latest after atMost. Ending it loses nothing. It may return early.
//   - T10 Ten thousand entries due at once are claimed in batches, and 100,000
//     that are not due cost Due nothing: it reads an index.
//   - T11 After the backend's Close every call returns broker.ErrClosed, and
//     waiting ones return. All methods are safe for concurrent use; a cancelled
//     context ends a call with its error.
type Schedules interface {
	// Apply creates, changes and deletes entries.
	Apply(ctx context.Context, changes []ScheduleChange) ([]Schedule, error)
	// Get has an answer for each id, in their order.
	Get(ctx context.Context, ids ...string) ([]FoundSchedule, error)
	// List returns a page, and the cursor of the next one; "" after the last.
	List(ctx context.Context, p broker.Page) ([]Schedule, string, error)
	// History returns the newest records; a limit of 0 is MaxHistory.
	History(ctx context.Context, id string, limit int) ([]FireRecord, error)

	// Due says what is to be fired, now or so much later; a limit of 0 is DueLimit.
	Due(ctx context.Context, limit int, ahead time.Duration) (Due, error)
	// Fire claims due moments. An error means that nothing is known of any of
	// the batch: what Due says next is the truth.
	Fire(ctx context.Context, lead Lock, batch []Firing) ([]FireAnswer, error)
	// Finish says what became of pending firings: the ID and Due of a record
	// name one, its Outcome, Task and Error are the news.
	Finish(ctx context.Context, lead Lock, batch []FireRecord) error
	// Wait waits for a change of the entries since a Due, known by its Changes.
	Wait(ctx context.Context, since int64, atMost time.Duration) error
}

// FiresInto is implemented by schedules that can store their publications in a
// broker in the step that claims the moment (rule T6): that of the same backend.
// It is false of what wraps that broker, since the wrapper would not see them.
type FiresInto interface {
	FiresInto(b broker.Broker) bool
}

// Schedule is an entry: what was asked for, and where it stands.
type Schedule struct {
	ID         string          `json:"id"` // 1–128 of A-Za-z0-9._:- as a task's id
	Version    int64           `json:"version"`
	Definition json.RawMessage `json:"definition"` // opaque here; at most 64 KiB
	UpdatedAt  time.Time       `json:"updatedAt"`

	// NextDue is the next moment by its spec; zero: it never fires again, or is
	// disabled or paused. NextAt is when beat looks at it: NextDue with its
	// jitter.
	NextDue time.Time `json:"nextDue,omitzero"`
	NextAt  time.Time `json:"nextAt,omitzero"`

	LastDue   time.Time     `json:"lastDue,omitzero"`    // the newest moment that was claimed
	LastFired time.Time     `json:"lastFired,omitzero"`  // when that happened
	LastTask  string        `json:"lastTask,omitempty"`  // of the newest firing whose task is enqueued, or was, or may be; "" when that was refused
	LastError string        `json:"lastError,omitempty"` // of the newest firing that failed, until one has not
	Jitter    time.Duration `json:"jitter"`              // ns, of the newest firing
	Drift     time.Duration `json:"drift"`               // ns: LastFired − (LastDue + Jitter)
	Fired     int64         `json:"fired"`               // tasks enqueued, those by hand apart
	Misfired  int64         `json:"misfired"`            // due moments passed over: the sum of Missed
}

// ScheduleChange creates, changes or deletes one entry.
type ScheduleChange struct {
	ID      string
	Version int64     // that it was made from; 0: the entry must not exist
	LastDue time.Time // that NextDue was computed from; zero with Version 0

	Delete     bool
	Definition json.RawMessage // nil: as it is
	NextDue    time.Time       // must be after LastDue, or zero
	NextAt     time.Time       // zero when NextDue is, and only then
	// Record is put into its history in the same step, with the entry's id and
	// the moment that it is stored: a run by hand. It moves no mark.
	Record *FireRecord
}

// ConflictError says which entry changed. It is ErrConflict.
type ConflictError struct {
	ID   string
	Have int64 // the version that the store has; 0: there is none
	Want int64 // the version that the change was made from
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("schedule %q exists already, at version %d", e.ID, e.Have)
	case e.Have == 0:
		return fmt.Sprintf("schedule %q was deleted by somebody else, it was at version %d", e.ID, e.Want)
	case e.Have == e.Want:
		return fmt.Sprintf("schedule %q fired meanwhile", e.ID)
	default:
		return fmt.Sprintf("schedule %q is at version %d, not %d: it was changed by somebody else", e.ID, e.Have, e.Want)
	}
}

// Is reports that it is ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// FoundSchedule is the answer for one id of a Get.
type FoundSchedule struct {
	Schedule Schedule
	Err      error // ErrNoSchedule
}

// Due is what is to be fired, and when to look again.
type Due struct {
	Now     time.Time // by the store's clock
	Entries []Schedule
	More    bool          // more entries are due, or will be by so much ahead, than limit
	Next    time.Duration // until the next NextAt after those, at least 1; 0: there is none
	Pending []Pending     // at most limit; see T7
	Changes int64         // stands for what the entries were: for Wait
}

// Pending is a firing whose task is not known to be enqueued yet.
type Pending struct {
	Record      FireRecord
	Publication broker.Publication
}

// Firing claims one due moment of one entry.
type Firing struct {
	ID      string
	Version int64
	Due     time.Time // its NextDue

	Next   time.Time // its NextDue from now on, after Due; zero: it never fires again
	NextAt time.Time // zero when Next is, and only then

	// NotBefore is for a claim that was made ready ahead: what the store's clock
	// must have come to; zero: whatever it says.
	NotBefore time.Time

	Jitter time.Duration
	// Publication is enqueued with the claim; nil for a moment that is passed
	// over: Outcome and Error then say why.
	Publication *broker.Publication
	Atomic      bool // publish in this step: FiresInto is true for the broker that it is for
	Outcome     FireOutcome
	Error       string
	Missed      int    // due moments that this claim passes over, itself included when it is OutcomeMisfired
	Beat        string // who fires
}

// FireAnswer says what became of one firing: Err, or the record as stored.
type FireAnswer struct {
	Record FireRecord
	Err    error
}

// FireOutcome says what became of a due moment.
type FireOutcome string

// What became of a due moment.
const (
	OutcomeFired     FireOutcome = "fired"     // its task is enqueued
	OutcomePending   FireOutcome = "pending"   // claimed; its task is not known to be enqueued yet
	OutcomeDuplicate FireOutcome = "duplicate" // its task was enqueued before
	OutcomeMisfired  FireOutcome = "misfired"  // passed over by the misfire policy
	OutcomeOverlap   FireOutcome = "overlap"   // passed over: the task before it has not ended
	OutcomeFailed    FireOutcome = "failed"    // the broker refused its task, or there was none to make
	OutcomeUnknown   FireOutcome = "unknown"   // pending for so long that nobody can tell any more
	OutcomeManual    FireOutcome = "manual"    // run by hand
)

// FireRecord is one line of an entry's history.
type FireRecord struct {
	ID      string        `json:"id"` // of the schedule
	Due     time.Time     `json:"due"`
	Fired   time.Time     `json:"fired"` // by the store's clock
	Outcome FireOutcome   `json:"outcome"`
	Task    string        `json:"task,omitempty"`
	Jitter  time.Duration `json:"jitter"` // ns
	Drift   time.Duration `json:"drift"`  // ns
	Missed  int           `json:"missed,omitempty"`
	Error   string        `json:"error,omitempty"`
	Beat    string        `json:"beat,omitempty"`
}
