package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
)

// Causes of a handler's cancelled context (context.Cause).
var (
	ErrSoftTimeout = errors.New("soft time limit reached")
	ErrHardTimeout = errors.New("hard time limit reached")
	ErrRevoked     = errors.New("task revoked")
	ErrShutdown    = errors.New("worker is shutting down")
	ErrLeaseLost   = broker.ErrLeaseLost
)

// PermanentError refuses another attempt; Reason, when set, is the dead
// letter's.
type PermanentError struct {
	Err    error
	Reason string
}

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// RetryError chooses the moment of the next attempt: At, or In from now.
type RetryError struct {
	Err error // may be nil
	At  time.Time
	In  time.Duration
}

func (e *RetryError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	if !e.At.IsZero() {
		return "retry at " + e.At.UTC().Format(time.RFC3339)
	}
	return "retry in " + e.In.String()
}
func (e *RetryError) Unwrap() error { return e.Err }

// SnoozeError reschedules without counting an attempt.
type SnoozeError struct{ In time.Duration }

func (e *SnoozeError) Error() string { return fmt.Sprintf("snoozed for %s", e.In) }

// ResultError says that a handler's result cannot be stored; Reason is one of
// the task.Reason constants. It is permanent.
type ResultError struct {
	Reason string
	Err    error
}

func (e *ResultError) Error() string { return e.Err.Error() }
func (e *ResultError) Unwrap() error { return e.Err }

// ArgsError says that a task's arguments cannot be read; Reason is one of the
// task.Reason constants. It is permanent.
type ArgsError struct {
	Reason string
	Err    error
}

func (e *ArgsError) Error() string { return e.Err.Error() }
func (e *ArgsError) Unwrap() error { return e.Err }
