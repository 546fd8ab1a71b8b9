package stemcmd_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// TestWorkerHTTP runs a worker in this process and asks it what it serves.
func TestWorkerHTTP(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	app := shop()
	var client *stem.Client
	app.Setup = func(_ context.Context, c *stem.Client) ([]stem.Registration, error) {
		client = c
		return nil, nil
	}
	log, stderr := io.Pipe()
	signals := make(chan os.Signal, 1)
	code := make(chan int, 1)
	go func() {
		code <- stemcmd.Run(context.Background(), app, stemcmd.Process{
			Args:   []string{"worker", "run", "--broker", "memory:", "--http", "127.0.0.1:0", "--concurrency", "2"},
			Stderr: stderr, Signals: signals,
		})
		_ = stderr.Close()
	}()

	lines := bufio.NewScanner(log)
	next := func(message string) map[string]any {
		for lines.Scan() {
			var record map[string]any
			if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
				t.Fatalf("a line of the log is no JSON: %s", lines.Text())
			}
			if record["msg"] == message {
				return record
			}
		}
		t.Fatalf("the log ended before %q", message)
		return nil
	}
	addr := next("serving /metrics, /healthz and /readyz")["addr"].(string)
	next("worker started")
	if _, err := stem.NewTask[string, any]("shop.echo").Enqueue(t.Context(), client, "hello"); err != nil {
		t.Fatal(err)
	}
	if r := next("task succeeded"); r["task"] != "shop.echo" || r["task_id"] == "" || r["queue"] != "default" || r["level"] != "INFO" {
		t.Errorf("the log of an outcome: %v", r)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	get := func(path string) (int, string) {
		t.Helper()
		response, err := (&http.Client{Transport: transport}).Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"/healthz": "alive", "/readyz": "ready",
		"/metrics": `stem_tasks_succeeded_total{queue="default",task="shop.echo"} 1`,
	} {
		if status, body := get(path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d, want %q in\n%s", path, status, want, body)
		}
	}
	if status, _ := get("/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("GET /debug/pprof/ without --pprof: %d", status)
	}
	signals <- syscall.SIGTERM
	next("worker stopped")
	go func() { _, _ = io.Copy(io.Discard, log) }()
	if c := <-code; c != stemcmd.ExitDone {
		t.Errorf("exit code %d", c)
	}
}
