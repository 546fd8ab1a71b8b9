package pair_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/task"
)

// What a child process is told by its environment.
const (
	childDir   = "PAIR_TEST_CHILD_DIR"
	childAt    = "PAIR_TEST_CHILD_AT"
	childAfter = "PAIR_TEST_CHILD_AFTER"

	childLease = 200 * time.Millisecond
)

// files opens the two stores of a directory, as one process.
func files(ctx context.Context, dir string) (envelopes, results *sqlite.DB, err error) {
	open := func(name string) (*sqlite.DB, error) {
		return sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(dir, name), Synchronous: sqlite.Normal})
	}
	if envelopes, err = open("broker.db"); err != nil {
		return nil, nil, err
	}
	if results, err = open("results.db"); err != nil {
		return nil, nil, errors.Join(err, envelopes.Close())
	}
	return envelopes, results, nil
}

// plain is a test's reporter outside of a test: what fails ends the process.
type plain struct{ testing.TB }

func (plain) Helper() {}

func (plain) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func (t plain) Fatal(args ...any)                 { t.Fatalf("%s", fmt.Sprintln(args...)) }
func (t plain) Errorf(format string, args ...any) { t.Fatalf(format, args...) }

// child is the process that dies: it publishes a task, executes it, and settles
// it with a follow-up. Without a call to die at it prints how many it made.
func child(dir string) (code int) {
	ctx := context.Background()
	b, r, err := files(ctx, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := newWorld(ctx, plain{}, b.Broker(), r.Results())
	w.lease = childLease
	p := w.start()
	at, _ := strconv.Atoi(os.Getenv(childAt))
	p.fault.arm(at, os.Getenv(childAfter) != "")
	p.fault.die = func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		fmt.Fprintln(os.Stderr, "it lives on:", err)
		time.Sleep(time.Minute)
	}
	p.must(p.publish(parent()))
	p.must(p.settle(p.take1(), task.Succeeded, true))
	fmt.Println(len(p.fault.calls))
	return 0
}

// runChild runs a child process, and returns what it printed.
func runChild(t *testing.T, dir string, at int, after bool) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childAt+"="+strconv.Itoa(at))
	if after {
		cmd.Env = append(cmd.Env, childAfter+"=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return string(out), err
}

// TestKilledProcess kills a real process before and after each call that it
// makes to either of two files.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	out, err := runChild(t, t.TempDir(), 0, false)
	if err != nil {
		t.Fatalf("a child that is not killed: %v", err)
	}
	var calls int
	if _, err := fmt.Sscan(out, &calls); err != nil || calls < 6 {
		t.Fatalf("it made %q calls", out)
	}
	// They mostly wait, so more run at once than there are CPUs.
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, after := range []bool{false, true} {
		for at := 1; at <= calls; at++ {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				t.Run(fmt.Sprintf("%d after %v", at, after), func(t *testing.T) { killed(t, at, after) })
			})
		}
	}
	wg.Wait()
}

func killed(t *testing.T, at int, after bool) {
	dir := t.TempDir()
	var exit *exec.ExitError
	if out, err := runChild(t, dir, at, after); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the child was to be killed: %v, %s", err, out)
	}
	b, r, err := files(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer r.Close()
	w := newWorld(t.Context(), t, b.Broker(), r.Results())
	w.lease = childLease
	w.finish(parent())
	for _, id := range []string{"parent", "child"} {
		if s := w.status(id); s.State != task.Succeeded {
			t.Errorf("%s is %q, reason %q", id, s.State, s.Reason)
		}
		if n := w.ran[id]; n > 1 {
			t.Errorf("%s was executed %d times after the kill", id, n)
		}
	}
	for _, db := range []*sqlite.DB{b, r} {
		if err := db.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
