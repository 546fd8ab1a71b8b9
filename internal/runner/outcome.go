package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stemjobs/stem/task"
)

// Bounds of what is kept of an error.
const (
	maxMessage = 4 << 10
	maxStack   = 16 << 10
)

// The types of kept errors that are not an error's Go type.
const (
	typePanic       = "panic"
	typeSoftTimeout = "soft-timeout"
	typeHardTimeout = "hard-timeout"
)

const null = "null" // the result of a handler that returns none

// panicError is what a handler's panic becomes.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprint(e.value) }

// verdict is an outcome before the runner's own times and retention are put
// on it.
type verdict struct {
	state   task.State
	reason  string
	counted bool // the attempt counts
	kind    string
	err     error
	wait    time.Duration // Retried, Queued: until the next; negative: at once and in place
	at      time.Time     // the same as a moment; wins over wait
	retry   bool          // another attempt could help

	reserved bool // Queued: at is a slot that a rate limit gave it
}

// release gives a delivery back, uncounted and in its place.
var release = verdict{state: task.Queued, wait: -1}

// judge turns what a handler returned into a verdict. cause is why its context
// was cancelled, nil if it was not.
func (j *Job) judge(err, cause error) verdict {
	var snooze *SnoozeError
	switch {
	case errors.Is(cause, ErrRevoked):
		return verdict{state: task.Cancelled, reason: task.ReasonRevoked}
	case errors.Is(cause, ErrLeaseLost):
		// The lease could not be renewed in time. If nobody took the task
		// since, giving it back is quicker than waiting.
		return release
	case errors.As(err, &snooze):
		return verdict{state: task.Queued, wait: max(0, snooze.In)}
	case errors.Is(cause, ErrShutdown):
		return j.interrupted(err)
	}
	return j.failed(err, cause)
}

// interrupted judges a handler that was told to stop: its word stands when it
// is one of its own, and else it does not count.
func (j *Job) interrupted(err error) verdict {
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrShutdown) {
		return j.giveBack()
	}
	var permanent *PermanentError
	var retry *RetryError
	switch {
	case errors.As(err, &permanent):
		return j.failed(err, nil)
	case errors.As(err, &retry):
		return verdict{state: task.Queued, at: retry.At, wait: max(0, retry.In)}
	}
	return j.giveBack()
}

// giveBack releases a delivery whose handler was stopped in good order. The
// first time it keeps its place, and its counted start with it. Later ones
// trade the place for a fresh count: a task that deployments interrupt again
// and again is no crash loop.
func (j *Job) giveBack() verdict {
	if j.Delivery.Starts == 0 {
		return release
	}
	return verdict{state: task.Queued, wait: 0}
}

// failed judges an error that counts as an attempt.
func (j *Job) failed(err, cause error) verdict {
	v := verdict{state: task.Failed, counted: true, err: err, kind: errorType(err)}
	var args *ArgsError
	var result *ResultError
	var permanent *PermanentError
	var retry *RetryError
	switch {
	case errors.As(err, &args):
		v.reason = orElse(args.Reason, task.ReasonArgsInvalid)
		v.kind = v.reason
		return v
	case errors.As(err, &result):
		v.reason = orElse(result.Reason, task.ReasonResultInvalid)
		v.kind = v.reason
		return v
	case errors.As(err, &permanent):
		v.reason = orElse(permanent.Reason, task.ReasonPermanent)
		return v
	case errors.Is(err, ErrHardTimeout):
		v.kind = typeHardTimeout
	case errors.Is(cause, ErrHardTimeout) && isContextError(err):
		v.kind, v.err = typeHardTimeout, reached(ErrHardTimeout, err)
	case errors.Is(cause, ErrSoftTimeout) && isContextError(err):
		v.kind, v.err = typeSoftTimeout, reached(ErrSoftTimeout, err)
	}
	v.retry = true
	done := j.Delivery.Attempt - j.Delivery.RetryBase
	if done >= j.MaxRetries() {
		v.reason = task.ReasonRetriesExhausted
		return v
	}
	v.state = task.Retried
	if errors.As(err, &retry) {
		v.at, v.wait = retry.At, max(0, retry.In)
	} else {
		v.wait = j.delay(done, err)
	}
	return v
}

// reached says that a limit was, unless err does.
func reached(limit, err error) error {
	if errors.Is(err, limit) {
		return err
	}
	return fmt.Errorf("%w: %w", limit, err)
}

