// Package pullworker has a worker in Python; its test runs it.
package pullworker

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/httpapi"
)

type args struct {
	Width   int     `json:"width"`
	Seconds float64 `json:"seconds"`
}

type result struct{ Width, PID int }

// start runs the worker; its lines come from the channel, which is closed when
// it has ended.
func start(t *testing.T, url string) (*exec.Cmd, <-chan string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is missing: apt-get install python3, or .ci/run, which does")
	}
	cmd := exec.Command(python, "pull_worker.py")
	cmd.Env = append(os.Environ(), "STEM_API_URL="+url, "STEM_LEASE=1s")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
	})
	return cmd, lines
}

// TestKilledInMidTask kills the worker while it executes; another one executes
// the task again and ends it once.
func TestKilledInMidTask(t *testing.T) {
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.NewServer(client, httpapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(serving, l) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	resize := stem.NewTask[args, result]("image.resize")
	first, _ := start(t, "http://"+l.Addr().String())
	h, err := resize.Enqueue(ctx, client, args{Width: 640, Seconds: 2.5}) // longer than two leases
	if err != nil {
		t.Fatal(err)
	}
	for s, err := range client.Watch(ctx, h.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if s.State == stem.Running {
			break
		}
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second, lines := start(t, "http://"+l.Addr().String())
	got, err := h.Wait(ctx)
	if err != nil || got.Width != 320 || got.PID != second.Process.Pid {
		t.Errorf("result %+v, %v; want half the width, from process %d", got, err, second.Process.Pid)
	}
	s, err := h.Status(ctx)
	if err != nil || s.Attempt != 1 {
		t.Errorf("attempt %d, %v; want one that counts", s.Attempt, err)
	}
	// A handler that raises is a failure with its type.
	bad, err := resize.Enqueue(ctx, client, args{}, stem.Queue("default"), stem.MaxRetries(0), stem.Meta("kind", "bad"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Wait(ctx); err != nil {
		t.Errorf("a width of 0: %v", err)
	}
	unknown, err := client.EnqueueMany(ctx, []stem.Item{stem.NewItem("no.such", nil, stem.MaxRetries(0))})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := client.Wait(ctx, unknown[0].ID); err != nil || s.State != stem.Failed || s.Error.Type != "KeyError" || s.Error.Stack == "" {
		t.Errorf("an unknown name: %+v, %v", s, err)
	}
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var said []string
	for line := range lines {
		said = append(said, line)
	}
	if all := strings.Join(said, "\n"); strings.Count(all, "succeeded") != 2 || !strings.Contains(all, "failed") {
		t.Errorf("it said\n%s", all)
	}
}
