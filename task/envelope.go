package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits and defaults of the wire format.
const (
	MaxIDLength     = 128     // bytes of an id
	MaxNameLength   = 200     // bytes of a task name
	MaxQueueLength  = 100     // bytes of a queue name
	MaxPriority     = 9       // delivered first
	DefaultPriority = 5       // when the envelope says nothing
	DefaultMaxSize  = 1 << 20 // bytes of an encoded envelope, and of a result
	MaxDepth        = 1000    // nesting of JSON arguments and results
)

// Envelope is the message that carries one task: what a broker stores and
// delivers. Once published it is never changed, by anyone; what changes on the
// way (attempt, queue after a move, the moment it is due) belongs to the
// delivery. Treat an Envelope that you were given as read-only.
type Envelope struct {
	ID   string // UUIDv7 unless the caller gave one; see ValidateID
	Name string // the task's name; see ValidateName

	// Args is the argument: any JSON value, or, when an encoder other than
	// json is named in the headers, a JSON string that holds the encoded bytes.
	// Nil stands for null.
	Args json.RawMessage

	Headers map[string]string // trace context, tenant, encoder; keys are lower case

	EnqueuedAt time.Time // UTC, milliseconds on the wire
	NotBefore  time.Time // zero: due at once
	ExpiresAt  time.Time // zero: never

	Priority   int // 0–9, 9 first
	Attempt    int // executions already counted when it was enqueued; 0 but for imports
	MaxRetries int

	VisibilityTimeout time.Duration // lease of this task; zero: the worker's

	Queue string
	Meta  map[string]json.RawMessage // Stem's own; see the Meta constants

	// Unknown holds the fields that this version does not know, by name. They
	// survive a round trip.
	Unknown map[string]json.RawMessage
}

// Keys of Envelope.Meta.
const (
	MetaParent       = "parent"       // id of the task whose handler enqueued this one
	MetaRoot         = "root"         // id of the first task of that line
	MetaRetention    = "retention"    // ms to keep the terminal status; 0: not at all; -1: for ever
	MetaIgnoreResult = "ignoreResult" // true: the result is dropped, the state kept
	MetaKeepArgs     = "keepArgs"     // false: the status keeps no args once the task has succeeded or is cancelled
	MetaLinks        = "links"        // envelopes enqueued when this one succeeds
	MetaErrorLinks   = "errorLinks"   // envelopes enqueued when this one is dead-lettered
	MetaUser         = "user"         // the caller's own annotations
	MetaEdited       = "edited"       // of a task replayed with other args: the first ones, and when
	MetaEncoder      = "encoder"      // the encoders of its result: those of HeaderEncoder

	// MetaRetriesUnsaid true: neither the call nor a declaration of the task
	// chose MaxRetries, so a worker's own declaration goes before it.
	MetaRetriesUnsaid = "retriesUnsaid"
)

// HeaderEncoder names the payload encoders of Args, outermost last, joined by
// "+"; absent means json.
const HeaderEncoder = "stem-encoder"

// NewID returns a fresh id: a UUIDv7, which sorts by the moment of its making.
func NewID() string {
	id, err := uuid.NewV7()
	if err != nil {
		panic("task: the system's source of random bytes failed: " + err.Error())
	}
	return id.String()
}

// ErrInvalid is wrapped by every error that says an envelope, or a part of
// one, breaks the wire format.
var ErrInvalid = errors.New("invalid")

// ErrTooLarge is wrapped when an envelope or a result exceeds its size limit.
var ErrTooLarge = errors.New("too large")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w "+format, append([]any{ErrInvalid}, args...)...)
}

func check(what, value string, limit int, allowed string) error {
	if value == "" {
		return invalid("%s: it is empty", what)
	}
	if len(value) > limit {
		return invalid("%s %.40q…: %d bytes, at most %d", what, value, len(value), limit)
	}
	// A bit for each byte that may be there: no branch depends on a letter, which
	// nobody can predict of an id.
	set := [4]uint64{(1<<10 - 1) << '0', (1<<26-1)<<('A'-64) | (1<<26-1)<<('a'-64)}
	for i := range len(allowed) {
		set[allowed[i]>>6] |= 1 << (allowed[i] & 63)
	}
	for i := range len(value) {
		if set[value[i]>>6]>>(value[i]&63)&1 == 0 {
			return invalid("%s %q: want 1–%d of A-Z a-z 0-9 %s", what, value, limit, allowed)
		}
	}
	return nil
}

