package deploy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// notProvoked are counters of what goes wrong or is rare. They have no sample
// until it happens, and TestMetricsExist holds their names.
var notProvoked = []string{
	"stem_beat_failed_total", "stem_beat_lock_lost_total", "stem_beat_misfired_total", "stem_beat_overlapped_total",
	"stem_broker_errors_total", "stem_tasks_lease_lost_total", "stem_tasks_rate_limited_total", "stem_tasks_redelivered_total",
}

// fleet is a store, and what runs on it.
type fleet struct {
	t   *testing.T
	app stemcmd.App
	env []string
}

// command runs one that ends.
func (f *fleet) command(args ...string) {
	f.t.Helper()
	var said strings.Builder
	code := stemcmd.Run(context.Background(), f.app, stemcmd.Process{
		Args: args, Env: f.env, Stdin: strings.NewReader(""), Stdout: &said, Stderr: &said,
	})
	if code != 0 {
		f.t.Fatalf("stem %s: exit code %d\n%s", strings.Join(args, " "), code, &said)
	}
}

// service runs one until the test ends, and returns where its metrics are.
func (f *fleet) service(args ...string) string {
	f.t.Helper()
	log, stderr := io.Pipe()
	signals := make(chan os.Signal, 1)
	addr := make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(addr)
		in := bufio.NewScanner(log)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(in.Bytes(), &line) == nil && strings.HasPrefix(line.Msg, "serving /metrics") {
				addr <- line.Addr
			}
		}
	})
	wg.Go(func() {
		code := stemcmd.Run(context.Background(), f.app, stemcmd.Process{
			Args: append(args, "--http", "127.0.0.1:0"), Env: f.env, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: stderr, Signals: signals,
		})
		if code != 0 {
			f.t.Errorf("stem %s: exit code %d", strings.Join(args, " "), code)
		}
		_ = stderr.Close() // it returns no error
	})
	f.t.Cleanup(func() { signals <- syscall.SIGTERM; wg.Wait() })
	at, ok := <-addr
	if !ok {
		f.t.Fatalf("stem %s ended", strings.Join(args, " "))
	}
	return "http://" + at + "/metrics"
}

// scrape adds the names of the samples that are served there.
func scrape(t *testing.T, url string, names map[string]bool) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", url, resp.StatusCode, err)
	}
	for line := range strings.Lines(string(page)) {
		if name := metricName.FindString(line); name != "" && strings.HasPrefix(line, name) {
			names[name] = true
		}
	}
}

// TestMetricsAreServed: a worker, a beat and an API that have work serve what
// rules and dashboard ask for.
func TestMetricsAreServed(t *testing.T) {
	dir := t.TempDir()
	quick := stem.Retry(stem.RetryPolicy{Base: time.Millisecond})
	f := &fleet{t, stemcmd.App{Name: "stem", Tasks: []stem.Registration{
		stem.NewTask[any, any]("good").With(func(_ context.Context, v any) (any, error) { return v, nil }),
		stem.NewTask[any, any]("bad", quick, stem.MaxRetries(1)).With(func(context.Context, any) (any, error) { return nil, errors.New("no") }),
	}}, []string{"STEM_BROKER_URL=sqlite:" + filepath.Join(dir, "stem.db"), "STEM_LOG_FORMAT=json"}}
	schedules := filepath.Join(dir, "schedules.yaml")
	if err := os.WriteFile(schedules, []byte("schedules:\n  - {id: often, task: good, spec: 'every:1s'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.command("schedule", "apply", "--yes", schedules)
	f.command("enqueue", "good", "--id", "never", "--in", "1h")
	f.command("worker", "revoke", "--task", "never")
	f.command("enqueue", "good", "--expires-in", "1ms")
	urls := []string{f.service("worker", "run"), f.service("beat", "run"), f.service("serve", "--addr", "127.0.0.1:0")}
	f.command("enqueue", "good", "--wait")
	f.command("enqueue", "bad")
	f.command("enqueue", "good", "--in", "1h")

	var wanted []string
	for _, path := range []string{"prometheus/rules.yaml", "grafana/stem.json"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			if !slices.Contains(notProvoked, name) && !slices.Contains(wanted, name) {
				wanted = append(wanted, name)
			}
		}
	}
	names := map[string]bool{}
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		for _, url := range urls {
			scrape(t, url, names)
		}
		missing := slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return names[name] })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("asked for, and not served: %v", missing)
		}
	}
}
