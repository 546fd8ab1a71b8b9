// Package foreign is what tasks have in common whose work is not done by Go
// code of this program: a command does it (internal/exectask), or an HTTP
// server (internal/httptask).
//
// It imports internal/runner for the errors that a runner understands.
package foreign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// MaxResult is how many bytes of what comes back are taken as the result.
const MaxResult = 1 << 20

// Call is one execution of a task.
type Call struct {
	ID      string
	Name    string
	Attempt int                  // how many came before
	Args    json.RawMessage      // never nil: none are null
	Logger  *slog.Logger         // never nil
	Trace   measure.TraceContext // that the execution is in; zero: none
}

// Work does what a task is for. It is safe for concurrent use.
//
// Run returns when the work is done, has failed, or ctx has ended, whose cause
// the error then wraps. Other errors say by their types what the runner is to
// make of them: a runner.PermanentError, RetryError, SnoozeError, ArgsError or
// ResultError, or any other, which is tried again as the task's retry policy
// says.
type Work interface {
	Run(ctx context.Context, c Call) (json.RawMessage, error)
}

// Result makes a task's result of what came back: as it is where it is JSON,
// else a JSON string without the last line's end; null where it is nothing.
// What is no text is a runner.ResultError; what calls it, in its message.
func Result(what string, out []byte) (json.RawMessage, error) {
	trimmed := bytes.TrimSpace(out)
	if len(trimmed) == 0 {
		return json.RawMessage("null"), nil
	}
	if task.ValidateJSON(what, trimmed) == nil {
		return trimmed, nil
	}
	if !utf8.Valid(out) {
		return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: errors.New(
			what + ": it is neither JSON nor UTF-8 text: store it elsewhere and return a reference to it")}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(strings.TrimRight(string(out), "\r\n")); err != nil {
		return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: fmt.Errorf("%s: %w", what, err)}
	}
	return bytes.TrimSpace(text.Bytes()), nil
}

// TooLarge is the error of a result of more than limit bytes.
func TooLarge(what string, limit int) error {
	return &runner.ResultError{Reason: task.ReasonResultTooLarge, Err: fmt.Errorf(
		"%s: %w: more than %d bytes: store it elsewhere and return a reference to it", what, task.ErrTooLarge, limit)}
}
