package stemcmd_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// TestHTTPTask runs a worker with an HTTP task: the server that is busy at
// first gets the same call again, and its answer is the result.
func TestHTTPTask(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		attempt := r.Header.Get("Stem-Attempt")
		if attempt == "0" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Header.Get("Stem-Task-Name"), attempt, r.Header.Get("Idempotency-Key"), body)
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "tasks.yaml")
	text := fmt.Sprintf("tasks:\n  notify:\n    http: {url: %q, allow_private: true}\n    retry: {base: 1ms, jitter: 0}\n", server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	clients := make(chan *stem.Client, 1)
	app := stemcmd.App{Name: "hooks", Setup: func(_ context.Context, c *stem.Client) ([]stem.Registration, error) {
		clients <- c
		return nil, nil
	}}
	signals := make(chan os.Signal, 1)
	code := make(chan int, 1)
	go func() {
		code <- stemcmd.Run(context.Background(), app, stemcmd.Process{
			Args: []string{"worker", "run", "--broker", "memory:", "--tasks", path}, Stderr: io.Discard, Signals: signals,
		})
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case client := <-clients:
		h, err := stem.NewTask[map[string]int, string]("notify").Enqueue(ctx, client, map[string]int{"n": 1}, stem.ID("id-1"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.Wait(ctx)
		if want := `notify 1 id-1 {"n":1}`; err != nil || got != want {
			t.Errorf("the result is %q, %v; want %q", got, err, want)
		}
	case c := <-code:
		t.Fatalf("the worker ended with %d", c)
	}
	signals <- syscall.SIGTERM
	if c := <-code; c != 0 {
		t.Errorf("the worker ended with %d", c)
	}
}
