//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv("MONOLITH_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs the service as a process and returns its base URL.
func start(t *testing.T, env ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "MONOLITH_CHILD=1", "LISTEN_ADDR=127.0.0.1:0"), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	_, url, found := strings.Cut(line, "listening on ")
	url, _, _ = strings.Cut(url, ",")
	if err != nil || !found {
		t.Fatalf("it said %q, %v", line, err)
	}
	return cmd, url
}

// do makes a request and decodes the answer.
func do(t *testing.T, method, url, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer := map[string]any{}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("%s %s: %d %s", method, url, resp.StatusCode, raw)
	}
	return resp.StatusCode, answer
}

// outcome polls until the task has ended.
func outcome(t *testing.T, url, id string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if code, s := do(t, http.MethodGet, url+"/status/"+id, ""); code == http.StatusOK && s["finishedAt"] != nil {
			return s
		}
	}
	t.Fatalf("task %s does not end", id)
	return nil
}

func TestTheServiceAsAProcess(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	for _, store := range []string{"memory:", "sqlite:" + filepath.Join(t.TempDir(), "stem.db"), server.URL(0)} {
		t.Run(strings.SplitAfter(store, ":")[0], func(t *testing.T) {
			cmd, url := start(t, "STEM_BROKER_URL="+store)
			code, answer := do(t, http.MethodPost, url+"/enqueue", `{"name":"Ada"}`)
			id, _ := answer["id"].(string)
			if code != http.StatusAccepted || id == "" {
				t.Fatalf("enqueue: %d %v", code, answer)
			}
			if s := outcome(t, url, id); s["state"] != "succeeded" || s["result"] != "Hello, Ada" {
				t.Errorf("status %v", s)
			}
			_, answer = do(t, http.MethodPost, url+"/enqueue", `{"name":""}`)
			if s := outcome(t, url, answer["id"].(string)); s["state"] != "failed" || s["reason"] != "permanent" {
				t.Errorf("status of a failure %v", s)
			}
			for path, want := range map[string]int{"/status/unknown": http.StatusNotFound, "/status/a%20b": http.StatusBadRequest} {
				if code, answer := do(t, http.MethodGet, url+path, ""); code != want {
					t.Errorf("%s: %d %v, want %d", path, code, answer, want)
				}
			}
			if code, answer := do(t, http.MethodPost, url+"/enqueue", `{"name":`); code != http.StatusBadRequest {
				t.Errorf("malformed JSON: %d %v", code, answer)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
		})
	}
}

func TestAWrongStoreIsRefused(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MONOLITH_CHILD=1", "STEM_BROKER_URL=ftp://x")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sqlite:") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestGreetsAgainAndAgain: the greeting of every 30 seconds is scheduled, and the
// service's beat leads.
func TestGreetsAgainAndAgain(t *testing.T) {
	for name, store := range map[string]string{
		"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "stem.db"), "redis": redistest.Start(t, redistest.Options{}).URL(0),
	} {
		t.Run(name, func(t *testing.T) { greetsAgain(t, store) })
	}
}

func greetsAgain(t *testing.T, store string) {
	start(t, "STEM_BROKER_URL="+store)
	backend, err := connect.Open(t.Context(), connect.Options{Broker: store})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	book, err := beat.NewBook(nil, backend.Schedules(), backend.Locks())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		entry, err := book.Get(t.Context(), "greeting")
		lead, leadErr := book.Leader(t.Context())
		if err == nil && leadErr == nil && lead.Holder != "" && entry.When == "Every 30 seconds" && time.Until(entry.Record.NextDue) <= 30*time.Second {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("entry %+v, %v; leader %+v, %v", entry, err, lead, leadErr)
		}
	}
}
