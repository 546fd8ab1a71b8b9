//go:build unix

package exectask_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/internal/exectask"
	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/internal/tasksfile"
	"github.com/stemjobs/stem/task"
)

func TestResults(t *testing.T) {
	for name, c := range map[string]struct{ print, want string }{
		"object":           {`{"n":9007199254740993}`, `{"n":9007199254740993}`},
		"pretty":           {"\n { \"a\" : 1 }\n", `{ "a" : 1 }`},
		"number":           {"42\n", `42`},
		"text":             {"hello <world> & \"you\"\n", `"hello <world> & \"you\""`},
		"lines":            {"a\nb\n\n", `"a\nb"`},
		"indented text":    {"  a", `"  a"`},
		"nothing":          {"", `null`},
		"white space":      {" \n", `null`},
		"nearly JSON":      {`{"a":1,}`, `"{\"a\":1,}"`},
		"JSON lines":       {"{}\n{}\n", `"{}\n{}"`},
		"no number":        {"NaN", `"NaN"`},
		"beyond the basic": {"é😀", `"é😀"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := helper(t, "print", []string{c.print}).Run(t.Context(), foreign.Call{})
			if err != nil || string(got) != c.want {
				t.Errorf("Run = %s, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestResultThatIsNoText(t *testing.T) {
	_, err := helper(t, "binary", nil).Run(t.Context(), foreign.Call{})
	var result *runner.ResultError
	if !errors.As(err, &result) || result.Reason != task.ReasonResultInvalid {
		t.Errorf("Run = %v, want result-invalid", err)
	}
}

func TestArgumentsOnStandardInput(t *testing.T) {
	for _, args := range []json.RawMessage{[]byte(`{"a":[1,2.50,"é"]}`), []byte(`"text"`), nil} {
		got, err := helper(t, "cat", nil).Run(t.Context(), foreign.Call{Args: args})
		want := string(args)
		if args == nil {
			want = "null"
		}
		if err != nil || string(got) != want {
			t.Errorf("Run = %s, %v; want %s", got, err, want)
		}
	}
}

// TestInputNotRead: a command that does not read its input, which is larger
// than any pipe, is none the worse for it.
func TestInputNotRead(t *testing.T) {
	args, err := json.Marshal(strings.Repeat("x", 900<<10))
	if err != nil {
		t.Fatal(err)
	}
	got, err := helper(t, "print", []string{`"fine"`}).Run(t.Context(), foreign.Call{Args: args})
	if err != nil || string(got) != `"fine"` {
		t.Errorf("Run = %.100s, %v", got, err)
	}
	if got, err = helper(t, "cat", nil).Run(t.Context(), foreign.Call{Args: args}); err != nil || !bytes.Equal(got, args) {
		t.Errorf("read to its end, it gave %d bytes, %v; want %d", len(got), err, len(args))
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("STEM_BROKER_URL", "redis://:secret@host")
	t.Setenv("EXECTASK_PRIVATE", "secret")
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("TMPDIR", "/tmp")
	t.Setenv("HOME", "/home/of/worker")
	t.Setenv("EXECTASK_LISTED", "handed on")
	names := func(task1 *tasksfile.Task) []string {
		t.Helper()
		got, err := task1.Run(t.Context(), foreign.Call{ID: "id-1", Name: "it", Attempt: 2})
		if err != nil {
			t.Fatal(err)
		}
		var env []string
		if err := json.Unmarshal(got, &env); err != nil {
			t.Fatal(err)
		}
		slices.Sort(env)
		return env
	}
	base := []string{
		"HOME=/home/of/worker", "LANG=C.UTF-8", "PATH=" + os.Getenv("PATH"),
		"STEM_ATTEMPT=2", "STEM_TASK_ID=id-1", "STEM_TASK_NAME=it", "TMPDIR=/tmp",
	}
	want := slices.Concat([]string{"EXECTASK_HELPER=env"}, base)
	if diff := cmp.Diff(want, names(helper(t, "env", nil))); diff != "" {
		t.Errorf("set by a mapping (-want +got):\n%s", diff)
	}

	t.Setenv(helperVariable, "env")
	file, err := tasksfile.Parse("tasks.yaml", []byte("tasks:\n  it:\n    exec: ["+os.Args[0]+"]\n"+
		"    env: [EXECTASK_LISTED, EXECTASK_HELPER, EXECTASK_UNSET]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want = slices.Concat([]string{"EXECTASK_HELPER=env", "EXECTASK_LISTED=handed on"}, base)
	if diff := cmp.Diff(want, names(file.Tasks[0])); diff != "" {
		t.Errorf("handed on by a list (-want +got):\n%s", diff)
	}
}

func TestExitStatus(t *testing.T) {
	for code, permanent := range map[string]bool{"1": false, "75": false, "65": true, "255": false, "126": false} {
		_, err := helper(t, "fail", []string{code, "it broke\n"}).Run(t.Context(), foreign.Call{})
		var exit *exectask.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("status %s: %v is no ExitError", code, err)
			continue
		}
		if want := "exit status " + code + ": it broke"; err.Error() != want {
			t.Errorf("status %s: %q, want %q", code, err, want)
		}
		var p *runner.PermanentError
		if errors.As(err, &p) != permanent {
			t.Errorf("status %s: permanent is %v, want %v", code, !permanent, permanent)
		}
	}
	_, err := helper(t, "fail", []string{"1", ""}).Run(t.Context(), foreign.Call{})
	if err == nil || err.Error() != "exit status 1" {
		t.Errorf("without a word: %v", err)
	}
}

func TestSignalDeath(t *testing.T) {
	for signal, name := range map[string]string{"9": "killed", "15": "terminated"} {
		_, err := helper(t, "signal", []string{signal}).Run(t.Context(), foreign.Call{})
		var exit *exectask.ExitError
		if !errors.As(err, &exit) || exit.Code != -1 || exit.Signal != name {
			t.Errorf("signal %s: %v, want ended by signal: %s", signal, err, name)
		}
	}
}

func TestStandardErrorIsLogged(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	long := strings.Repeat("x", 20<<10)
	_, err := helper(t, "fail", []string{"0", "first\r\nsecond\n" + long + "\nlast"}).
		Run(t.Context(), foreign.Call{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for dec := json.NewDecoder(&log); dec.More(); {
		var record struct{ Line string }
		if err := dec.Decode(&record); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, record.Line)
	}
	want := []string{"first", "second", long[:8<<10], long[:8<<10], long[:4<<10], "last"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// TestMessageEndsWithTheEnd: of a long story only the end is kept, whole
// characters of it.
func TestMessageEndsWithTheEnd(t *testing.T) {
	for _, filler := range []string{"byte", "rune", "bad"} {
		_, err := helper(t, "story", []string{filler}).Run(t.Context(), foreign.Call{})
		if err == nil {
			t.Fatal("it succeeded")
		}
		message := err.Error()
		if len(message) > exectask.MaxMessage || !utf8.ValidString(message) {
			t.Errorf("%q: the message has %d bytes, valid %v", filler, len(message), utf8.ValidString(message))
		}
		if !strings.HasPrefix(message, "exit status 1: ") || !strings.HasSuffix(message, "the end") {
			t.Errorf("%q: the message is %.40q…%q", filler, message, message[max(0, len(message)-20):])
		}
	}
}

func TestLargeOutput(t *testing.T) {
	got, err := helper(t, "bytes", []string{"1048576"}).Run(t.Context(), foreign.Call{})
	if err != nil || len(got) != 1<<20+2 {
		t.Errorf("1 MiB: %d bytes, %v", len(got), err)
	}
	for mode, args := range map[string][]string{"bytes": {"1048577"}, "flood": nil} {
		_, err := helper(t, mode, args).Run(t.Context(), foreign.Call{})
		var result *runner.ResultError
		if !errors.As(err, &result) || result.Reason != task.ReasonResultTooLarge || !errors.Is(err, task.ErrTooLarge) {
			t.Errorf("%s: %v, want result-too-large", mode, err)
		}
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	file, err := tasksfile.Parse("t.yaml", []byte("tasks: {it: {exec: [no-such-program-here]}}"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Tasks[0].Run(t.Context(), foreign.Call{})
	if err == nil || !strings.Contains(err.Error(), "start no-such-program-here") {
		t.Errorf("Run = %v", err)
	}
}

func TestArgumentTooLongForACommandLine(t *testing.T) {
	args, err := json.Marshal(map[string]string{"in": strings.Repeat("x", 900<<10)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = helper(t, "args", []string{"{{.in}}"}).Run(t.Context(), foreign.Call{Args: args})
	var bad *runner.ArgsError
	if !errors.As(err, &bad) || !errors.Is(err, syscall.E2BIG) {
		t.Errorf("Run = %v, want an ArgsError", err)
	}
}

// stopping runs a helper that the test has met, and stops it with a cause.
func stopping(t *testing.T, task1 *tasksfile.Task, w *watcher, cause error) (json.RawMessage, error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	type answer struct {
		result json.RawMessage
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := task1.Run(ctx, foreign.Call{})
		answers <- answer{result, err}
	}()
	c := w.meet(t)
	cancel(cause)
	select {
	case a := <-answers:
		mourn(t, c)
		return a.result, a.err
	case <-time.After(patience):
		t.Fatal("Run does not return")
		return nil, nil
	}
}

func TestStopped(t *testing.T) {
	for name, c := range map[string]struct {
		mode   string
		status string
		more   []string
		cause  error
		want   string // the result, or the error's text
	}{
		"obeys and fails":   {"obey", "1", nil, runner.ErrShutdown, "exit status 1"},
		"obeys and is done": {"obey", "0", nil, runner.ErrShutdown, `"cleaned up"`},
		"dies of SIGTERM":   {"stay", "", nil, runner.ErrRevoked, "ended by signal: terminated"},
		"dies of SIGKILL":   {"stubborn", "", nil, runner.ErrLeaseLost, "ended by signal: killed"},
		"until the hard limit": {
			"stubborn", "", []string{"timeout: {soft: 10ms, hard: 100ms}"}, runner.ErrSoftTimeout, "ended by signal: killed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatcher(t)
			got, err := stopping(t, helper(t, c.mode, []string{w.address, c.status}, c.more...), w, c.cause)
			if err == nil {
				if string(got) != c.want {
					t.Errorf("Run = %s, want %s", got, c.want)
				}
				return
			}
			if !errors.Is(err, c.cause) || err.Error() != c.want {
				t.Errorf("Run = %v, want %s because of %v", err, c.want, c.cause)
			}
		})
	}
}

func TestStoppedBeforeItBegan(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrShutdown)
	if _, err := helper(t, "print", []string{"1"}).Run(ctx, foreign.Call{}); !errors.Is(err, runner.ErrShutdown) {
		t.Errorf("Run = %v, want ErrShutdown", err)
	}
}

// TestWholeGroupDies: what the command started dies with it.
func TestWholeGroupDies(t *testing.T) {
	w := newWatcher(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := helper(t, "family", []string{w.address}).Run(ctx, foreign.Call{})
		done <- err
	}()
	one, other := w.meet(t), w.meet(t)
	cancel(runner.ErrRevoked)
	if err := <-done; !errors.Is(err, runner.ErrRevoked) {
		t.Errorf("Run = %v, want ErrRevoked", err)
	}
	mourn(t, one)
	mourn(t, other)
}

// TestWorkerDoesNotWait: a worker that stops without waiting for its commands
// ends them and all that they started, and those that are about to start.
func TestWorkerDoesNotWait(t *testing.T) {
	w := newWatcher(t)
	file, err := tasksfile.Parse("tasks.yaml", []byte(definition("family", w.address)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	run := func() {
		_, err := file.Tasks[0].Run(t.Context(), foreign.Call{}) // whose context goes on
		done <- err
	}
	go run()
	one, other := w.meet(t), w.meet(t)
	file.Close()
	mourn(t, one)
	mourn(t, other)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Run = %v, want that a signal ended it", err)
	}
	run()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Run after the worker's end = %v, want the same", err)
	}
}

// TestLeftBehind: a command that ends and leaves children with its pipes does
// not keep its worker, and those of its group end.
func TestLeftBehind(t *testing.T) {
	t.Run("in its group", func(t *testing.T) {
		w := newWatcher(t)
		done := make(chan error, 1)
		go func() {
			got, err := helper(t, "leave", []string{w.address}).Run(t.Context(), foreign.Call{})
			if err == nil && string(got) != `"left"` {
				err = fmt.Errorf("the result is %s", got)
			}
			done <- err
		}()
		leader, child := w.meet(t), w.meet(t)
		if _, err := leader.Write([]byte("end\n")); err != nil {
			t.Fatal(err)
		}
		mourn(t, child)
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("out of its group", func(t *testing.T) {
		w := newWatcher(t)
		got, err := helper(t, "escape", []string{w.address}).Run(t.Context(), foreign.Call{})
		if err != nil || string(got) != `"left"` {
			t.Errorf("Run = %s, %v", got, err)
		}
		c := w.meet(t)
		if _, err := c.Write([]byte("end\n")); err != nil {
			t.Fatal(err)
		}
		mourn(t, c)
	})
}
