package stem

import (
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Errors that callers branch on with errors.Is.
var (
	// ErrNotFound: no such task is known, or its status was kept no longer.
	ErrNotFound = store.ErrNotFound
	// ErrTaskExists: an explicit id is in use. The error is a *TaskExistsError.
	ErrTaskExists = errors.New("a task with this id exists")
	// ErrNoResult: the task succeeded, and its result was not kept.
	ErrNoResult = errors.New("the task's result was not kept")
	// ErrOutcomeUnknown: the store did not answer, so that a task may or may
	// not have been stored. Repeating with the same id is safe.
	ErrOutcomeUnknown = errors.New("outcome of the enqueue unknown")
	// ErrQueueFull: the queue accepts no more.
	ErrQueueFull = errors.New("queue is full")
	// ErrTooLarge: an envelope or a result exceeds its size limit.
	ErrTooLarge = task.ErrTooLarge
	// ErrInvalid: an id, a name, an option or an argument breaks a rule.
	ErrInvalid = task.ErrInvalid
)

// Causes of a handler's cancelled context, for context.Cause.
var (
	ErrSoftTimeout = runner.ErrSoftTimeout
	ErrHardTimeout = runner.ErrHardTimeout
	ErrLeaseLost   = runner.ErrLeaseLost
	ErrRevoked     = runner.ErrRevoked
	ErrShutdown    = runner.ErrShutdown
)

// TaskExistsError is the error of an enqueue whose explicit id is in use.
type TaskExistsError struct {
	ID     string
	Status *Status // of the existing task, when it could be read
}

func (e *TaskExistsError) Error() string {
	if e.Status == nil {
		return fmt.Sprintf("task %s exists", e.ID)
	}
	return fmt.Sprintf("task %s exists and is %s", e.ID, e.Status.State)
}

// Unwrap makes errors.Is(err, ErrTaskExists) true.
func (e *TaskExistsError) Unwrap() error { return ErrTaskExists }

// TaskError is how a task ended that did not succeed, as Wait returns it.
type TaskError struct {
	ID      string
	State   State  // Failed or Cancelled
	Reason  string // such as "retries-exhausted" or "revoked"
	Type    string // of the last error
	Message string
	Attempt int // executions that ended by the handler's outcome or its time limit
}

func (e *TaskError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("task %s %s: %s", e.ID, e.State, e.Reason)
	}
	return fmt.Sprintf("task %s %s: %s: %s", e.ID, e.State, e.Reason, e.Message)
}

// Permanent marks a handler's error as one that another attempt cannot help:
// the task is dead-lettered at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &runner.PermanentError{Err: err}
}

// PermanentFor is Permanent with a reason of your own for the dead letter.
func PermanentFor(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &runner.PermanentError{Err: err, Reason: reason}
}

// RetryIn fails the attempt and makes the next one due d from now, in place of
// the task's retry policy. err is what went wrong, and may be nil.
func RetryIn(d time.Duration, err error) error {
	return &runner.RetryError{Err: err, In: max(d, 0)}
}

// RetryAt fails the attempt and makes the next one due at t.
func RetryAt(t time.Time, err error) error {
	return &runner.RetryError{Err: err, At: t}
}

// Snooze puts the task off until d from now without counting an attempt.
func Snooze(d time.Duration) error { return &runner.SnoozeError{In: max(d, 0)} }
