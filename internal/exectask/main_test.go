//go:build unix

package exectask_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/tasksfile"
)

// helperVariable makes the test's own binary the command that a task runs: its
// value says what it does, with the arguments that follow.
const helperVariable = "EXECTASK_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		// os.Exit would have the race detector wait a second.
		syscall.Exit(help(mode, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// help is the command side of these tests. It returns the exit status.
func help(mode string, args []string) int {
	switch mode {
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "args":
		_ = json.NewEncoder(os.Stdout).Encode(args)
	case "env":
		_ = json.NewEncoder(os.Stdout).Encode(os.Environ())
	case "print":
		fmt.Print(args[0])
	case "bytes":
		n, _ := strconv.Atoi(args[0])
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("a"), n))
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 1<<16)); err != nil {
				return 1
			}
		}
	case "fail":
		fmt.Fprint(os.Stderr, args[1])
		code, _ := strconv.Atoi(args[0])
		return code
	case "binary": // is no UTF-8, on both outputs
		_, _ = os.Stdout.WriteString("a\xffb")
		_, _ = os.Stderr.WriteString("a\xffb\n")
	case "story": // is long, and ends with the end
		fmt.Fprint(os.Stderr, strings.Repeat(map[string]string{"byte": "x", "rune": "é", "bad": "\xff"}[args[0]], 60<<10)+"the end")
		return 1
	case "signal":
		n, _ := strconv.Atoi(args[0])
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	case "obey": // SIGTERM ends it with the status it was given
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		hold(args[0])
		<-terminated
		fmt.Print(`"cleaned up"`)
		code, _ := strconv.Atoi(args[1])
		return code
	case "stubborn": // SIGTERM does not end it
		signal.Ignore(syscall.SIGTERM)
		hold(args[0])
		select {}
	case "family": // and its child, in its group, wait for their end
		_ = spawn(args[0], nil)
		hold(args[0])
		select {}
	case "leave": // ends when it is told to, and leaves a child in its group
		c := hold(args[0])
		code := spawnAndSee(args[0], nil)
		_, _ = bufio.NewReader(c).ReadString('\n')
		return code
	case "escape": // ends at once and leaves a child in a session of its own
		return spawnAndSee(args[0], &syscall.SysProcAttr{Setsid: true})
	case "stay":
		_, _ = bufio.NewReader(hold(args[0])).ReadString('\n')
	case "worker":
		return work(args[0])
	}
	return 0
}

// hold connects to the test, which sees the connection end with the process.
func hold(address string) net.Conn {
	c, err := net.Dial("unix", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	return c
}

// spawn starts a child that inherits standard output and error.
func spawn(address string, attr *syscall.SysProcAttr) error {
	cmd := exec.Command(os.Args[0], address)
	cmd.Env = []string{helperVariable + "=stay"}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, attr
	return cmd.Start()
}

func spawnAndSee(address string, attr *syscall.SysProcAttr) int {
	if err := spawn(address, attr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	fmt.Print(`"left"`)
	return 0
}

// work runs a task for ever, as a worker does that is about to be killed.
func work(address string) int {
	file, err := tasksfile.Parse("tasks.yaml", []byte(definition("stubborn", address)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	_, _ = file.Tasks[0].Run(context.Background(), foreign.Call{})
	return 0
}

// definition is a tasks file of one task that runs the helper.
func definition(mode string, args ...string) string {
	words, err := json.Marshal(append([]string{os.Args[0]}, args...))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("tasks:\n  it:\n    exec: %s\n    env: {%s: %s}\n", words, helperVariable, mode)
}

// helper makes a task that runs the helper; more are further lines.
func helper(t *testing.T, mode string, args []string, more ...string) *tasksfile.Task {
	t.Helper()
	text := definition(mode, args...)
	for _, line := range more {
		text += "    " + line + "\n"
	}
	file, err := tasksfile.Parse("tasks.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse: %.2000v", err)
	}
	return file.Tasks[0]
}

// patience bounds waits that a test does not expect to be long.
const patience = 20 * time.Second

// watcher accepts the connections that helpers hold.
type watcher struct {
	address  string
	listener net.Listener
}

func newWatcher(t *testing.T) *watcher {
	t.Helper()
	dir, err := os.MkdirTemp("", "exectask") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(dir, "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	return &watcher{address: address, listener: l}
}

// meet waits for a helper to be there.
func (w *watcher) meet(t *testing.T) net.Conn {
	t.Helper()
	_ = w.listener.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	c, err := w.listener.Accept()
	if err != nil {
		t.Fatalf("a helper did not come up: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// mourn waits for a helper to be gone.
func mourn(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("a helper lives on: %v", err)
	}
}
