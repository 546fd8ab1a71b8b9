package beat

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/task"
)

// Entry is one schedule, as an operator asks for it.
type Entry struct {
	ID          string // 1–128 of A-Z a-z 0-9 . _ : -
	Description string
	Task        string              // the name of the task that it enqueues
	Spec        schedule.Definition // when
	Args        json.RawMessage     // nil: null
	Options     EnqueueOptions

	// Jitter spreads entries that are due together: each moment is put off by
	// less than this, by an amount derived from (ID, moment), so that every beat
	// finds the same. At most 24 h.
	Jitter time.Duration
	// StartAt and EndAt bound the moments, both included; zero: no bound. An
	// "every" counts from StartAt, unless its spec has a phase of its own.
	StartAt, EndAt time.Time

	Misfire Misfire
	Overlap Overlap // "": OverlapAllow
	RunOnce bool    // it fires once, and then never again

	// Enabled and Paused say whether it fires: it does when enabled and not
	// paused. Enabled is what its owner wants, Paused is an operator's stop for a
	// while, with a Note of why. Nil keeps what the store has; of a new entry:
	// enabled, not paused. Moments of that time are no misfires: they are not due.
	Enabled *bool
	Paused  *bool
	Note    string
}

// EnqueueOptions are those of each enqueue. What is not said is left to the task's
// declaration, where the beat knows it, and to the client.
type EnqueueOptions struct {
	Queue             string
	Priority          *int
	MaxRetries        *int
	ExpiresIn         time.Duration // from the firing; 0: never
	VisibilityTimeout time.Duration
	Retention         *time.Duration // stem.Forever; 0: no status at all
	IgnoreResult      bool
	Headers           map[string]string
	Meta              map[string]json.RawMessage
}

// Misfire says what becomes of moments that passed while no beat ran.
type Misfire struct {
	Policy Policy // "": PolicyLatest
	// Grace is how late a moment may fire; what is later is passed over. 0: any
	// time, and with PolicySkip 10 s, which is longer than a takeover.
	Grace time.Duration
	// Max is how many missed moments PolicyAll fires, the newest ones; 0: 1000; at
	// most 10000.
	Max int
}

// Policy is what becomes of several moments that are due at once.
type Policy string

// The policies for missed moments.
const (
	PolicyLatest Policy = "latest" // the newest fires, the others are passed over
	PolicyAll    Policy = "all"    // each fires, oldest first, up to Misfire.Max
	PolicySkip   Policy = "skip"   // each fires that is not later than Misfire.Grace
)

// Overlap is what becomes of a moment whose predecessor's task has not ended.
type Overlap string

// What may happen with a moment when the task before it still waits or runs.
const (
	OverlapAllow Overlap = "allow" // it fires
	OverlapSkip  Overlap = "skip"  // it is passed over
	OverlapQueue Overlap = "queue" // it waits; of those that wait at last, Misfire decides
)

// Bounds of an entry.
const (
	maxJitter      = 24 * time.Hour
	maxGrace       = 10 * 366 * 24 * time.Hour
	defaultGrace   = 10 * time.Second // of PolicySkip
	defaultMax     = 1000
	maxMax         = 10_000
	maxDefinition  = 64 << 10 // bytes
	maxDescription = 1000     // bytes, of a note too
)

// Enabled reports whether the entry wants to fire: enabled and not paused.
func (e *Entry) active() bool {
	return (e.Enabled == nil || *e.Enabled) && (e.Paused == nil || !*e.Paused)
}

func (e *Entry) policy() Policy {
	if e.Misfire.Policy == "" {
		return PolicyLatest
	}
	return e.Misfire.Policy
}

// FieldError says what is wrong with an entry: which field, and what. It is
// stem.ErrInvalid.
type FieldError struct {
	Field string // such as "options.priority"; "": the entry as a whole
	Err   error
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Err.Error()
	}
	return e.Field + ": " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// Is reports that it is stem.ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == stem.ErrInvalid }

func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// ValidateID checks an entry's id: 1–128 of A-Z a-z 0-9 . _ : -.
func ValidateID(id string) error {
	if task.ValidateID(id) != nil {
		return wrong("id", "%.140q: want 1–%d of A-Z a-z 0-9 . _ : -", id, task.MaxIDLength)
	}
	return nil
}

// Validate tells the first thing that is wrong with the entry, as a
// *FieldError. It asks no store: whether a worker knows the task is another
// question.
func (e *Entry) Validate() error {
	_, err := e.compile(&schedule.Loader{})
	return err
}

// compile checks the entry and returns its moments.
func (e *Entry) compile(l *schedule.Loader) (*moments, error) {
	if err := ValidateID(e.ID); err != nil {
		return nil, err
	}
	if err := task.ValidateName(e.Task); err != nil {
		return nil, &FieldError{"task", err}
	}
	m, err := e.moments(l)
	if err != nil {
		return nil, err
	}
	if err := e.checkRest(); err != nil {
		return nil, err
	}
	return m, e.checkEnvelope()
}

