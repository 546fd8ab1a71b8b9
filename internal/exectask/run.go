package exectask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// Bounds of one execution.
const (
	// MaxOutput is how many bytes of standard output are taken as the result.
	MaxOutput = 1 << 20
	// MaxMessage is how many bytes the message of a failure has, which ends
	// with the end of standard error.
	MaxMessage = 4 << 10

	killGrace  = 2 * time.Second // from SIGTERM to SIGKILL, unless a hard time limit says when
	drainGrace = 2 * time.Second // for pipes that something outside the process group holds open

	slotPatience = 500 * time.Millisecond // for a free slot of a task with limited concurrency
	slotSnooze   = time.Second            // until it is tried again, about
)

// exitDataErr is EX_DATAERR of sysexits.h: another attempt cannot help. Every
// other failure, EX_TEMPFAIL (75) among them, is tried again as the task's
// retry policy says.
const exitDataErr = 65

// Call is one execution.
type Call struct {
	ID      string
	Name    string
	Attempt int
	Args    json.RawMessage // nil stands for null
	Logger  *slog.Logger    // gets what the command writes to standard error; nil: nobody does
}

// ExitError says how a command ended that did not succeed.
type ExitError struct {
	Code   int    // -1: a signal ended it
	Signal string // such as "killed"
	Stderr string // the end of what it wrote to standard error
}

func (e *ExitError) Error() string {
	s := "exit status " + strconv.Itoa(e.Code)
	if e.Code < 0 {
		s = "ended by signal: " + e.Signal
	}
	if e.Stderr == "" {
		return s
	}
	return s + ": " + lastBytes(e.Stderr, MaxMessage-len(s)-len(": "))
}

// stoppedError is the failure of a command that was told to stop. It wraps the
// cause, by which the runner judges, and reads like the failure alone, since
// the runner names the cause itself.
type stoppedError struct{ cause, failure error }

func (e *stoppedError) Error() string   { return e.failure.Error() }
func (e *stoppedError) Unwrap() []error { return []error{e.cause, e.failure} }

// Run executes the command and returns its result.
//
// When ctx ends, the command's process group gets SIGTERM and, two seconds
// later, SIGKILL; after a soft time limit it has until the hard one. The error
// then wraps ctx's cause. Other errors are an [*ExitError], by itself or in a
// runner.PermanentError, a runner.ArgsError, a runner.ResultError, or, when
// the task's own concurrency is used up, a runner.SnoozeError: another task
// can use the isolate meanwhile.
func (t *Task) Run(ctx context.Context, c Call) (json.RawMessage, error) {
	if c.Args == nil {
		c.Args = json.RawMessage("null")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	words, err := commandLine(t.exec, c.Args)
	if err != nil {
		return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: err}
	}
	release, err := t.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return t.execute(ctx, c, words)
}

// slot waits a moment for one of the task's slots.
func (t *Task) slot(ctx context.Context) (release func(), err error) {
	if t.slots == nil {
		return func() {}, nil
	}
	patience := slotPatience
	for _, limit := range []time.Duration{t.SoftTimeout, t.HardTimeout} {
		if limit > 0 {
			patience = min(patience, limit/2) // the limits' clocks are running
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-timer.C:
		return nil, &runner.SnoozeError{In: slotSnooze/2 + rand.N(slotSnooze)}
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for one of %d slots: %w", t.Concurrency, context.Cause(ctx))
	}
}

func (t *Task) execute(ctx context.Context, c Call, words []string) (json.RawMessage, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("start %s: %w", words[0], context.Cause(ctx))
	}
	// Where a child dies with its parent, it dies with the thread that started
	// it: the thread must not end, or become another goroutine's, before it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = t.environment(c)
	began := time.Now()
	p, err := start(cmd, append(bytes.Clone(c.Args), '\n'), c.Logger)
	switch {
	case errors.Is(err, syscall.E2BIG):
		return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: fmt.Errorf("start %s: %w", words[0], err)}
	case err != nil:
		return nil, fmt.Errorf("start %s: %w", words[0], err)
	}
	grace := func() time.Duration {
		if t.HardTimeout > 0 && errors.Is(context.Cause(ctx), runner.ErrSoftTimeout) {
			return max(0, t.HardTimeout-time.Since(began))
		}
		return killGrace
	}
	if err := p.supervise(ctx, grace); err != nil {
		return nil, fmt.Errorf("wait for %s: %w", words[0], err)
	}
	return judge(ctx, p)
}

// judge turns how a process ended into what a handler returns.
func judge(ctx context.Context, p *process) (json.RawMessage, error) {
	switch {
	case p.stdout.over:
		return nil, &runner.ResultError{Reason: task.ReasonResultTooLarge, Err: fmt.Errorf(
			"output: %w: more than %d bytes: store it elsewhere and print a reference to it", task.ErrTooLarge, MaxOutput)}
	case p.state.Success():
		return result(p.stdout.kept)
	}
	failure := &ExitError{Code: p.state.ExitCode(), Signal: signalName(p.state), Stderr: p.stderr.text()}
	switch {
	case ctx.Err() != nil:
		return nil, &stoppedError{cause: context.Cause(ctx), failure: failure}
	case failure.Code == exitDataErr:
		return nil, &runner.PermanentError{Err: failure}
	}
	return nil, failure
}

// result makes JSON of what a command printed: as it is where it is JSON, else
// a JSON string without the last line's end; null where it is nothing.
func result(out []byte) (json.RawMessage, error) {
	trimmed := bytes.TrimSpace(out)
	if len(trimmed) == 0 {
		return json.RawMessage("null"), nil
	}
	if task.ValidateJSON("output", trimmed) == nil {
		return trimmed, nil
	}
	if !utf8.Valid(out) {
		return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: errors.New(
			"output: it is neither JSON nor UTF-8 text: store it elsewhere and print a reference to it")}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(strings.TrimRight(string(out), "\r\n")); err != nil {
		return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: fmt.Errorf("output: %w", err)}
	}
	return bytes.TrimSpace(text.Bytes()), nil
}

// environment is all that the command sees of the worker's.
func (t *Task) environment(c Call) []string {
	var env []string
	for _, name := range append(baseEnvironment(), t.pass...) {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range t.set {
		env = append(env, name+"="+value) // of two of a name, the later counts
	}
	return append(env,
		"STEM_TASK_ID="+c.ID,
		"STEM_TASK_NAME="+c.Name,
		"STEM_ATTEMPT="+strconv.Itoa(c.Attempt))
}

// lastBytes is the end of s, at most n bytes of valid UTF-8.
func lastBytes(s string, n int) string {
	if n <= 0 {
		return ""
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}
