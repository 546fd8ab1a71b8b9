package tasksfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/internal/tasksfile"
	"github.com/stemjobs/stem/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parse reads a file that is as it should be.
func parse(t *testing.T, format string, args ...any) *tasksfile.File {
	t.Helper()
	file, err := tasksfile.Parse("f.yaml", fmt.Appendf(nil, format, args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(file.Close)
	return file
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// TestHTTPTask: everything that an HTTP task's definition can say is done.
func TestHTTPTask(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": "old", "token": "Bearer x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("NOTIFY_SECRET", "new")
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		signatures := strings.Count(r.Header.Get("Stem-Signature"), ",v1=")
		_, _ = fmt.Fprintf(w, "%s %s %s|%s|%s|%d", r.Method, r.RequestURI, body, r.Header.Get("Authorization"), r.Header.Get("X-Tenant"), signatures)
	})
	file := parse(t, `tasks:
  notify:
    http:
      url: %s/hook
      method: put
      headers: {authorization: "@%s/token", X-Tenant: 7}
      timeout: 20s
      signing: {secret: ["@%s/secret", NOTIFY_SECRET]}
      allow_private: [127.0.0.0/8, "::1"]
      max_result: 1000
    queue: hooks
    retry: {max: 9}
    timeout: {soft: 1m}
    concurrency: 3
`, s.URL, dir, dir)
	x := file.Tasks[0]
	if x.Name != "notify" || x.Queue != "hooks" || *x.MaxRetries != 9 || x.SoftTimeout != time.Minute || x.Concurrency != 3 {
		t.Errorf("the task is %+v", x)
	}
	if err := file.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	got, err := x.Run(t.Context(), foreign.Call{ID: "id", Name: "notify"})
	if want := `"PUT /hook null|Bearer x|7|2"`; err != nil || string(got) != want {
		t.Errorf("Run = %s, %v; want %s", got, err, want)
	}
	t.Setenv("NOTIFY_SECRET", "")
	err = file.Check()
	if err == nil || err.Error() != "f.yaml:2: task notify: signing secret: the variable NOTIFY_SECRET is not set" {
		t.Errorf("Check without a secret: %v", err)
	}
}

// TestHTTPTaskByDefault: it is POSTed, and reaches the public internet alone.
func TestHTTPTaskByDefault(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Method) })
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	file := parse(t, `tasks:
  closed: {http: {url: "http://localhost:%[1]s"}}
  open: {http: {url: "http://localhost:%[1]s", allow_private: true}}
  shut: {http: {url: "http://localhost:%[1]s", allow_private: false}}
`, port)
	for _, x := range file.Tasks {
		got, err := x.Run(t.Context(), foreign.Call{})
		var permanent *runner.PermanentError
		if x.Name == "open" && string(got) != `"POST"` || x.Name != "open" && !errors.As(err, &permanent) {
			t.Errorf("%s: %s, %v", x.Name, got, err)
		}
	}
}

