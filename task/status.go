package task

import (
	"encoding/json"
	"maps"
	"time"
)

// Error is what is kept of a failed attempt.
type Error struct {
	Type      string    `json:"type"`            // a stable word: the error's Go type, or one of the Reason constants
	Message   string    `json:"message"`         //
	Stack     string    `json:"stack,omitempty"` // of a panic
	Retryable bool      `json:"retryable"`       // whether another attempt could help
	Attempt   int       `json:"attempt"`         // the attempt that failed, from 0
	At        time.Time `json:"at"`
	Worker    string    `json:"worker,omitempty"`
}

// Progress is what a running handler last said of itself.
type Progress struct {
	Percent float64         `json:"percent"` // 0–100
	Data    json.RawMessage `json:"data,omitempty"`
	At      time.Time       `json:"at"`
}

// MaxAttemptErrors is how many of the newest attempts' errors a status keeps.
const MaxAttemptErrors = 10

// Reasons why a task was dead-lettered or cancelled. A handler may give its
// own for a dead letter.
const (
	ReasonRetriesExhausted = "retries-exhausted"
	ReasonPermanent        = "permanent"
	ReasonCrashLoop        = "crash-loop"
	ReasonTaskUnknown      = "task-unknown"
	ReasonSignatureInvalid = "signature-invalid"
	ReasonEncoderUnknown   = "encoder-unknown"
	ReasonArgsInvalid      = "args-invalid"
	ReasonResultInvalid    = "result-invalid"
	ReasonResultTooLarge   = "result-too-large"
	ReasonOrphaned         = "orphaned"
	ReasonMalformed        = "malformed" // the stored entry is no envelope

	ReasonExpired = "expired" // cancelled: past its expiresAt
	ReasonRevoked = "revoked" // cancelled: somebody asked
	ReasonPurged  = "purged"  // cancelled: its queue was purged
)

// Status is the stored record of a task.
type Status struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State State  `json:"state"`
	Queue string `json:"queue"`

	Priority   int   `json:"priority"`
	Attempt    int   `json:"attempt"` // executions ended by the handler's own outcome or its time limit
	MaxRetries int   `json:"maxRetries"`
	Epoch      int64 `json:"epoch"`  // of the newest lease; raised by each lease and each replay
	Starts     int   `json:"starts"` // counted starts since the last settlement

	Worker     string    `json:"worker,omitempty"`
	EnqueuedAt time.Time `json:"enqueuedAt"`
	NotBefore  time.Time `json:"notBefore,omitzero"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	ExpiresAt  time.Time `json:"expiresAt,omitzero"` // when the record itself is removed; zero: never

	Args   json.RawMessage `json:"args,omitempty"`   // the first KiB, as a JSON string when cut
	Result json.RawMessage `json:"result,omitempty"` // of a succeeded task, unless ignored
	Reason string          `json:"reason,omitempty"` // of a failed or cancelled task
	Error  *Error          `json:"error,omitempty"`  // the newest attempt's
	Errors []Error         `json:"errors,omitempty"` // the newest MaxAttemptErrors, oldest first

	Progress *Progress                  `json:"progress,omitempty"`
	Meta     map[string]json.RawMessage `json:"meta,omitempty"` // the envelope's, and the marks below

	ReplayCount  int       `json:"replayCount,omitempty"`
	LastReplayAt time.Time `json:"lastReplayAt,omitzero"`
}

// Outcome is how one execution ended, or why a task ends without one. It is
// what a worker settles a delivery with, and what a result backend records.
type Outcome struct {
	// State is where the task goes: Succeeded, Retried, Failed (dead-lettered),
	// Cancelled, or Queued (released or snoozed: the attempt is not counted).
	State State

	Result    json.RawMessage // Succeeded; nil: none is kept
	Error     *Error          // Retried, Failed
	Reason    string          // Failed, Cancelled
	NotBefore time.Time       // Retried, Queued: when it is due; zero: at once, and a released task keeps its place

	// Reserved, of Queued: a rate limit gave the task a slot, which is its own
	// from NotBefore on, or now if that is zero; its next delivery says so.
	Reserved bool

	// Attempt is the task's attempt counter after this outcome.
	Attempt int

	Worker    string
	StartedAt time.Time // zero: no handler ran
	EndedAt   time.Time

	// Keep is how long the terminal status is kept: Forever, or 0 for not at
	// all. A failed task's status lives as long as its dead letter, whatever
	// Keep says, unless Keep is 0.
	Keep time.Duration
}

// MetaRateLimited is the mark in a status's Meta of a task that waits for, or
// has, a slot that a rate limit reserved for it. It is no part of the envelope.
const MetaRateLimited = "rateLimited"

// MarkRateLimited sets or removes the mark MetaRateLimited. It never writes into
// a map that the envelope shares.
func (s *Status) MarkRateLimited(on bool) {
	if _, has := s.Meta[MetaRateLimited]; has == on {
		return
	}
	meta := maps.Clone(s.Meta)
	if on {
		if meta == nil {
			meta = make(map[string]json.RawMessage, 1)
		}
		meta[MetaRateLimited] = json.RawMessage("true")
	} else {
		delete(meta, MetaRateLimited)
	}
	s.Meta = meta
}

// Forever as a retention: the record is never removed.
const Forever time.Duration = -1

// AppendError returns errs with e added and all but the newest
// MaxAttemptErrors dropped. It never writes into the given slice's array.
func AppendError(errs []Error, e *Error) []Error {
	if e == nil {
		return errs
	}
	if n := len(errs) - MaxAttemptErrors + 1; n > 0 {
		errs = errs[n:]
	}
	return append(errs[:len(errs):len(errs)], *e)
}

// maxKeptArgs is how many bytes of the arguments a status keeps.
const maxKeptArgs = 1024

// KeepsArgs reports whether the status of a task with that meta keeps args once the
// task has succeeded or is cancelled: unless MetaKeepArgs says false. What waits for
// a replay keeps its envelope in any case.
func KeepsArgs(meta map[string]json.RawMessage) bool {
	return string(meta[MetaKeepArgs]) != "false"
}

// KeepArgs returns what a status keeps of arguments: all of them up to one
// KiB, else a JSON string of their beginning.
func KeepArgs(args json.RawMessage) json.RawMessage {
	if len(args) <= maxKeptArgs {
		return args
	}
	cut, err := json.Marshal(string(args[:maxKeptArgs]) + "…")
	if err != nil {
		return nil
	}
	return cut
}

// NewStatus returns the status of an envelope that was just enqueued.
func NewStatus(e *Envelope) Status {
	return Status{
		ID: e.ID, Name: e.Name, State: Queued, Queue: e.Queue,
		Priority: e.Priority, Attempt: e.Attempt, MaxRetries: e.MaxRetries,
		EnqueuedAt: e.EnqueuedAt, NotBefore: e.NotBefore,
		Args: KeepArgs(e.Args), Meta: e.Meta,
	}
}
