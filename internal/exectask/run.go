package exectask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// Bounds of one execution.
const (
	// MaxMessage is how many bytes the message of a failure has, which ends
	// with the end of standard error.
	MaxMessage = 4 << 10

	killGrace  = 2 * time.Second // from SIGTERM to SIGKILL, unless a hard time limit says when
	drainGrace = 2 * time.Second // for pipes that something outside the process group holds open
)

// exitDataErr is EX_DATAERR of sysexits.h: another attempt cannot help. Every
// other failure, EX_TEMPFAIL (75) among them, is tried again as the task's
// retry policy says.
const exitDataErr = 65

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
// runner.PermanentError, a runner.ArgsError, or a runner.ResultError.
func (c *Command) Run(ctx context.Context, call foreign.Call) (json.RawMessage, error) {
	words, err := commandLine(c.words, call.Args)
	if err != nil {
		return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: err}
	}
	return c.execute(ctx, call, words)
}

func (c *Command) execute(ctx context.Context, call foreign.Call, words []string) (json.RawMessage, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("start %s: %w", words[0], context.Cause(ctx))
	}
	// Where a child dies with its parent, it dies with the thread that started
	// it: the thread must not end, or become another goroutine's, before it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = c.environment(call)
	began := time.Now()
	p, err := start(cmd, append(bytes.Clone(call.Args), '\n'), call.Logger)
	switch {
	case errors.Is(err, syscall.E2BIG):
		return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: fmt.Errorf("start %s: %w", words[0], err)}
	case err != nil:
		return nil, fmt.Errorf("start %s: %w", words[0], err)
	}
	c.Running.add(&p.group)
	defer c.Running.remove(&p.group)
	grace := func() time.Duration {
		if c.HardTimeout > 0 && errors.Is(context.Cause(ctx), runner.ErrSoftTimeout) {
			return max(0, c.HardTimeout-time.Since(began))
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
		return nil, foreign.TooLarge("output", foreign.MaxResult)
	case p.state.Success():
		return foreign.Result("output", p.stdout.kept)
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

// environment is all that the command sees of the worker's.
func (c *Command) environment(call foreign.Call) []string {
	var env []string
	for _, name := range append(baseEnvironment(), c.Pass...) {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range c.Set {
		env = append(env, name+"="+value) // of two of a name, the later counts
	}
	return append(env,
		"STEM_TASK_ID="+call.ID,
		"STEM_TASK_NAME="+call.Name,
		"STEM_ATTEMPT="+strconv.Itoa(call.Attempt))
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
