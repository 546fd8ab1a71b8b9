//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/redistest"
)

// stage is a store, with a client of this process and the program for others.
type stage struct {
	program, dir, url string

	server  *redistest.Server // nil: not Redis
	backend *connect.Backend
	client  *stem.Client
	workers []*exec.Cmd
}

// tasksFile has a task that programs without Go code can run.
const tasksFile = `tasks:
  bench.nothing:
    exec: ["true"]
`

func openStage(ctx context.Context, program, dir, store string) (*stage, error) {
	s := &stage{program: program, dir: dir, url: "memory:"}
	switch store {
	case "sqlite":
		s.url = "sqlite:" + filepath.Join(dir, "stem.db")
	case "redis":
		server, err := redistest.Launch(redistest.Options{})
		if err != nil {
			return nil, err
		}
		s.server, s.url = server, server.URL(0)
	}
	err := os.WriteFile(filepath.Join(dir, "tasks.yaml"), []byte(tasksFile), 0o600)
	if err == nil {
		s.backend, err = connect.Open(ctx, connect.Options{Broker: s.url})
	}
	if err == nil {
		s.client, err = stem.NewClient(s.backend, stem.ClientOptions{Retention: stem.Forever})
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stage) close() {
	for _, w := range s.workers {
		_ = w.Process.Kill() // most have ended
		_ = w.Wait()
	}
	if s.backend != nil {
		if err := s.backend.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "ops: close:", err)
		}
	}
	if s.server != nil {
		s.server.Close()
	}
}

// command is the program on this store.
func (s *stage) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, s.program, args...)
	c.Dir = s.dir
	c.Env = append(os.Environ(), "STEM_BROKER_URL="+s.url, "STEM_TASKS_CONFIG=tasks.yaml", "NO_COLOR=1")
	return c
}

// call runs the program, which must end well, and returns what it wrote.
func (s *stage) call(ctx context.Context, args ...string) (out string, cpu time.Duration, err error) {
	c := s.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", 0, fmt.Errorf("stem %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), c.ProcessState.UserTime() + c.ProcessState.SystemTime(), nil
}

// begin starts a service of the program, and returns when it tells its supervisor that
// it is ready.
func (s *stage) begin(ctx context.Context, args ...string) (*exec.Cmd, error) {
	supervisor, err := os.MkdirTemp("", "stem-notify-") // its path has to be short
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(supervisor)
	addr := &net.UnixAddr{Name: filepath.Join(supervisor, "s"), Net: "unixgram"}
	l, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c := s.command(ctx, args...)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+addr.Name)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	message := make([]byte, 4096)
	for {
		n, err := l.Read(message)
		if err != nil {
			_ = c.Process.Kill()
			return nil, fmt.Errorf("stem %s is not ready: %w\n%s", strings.Join(args, " "), errors.Join(err, c.Wait()), &stderr)
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return c, nil
		}
	}
}

// end stops a service in good order.
func end(c *exec.Cmd) error {
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return c.Wait()
}

// fleet starts workers, which end with the stage.
func (s *stage) fleet(ctx context.Context, n int) error {
	for i := range n {
		w, err := s.begin(ctx, "worker", "run", "--id", fmt.Sprintf("w%02d", i), "--concurrency", "2")
		if err != nil {
			return err
		}
		s.workers = append(s.workers, w)
	}
	return nil
}