func (e *Entry) checkRest() error {
	switch {
	case e.Jitter < 0 || e.Jitter > maxJitter || e.Jitter%time.Millisecond != 0:
		return wrong("jitter", "%s: want whole milliseconds, from 0 to 24h", e.Jitter)
	case !slices.Contains([]Policy{PolicyLatest, PolicyAll, PolicySkip}, e.policy()):
		return wrong("misfire.policy", "%.40q: want latest, all or skip", e.Misfire.Policy)
	case e.Misfire.Grace < 0 || e.Misfire.Grace > maxGrace:
		return wrong("misfire.grace", "%s: want from 0 to ten years", e.Misfire.Grace)
	case e.Misfire.Max < 0 || e.Misfire.Max > maxMax:
		return wrong("misfire.max", "%d: want from 1 to %d", e.Misfire.Max, maxMax)
	case e.Misfire.Max > 0 && e.policy() != PolicyAll:
		return wrong("misfire.max", "want it with policy all alone")
	case !slices.Contains([]Overlap{"", OverlapAllow, OverlapSkip, OverlapQueue}, e.Overlap):
		return wrong("overlap", "%.40q: want allow, skip or queue", e.Overlap)
	case len(e.Description) > maxDescription:
		return wrong("description", "%d bytes: want at most %d", len(e.Description), maxDescription)
	case len(e.Note) > maxDescription:
		return wrong("note", "%d bytes: want at most %d", len(e.Note), maxDescription)
	}
	return nil
}

// checkEnvelope checks what would be enqueued.
func (e *Entry) checkEnvelope() error {
	o := &e.Options
	if o.Queue != "" {
		if err := task.ValidateQueue(o.Queue); err != nil {
			return &FieldError{"options.queue", err}
		}
	}
	if e.Args != nil {
		if err := task.ValidateJSON("arguments", e.Args); err != nil {
			return &FieldError{"args", err}
		}
	}
	if o.Priority != nil && (*o.Priority < 0 || *o.Priority > task.MaxPriority) {
		return wrong("options.priority", "%d: want from 0 to %d", *o.Priority, task.MaxPriority)
	}
	if o.MaxRetries != nil && (*o.MaxRetries < 0 || *o.MaxRetries > 1_000_000) {
		return wrong("options.maxRetries", "%d: want from 0 to 1000000", *o.MaxRetries)
	}
	if o.ExpiresIn < 0 {
		return wrong("options.expiresIn", "%s: want more than none", o.ExpiresIn)
	}
	item := e.item(nil, TaskID(e.ID, time.UnixMilli(0)), time.UnixMilli(0))
	if _, err := item.Options(); err != nil {
		return &FieldError{"options", err}
	}
	raw, err := e.MarshalJSON()
	if err != nil {
		return &FieldError{"args", err}
	}
	if len(raw) > maxDefinition {
		return wrong("", "it has %d bytes, at most %d: keep large arguments elsewhere and pass a reference", len(raw), maxDefinition)
	}
	return nil
}

// item is the task that the entry enqueues, under that id, when the store's
// clock says now.
func (e *Entry) item(known map[string]stem.Registration, id string, now time.Time) stem.Item {
	o := &e.Options
	opts := []stem.Option{stem.ID(id)}
	if o.Queue != "" {
		opts = append(opts, stem.Queue(o.Queue))
	}
	if o.Priority != nil {
		opts = append(opts, stem.Priority(*o.Priority))
	}
	if o.MaxRetries != nil {
		opts = append(opts, stem.MaxRetries(*o.MaxRetries))
	}
	if o.ExpiresIn > 0 {
		opts = append(opts, stem.ExpiresAt(now.Add(o.ExpiresIn)))
	}
	if o.VisibilityTimeout != 0 {
		opts = append(opts, stem.VisibilityTimeout(o.VisibilityTimeout))
	}
	if o.Retention != nil {
		opts = append(opts, stem.Retention(*o.Retention))
	}
	if o.IgnoreResult {
		opts = append(opts, stem.IgnoreResult())
	}
	for _, k := range slices.Sorted(maps.Keys(o.Headers)) {
		opts = append(opts, stem.Header(k, o.Headers[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Meta)) {
		opts = append(opts, stem.Meta(k, o.Meta[k]))
	}
	opts = append(opts, stem.Meta("schedule", e.ID))
	if r, ok := known[e.Task]; ok {
		return r.Item(e.Args, opts...)
	}
	return stem.NewItem(e.Task, e.Args, opts...)
}

// longestIn is how long an id may be to stand in a task's id as it is.
const longestIn = 100

// TaskID is the id of the task that an entry enqueues for one due moment:
// sch:ID:20260302T020000.000Z. The same moment has the same id, so that no broker
// stores it twice. An id of more than 100 bytes stands there by its hash.
func TaskID(id string, due time.Time) string {
	if len(id) > longestIn {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:16])
	}
	return "sch:" + id + ":" + due.UTC().Format("20060102T150405.000Z")
}

// errNotActive is why an entry that is disabled or paused does not fire.
var errNotActive = errors.New("it is disabled or paused")
