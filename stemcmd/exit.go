package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
)

// Exit codes of every command.
const (
	ExitDone        = 0 // done
	ExitFailed      = 1 // failed
	ExitUsage       = 2 // wrong usage, configuration or input
	ExitUnreachable = 3 // a backend cannot be reached or opened
	ExitNotFound    = 4 // no such task, dead letter or queue
	ExitRefused     = 5 // refused, or not confirmed
	ExitPartly      = 6 // partly done
)

// exitError is an error with the exit code that it leads to, and what the
// reader can do about it.
type exitError struct {
	code int
	err  error
	hint string // a line of its own; "": none
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// fail makes an error with its exit code.
func fail(code int, format string, args ...any) *exitError {
	return &exitError{code: code, err: fmt.Errorf(format, args...)}
}

// usage is a mistake on the command line.
func usage(format string, args ...any) *exitError { return fail(ExitUsage, format, args...) }

// hinted adds what to do next.
func (e *exitError) hinted(format string, args ...any) *exitError {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

// errQuiet is a failure that was told already.
var errQuiet = errors.New("told already")

// Causes of a context's end.
var (
	errTimeout     = errors.New("gave up")
	errInterrupted = errors.New("interrupted")
)

// exitCode is the code that an error leads to.
func exitCode(err error) int {
	var own *exitError
	var setting *connect.SettingError
	var url *connect.URLError
	var open *connect.OpenError
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &setting), errors.As(err, &url), is(stem.ErrInvalid, stem.ErrTooLarge):
		return ExitUsage
	case errors.As(err, &open), is(broker.ErrUnavailable, stem.ErrOutcomeUnknown, errTimeout):
		return ExitUnreachable
	case is(stem.ErrNotFound, broker.ErrNotFound, store.ErrNoSchedule):
		return ExitNotFound
	case is(stem.ErrTaskExists, stem.ErrQueueFull, broker.ErrUnsupported, store.ErrNotFinished):
		return ExitRefused
	default:
		return ExitFailed
	}
}

// report tells the error on standard error, and returns the exit code.
func (s *session) report(err error) int {
	if err == nil {
		return ExitDone
	}
	code := exitCode(err)
	if errors.Is(err, errQuiet) {
		return code
	}
	for _, line := range strings.Split(clean(err.Error()), "\n") {
		fmt.Fprintf(s.stderr, "%s: %s\n", s.app.Name, line)
	}
	if hint := s.hint(err); hint != "" {
		fmt.Fprintln(s.stderr, hint)
	}
	return code
}

// hint says what to do next, "" when the error says it.
func (s *session) hint(err error) string {
	var own *exitError
	var open *connect.OpenError
	var url *connect.URLError
	switch {
	case errors.As(err, &own) && own.hint != "":
		return own.hint
	case errors.As(err, &url) && url.URL == "":
		return "Set STEM_BROKER_URL, or give --broker, as in --broker sqlite:stem.db"
	case errors.As(err, &url):
		return "Correct " + url.Variable() + ", or the flag in its place"
	case errors.As(err, &open):
		return "Check " + open.Variable() + ", or the flag in its place; " + s.app.Name + " config shows what is in force"
	case errors.Is(err, broker.ErrUnavailable), errors.Is(err, errTimeout):
		return "See what " + s.app.Name + " health says"
	default:
		return ""
	}
}

// because names why a context ended in place of "context canceled".
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if err == nil || cause == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w (%w)", cause, err)
}
