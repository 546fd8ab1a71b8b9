package systemd_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/observe/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// supervisor is a socket as systemd has it.
func supervisor(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, path
}

func next(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func notifier(env map[string]string) *systemd.Notifier {
	return systemd.New(func(k string) string { return env[k] }, 42, slog.New(slog.DiscardHandler))
}

func TestAProcessTellsItsSupervisor(t *testing.T) {
	c, path := supervisor(t)
	n := notifier(map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "42"})
	ctx, cancel := context.WithCancel(t.Context())
	stopping := make(chan struct{})
	var ready, dead atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx, stopping, func() error {
			if !ready.Load() {
				return errors.New("not yet")
			}
			return nil
		}, func() error {
			if dead.Load() {
				return errors.New("a loop hangs")
			}
			return nil
		})
	}()
	for range 3 {
		if got := next(t, c); got != "WATCHDOG=1" {
			t.Fatalf("it said %q before it was ready", got)
		}
	}
	ready.Store(true)
	await := func(want string) {
		t.Helper()
		for got := next(t, c); got != want; got = next(t, c) {
			if got != "WATCHDOG=1" {
				t.Fatalf("it said %q, want %q", got, want)
			}
		}
	}
	await("READY=1\nSTATUS=ready")
	close(stopping)
	await("STOPPING=1")
	await("WATCHDOG=1") // it drains, and lives

	dead.Store(true)
	for { // what was on its way; then silence
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 64)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	cancel()
	<-done
}

func TestWithoutASupervisorThereIsNone(t *testing.T) {
	if notifier(nil) != nil {
		t.Error("a notifier without a socket")
	}
	if err := notifier(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "none")}).Send("READY=1"); err == nil {
		t.Error("it told nobody")
	}
}

func TestAWatchdogOfAnotherProcessIsNotFed(t *testing.T) {
	c, path := supervisor(t)
	n := notifier(map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "7"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	well := func() error { return nil }
	go func() {
		defer close(done)
		n.Run(ctx, nil, well, well)
	}()
	if got := next(t, c); got != "READY=1\nSTATUS=ready" {
		t.Errorf("it said %q", got)
	}
	cancel()
	<-done
}