// ValidateID checks a task id: 1–128 of A-Z a-z 0-9 . _ : -.
func ValidateID(id string) error { return check("task id", id, MaxIDLength, "._:-") }

// ValidateName checks a task name: 1–200 of A-Z a-z 0-9 . _ : - /.
func ValidateName(name string) error { return check("task name", name, MaxNameLength, "._:-/") }

// ValidateQueue checks a queue name: 1–100 of A-Z a-z 0-9 . _ -, and not one
// of dots alone.
func ValidateQueue(queue string) error {
	if err := check("queue name", queue, MaxQueueLength, "._-"); err != nil {
		return err
	}
	if strings.Trim(queue, ".") == "" {
		return invalid("queue name %q: it has dots alone", queue)
	}
	return nil
}

// earliest and latest bound the moments that fit the wire's four-digit years.
var (
	earliest = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)
)

// ValidateTime checks a moment: from 1970 to the end of the year 9999. The
// zero time is valid and stands for absent.
func ValidateTime(what string, t time.Time) error {
	if !t.IsZero() && (t.Before(earliest) || t.After(latest)) {
		return invalid("%s %s: want a moment from 1970 to 9999", what, t.UTC().Format(time.RFC3339))
	}
	return nil
}

// Validate checks everything but the size. The error wraps ErrInvalid.
func (e *Envelope) Validate() error {
	if err := e.validateFields(); err != nil {
		return err
	}
	for k, v := range e.Headers {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return invalid("header %q: it is not UTF-8", k)
		}
	}
	for k, v := range e.Meta {
		if err := checkMember(k, v); err != nil {
			return invalid("meta %q: %w", k, err)
		}
	}
	for k, v := range e.Unknown {
		if err := checkMember(k, v); err != nil {
			return invalid("field %q: %w", k, err)
		}
	}
	return ValidateJSON("args", e.Args)
}

func checkMember(key string, value json.RawMessage) error {
	if !utf8.ValidString(key) {
		return errors.New("its name is not UTF-8")
	}
	return checkJSON(value)
}

// validateFields checks what the wire's syntax leaves open.
func (e *Envelope) validateFields() error {
	for _, err := range []error{ValidateID(e.ID), ValidateName(e.Name), ValidateQueue(e.Queue)} {
		if err != nil {
			return err
		}
	}
	switch {
	case e.Priority < 0 || e.Priority > MaxPriority:
		return invalid("priority %d: want 0 (last) to %d (first)", e.Priority, MaxPriority)
	case e.Attempt < 0 || e.Attempt > math.MaxInt32:
		return invalid("attempt %d: want 0 to %d", e.Attempt, math.MaxInt32)
	case e.MaxRetries < 0 || e.MaxRetries > math.MaxInt32:
		return invalid("maxRetries %d: want 0 to %d", e.MaxRetries, math.MaxInt32)
	case e.VisibilityTimeout < 0:
		return invalid("visibilityTimeout %s: want a positive duration", e.VisibilityTimeout)
	case e.EnqueuedAt.IsZero():
		return invalid("enqueuedAt: it is missing")
	}
	for _, err := range []error{
		ValidateTime("enqueuedAt", e.EnqueuedAt),
		ValidateTime("notBefore", e.NotBefore),
		ValidateTime("expiresAt", e.ExpiresAt),
	} {
		if err != nil {
			return err
		}
	}
	for k := range e.Headers {
		if k == "" || k != strings.ToLower(k) {
			return invalid("header %q: keys are lower case and not empty", k)
		}
	}
	return nil
}

// Expired reports whether the task must no longer be executed at that moment.
func (e *Envelope) Expired(now time.Time) bool {
	return !e.ExpiresAt.IsZero() && !now.Before(e.ExpiresAt)
}