// delay asks the task's policy, whose own function may panic.
func (j *Job) delay(done int, err error) (wait time.Duration) {
	defer func() {
		if recover() != nil {
			wait = Retry{}.Delay(done, err)
		}
	}()
	if j.task == nil {
		return Retry{}.Delay(done, err)
	}
	return j.task.Retry.Delay(done, err)
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrSoftTimeout)
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// outcome puts times, worker and retention on a verdict.
func (r *Runner) outcome(j *Job, v verdict, now time.Time) task.Outcome {
	o := task.Outcome{
		State: v.state, Reason: v.reason, Attempt: j.Delivery.Attempt,
		Worker: r.cfg.ID, StartedAt: j.Started, EndedAt: now, Keep: r.keep(j),
	}
	if v.counted {
		o.Attempt++
	}
	if v.err != nil {
		o.Error = &task.Error{
			Type: v.kind, Message: clip(v.err.Error(), maxMessage), Retryable: v.retry,
			Attempt: j.Delivery.Attempt, At: now, Worker: r.cfg.ID,
		}
		var p *panicError
		var remote *RemoteError
		switch {
		case errors.As(v.err, &p):
			o.Error.Stack = p.stack
		case errors.As(v.err, &remote):
			o.Error.Stack = clip(remote.Stack, maxStack)
		}
	}
	// What goes back in its place before it started has its slot still.
	o.Reserved = v.reserved || v.state == task.Queued && v.wait < 0 && j.slot && j.Started.IsZero()
	if v.state == task.Retried || v.state == task.Queued && v.wait >= 0 {
		if o.NotBefore = v.at; v.at.IsZero() {
			o.NotBefore = r.byStore(now).Add(v.wait)
		}
	}
	return o
}

// success is the outcome of a handler that returned without an error.
func (r *Runner) success(j *Job, result json.RawMessage, now time.Time) task.Outcome {
	if result == nil {
		result = json.RawMessage(null)
	}
	if len(result) > r.cfg.MaxResult {
		err := fmt.Errorf("result: %w: %d bytes, at most %d; store it elsewhere and return a reference",
			task.ErrTooLarge, len(result), r.cfg.MaxResult)
		return r.outcome(j, j.failed(&ResultError{Reason: task.ReasonResultTooLarge, Err: err}, nil), now)
	}
	if err := task.ValidateJSON("result", result); err != nil {
		return r.outcome(j, j.failed(&ResultError{Reason: task.ReasonResultInvalid, Err: err}, nil), now)
	}
	return task.Outcome{
		State: task.Succeeded, Result: result, Attempt: j.Delivery.Attempt + 1,
		Worker: r.cfg.ID, StartedAt: j.Started, EndedAt: now, Keep: r.keep(j),
	}
}

// keep is the retention of j's terminal status: the envelope's word, the
// task's, the worker's.
func (r *Runner) keep(j *Job) time.Duration {
	if raw, ok := j.Delivery.Envelope.Meta[task.MetaRetention]; ok {
		if ms, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64); err == nil {
			if ms < 0 || ms > int64(forever/time.Millisecond) {
				return task.Forever
			}
			return time.Duration(ms) * time.Millisecond
		}
	}
	if j.task != nil && j.task.Keep != nil {
		return *j.task.Keep
	}
	return r.cfg.Keep
}

// forever is the longest retention that is still counted.
const forever = 1<<63 - 1

// ignoresResult says whether nobody wants j's result.
func (j *Job) ignoresResult() bool {
	if j.task != nil && j.task.IgnoreResult {
		return true
	}
	return string(j.Delivery.Envelope.Meta[task.MetaIgnoreResult]) == "true"
}

// errorType names an error by its Go type: the outermost one that is not a
// mere wrapper, so that "open the report: %w" around an fs.PathError is an
// *fs.PathError. What has no type of its own is "error".
func errorType(err error) string {
	for err != nil {
		switch e := err.(type) {
		case *panicError:
			return typePanic
		case *RemoteError:
			return clip(orElse(e.Type, "error"), 200)
		case *PermanentError, *RetryError, *ArgsError, *ResultError:
			err = errors.Unwrap(err)
			continue
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				err = all[0]
				continue
			}
		}
		t := reflect.TypeOf(err).String()
		switch t {
		case "*fmt.wrapError":
			err = errors.Unwrap(err)
		case "*errors.errorString", "*fmt.fmtError", "*errors.joinError":
			return "error"
		default:
			return clip(t, 200)
		}
	}
	return "error"
}

// clip bounds a text to n bytes of valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	cut := n - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