// TestBrokenHTTPTasks: each is refused with the line and the reason.
func TestBrokenHTTPTasks(t *testing.T) {
	in := func(lines ...string) string { // the body of http, from line 4 on
		return "tasks:\n  it:\n    http:\n      " + strings.Join(lines, "\n      ") + "\n"
	}
	const url = "url: https://example.org"
	for name, c := range map[string]struct{ text, want string }{
		"text":              {"tasks:\n  it:\n    http: https://example.org\n", "f.yaml:3: task it: http: want a mapping"},
		"empty":             {"tasks:\n  it:\n    http: {}\n", "f.yaml:3: task it: http: url is missing"},
		"no url":            {in("method: POST"), "task it: http: url is missing"},
		"unknown key":       {in(url, "metod: PUT"), `f.yaml:5: unknown key "metod" in task it: http; did you mean "method"?`},
		"both":              {"tasks:\n  it:\n    http: {" + url + "}\n    exec: [x]\n", "f.yaml:4: task it: it has exec and http: want one of them"},
		"env":               {"tasks:\n  it:\n    http: {" + url + "}\n    env: [A]\n", "f.yaml:4: task it: env is for exec tasks"},
		"option values":     {"tasks:\n  it:\n    allow_option_values: true\n    http: {" + url + "}\n", "f.yaml:3: task it: allow_option_values is for exec tasks"},
		"rate":              {"tasks:\n  it:\n    http: {" + url + "}\n    rate: 100/minute\n", `f.yaml:4: task it: rate: invalid rate "100/minute"`},
		"url scheme":        {in("url: ftp://example.org"), "f.yaml:4: task it: http: url: want an http:// or https:// URL"},
		"url relative":      {in("url: /hook"), "f.yaml:4: task it: http: url: want an http:// or https:// URL"},
		"url with password": {in("url: https://u:secret@example.org"), "f.yaml:4: task it: http: url: its user name and password would be seen"},
		"url of nothing":    {in("url:"), "f.yaml:4: task it: http: url: want text"},
		"url inside":        {in("method: PUT", "url: http://10.0.0.1/"), "f.yaml:5: task it: http: url: 10.0.0.1 is a private address, which this task may not reach: allow_private allows it"},
		"url metadata":      {in("url: http://169.254.169.254/", "allow_private: true"), "f.yaml:4: task it: http: url: 169.254.169.254 is a cloud's metadata address, which this task may not reach unless allow_private lists it"},
		"method":            {in(url, "method: GET"), `f.yaml:5: task it: http: method: "GET": want POST, PUT or PATCH`},
		"headers text":      {in(url, "headers: x"), "f.yaml:5: task it: http: headers: want a mapping"},
		"header of ours":    {in(url, "headers:", "  Stem-Task-Id: x"), "f.yaml:6: task it: http: headers: Stem-Task-Id: Stem sets it"},
		"header host":       {in(url, "headers: {host: x}"), "f.yaml:5: task it: http: headers: Host: it belongs to the connection"},
		"header name":       {in(url, `headers: {"a b": x}`), `f.yaml:5: task it: http: headers: "a b": want a header's name`},
		"header twice":      {in(url, "headers:", "  X-A: 1", "  x-a: 2"), "f.yaml:7: task it: http: headers: X-A is there twice"},
		"header of lists":   {in(url, "headers: {a: [b]}"), "f.yaml:5: task it: http: headers: want text"},
		"timeout":           {in(url, "timeout: 30"), `f.yaml:5: task it: http: timeout: "30": want a duration`},
		"timeout zero":      {in(url, "timeout: 0s"), "want a duration of a millisecond or more"},
		"signing text":      {in(url, "signing: SECRET"), "f.yaml:5: task it: http: signing: want a mapping"},
		"signing empty":     {in(url, "signing: {}"), "f.yaml:5: task it: http: signing: secret is missing"},
		"no secrets":        {in(url, "signing: {secret: []}"), "f.yaml:5: task it: http: signing: secret: there is none"},
		"secret itself":     {in(url, "signing:", "  secret:", "    - A", "    - s3cr3t"), "f.yaml:8: task it: http: signing: secret: want @/path/to/a/file or the NAME of a variable, not the secret itself"},
		"secret of ours":    {in(url, "signing: {secret: STEM_SIGNING_KEYS}"), "STEM_SIGNING_KEYS: Stem's own variables are not used for this"},
		"allow word":        {in(url, "allow_private: yes please"), "f.yaml:5: task it: http: allow_private: want true, or a list of ranges"},
		"allow host":        {in(url, "allow_private:", "- 10.0.0.0/8", "- example.org"), "f.yaml:7: task it: http: allow_private: want a range of addresses"},
		"allow within":      {in(url, "allow_private: [10.1.0.0/8]"), "f.yaml:5: task it: http: allow_private: it begins within a range: did you mean 10.0.0.0/8?"},
		"result too large":  {in(url, "max_result: 2000000"), `f.yaml:5: task it: http: max_result: "2000000": want a whole number from 1 to 1048576`},
		"result none":       {in(url, "max_result: 0"), "want a whole number from 1 to 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := tasksfile.Parse("f.yaml", []byte(c.text))
			if file != nil || !errors.Is(err, task.ErrInvalid) {
				t.Fatalf("Parse = %v, %v; want ErrInvalid", file, err)
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "s3cr3t") ||
				strings.Contains(err.Error(), "u:secret") {
				t.Errorf("error is\n%v\nwant it to say, on one line,\n%s", err, c.want)
			}
		})
	}
}

// TestConcurrency: beyond its own limit a task is put off, uncounted, and the
// isolate is free for another.
func TestConcurrency(t *testing.T) {
	met, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {
		met <- struct{}{}
		<-release
	})
	x := parse(t, "tasks: {it: {concurrency: 1, http: {url: %q, allow_private: true}}}", s.URL).Tasks[0]
	run := func() <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := x.Run(t.Context(), foreign.Call{Args: json.RawMessage("1")})
			done <- err
		}()
		<-met
		return done
	}
	first := run()
	_, err := x.Run(t.Context(), foreign.Call{})
	var snooze *runner.SnoozeError
	if !errors.As(err, &snooze) || snooze.In < 100*time.Millisecond || snooze.In > 10*time.Second {
		t.Errorf("a second one at once: %v, want a snooze", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrShutdown)
	if _, err := x.Run(ctx, foreign.Call{}); !errors.Is(err, runner.ErrShutdown) {
		t.Errorf("a stopped one: %v, want ErrShutdown", err)
	}
	release <- struct{}{}
	if err := <-first; err != nil {
		t.Errorf("the first one: %v", err)
	}
	second := run()
	release <- struct{}{}
	if err := <-second; err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}
