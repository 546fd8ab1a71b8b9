package httptask_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/httptask"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
)

// TestRequest: what an endpoint gets.
func TestRequest(t *testing.T) {
	for _, method := range []string{"", "PUT", "PATCH"} {
		var got http.Header
		var body, line string
		s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			got, body, line = r.Header, string(data), r.Method+" "+r.RequestURI
		})
		header, err := httptask.ParseHeader("x-tenant", "blue")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := run(t, s.URL+"/a/b?c=d#e", func(e *httptask.Endpoint) {
			e.Method, e.Headers = method, []httptask.Header{header}
		}); err != nil {
			t.Fatal(err)
		}
		if method == "" {
			method = "POST"
		}
		if want := method + " /a/b?c=d"; line != want || body != `{"n":1}` {
			t.Errorf("got %s with body %s, want %s", line, body, want)
		}
		want := http.Header{
			"Content-Length": {"7"}, "Content-Type": {"application/json"}, "Idempotency-Key": {"id-1"},
			"Stem-Attempt": {"2"}, "Stem-Task-Id": {"id-1"}, "Stem-Task-Name": {"notify"},
			"User-Agent": {"stem"}, "X-Tenant": {"blue"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
	}
}

// TestTheTraceGoesOnAtTheEndpoint, if there is one, and as far as headers can have it.
func TestTheTraceGoesOnAtTheEndpoint(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var got http.Header
	x := newTask(t, serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header }).URL)
	for _, tt := range []struct {
		at            measure.TraceContext
		parent, state string
	}{
		{at: measure.TraceContext{}},
		{at: measure.TraceContext{Parent: "rubbish", State: "a=1"}},
		{at: measure.TraceContext{Parent: parent}, parent: parent},
		{at: measure.TraceContext{Parent: parent, State: "a=1,b=2"}, parent: parent, state: "a=1,b=2"},
		{at: measure.TraceContext{Parent: parent, State: "a=1\r\nX: y"}, parent: parent},
	} {
		c := call
		c.Trace = tt.at
		if _, err := x.Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got.Get("traceparent") != tt.parent || got.Get("tracestate") != tt.state {
			t.Errorf("in %+v: got %v", tt.at, got)
		}
	}
}

func TestResults(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		body, want string
	}{
		"JSON":             {200, ` {"n": 9007199254740993}` + "\n", `{"n": 9007199254740993}`},
		"text":             {200, "fine <b>\n", `"fine <b>"`},
		"nothing":          {200, "", `null`},
		"white space":      {200, "\r\n", `null`},
		"accepted":         {202, `"later"`, `"later"`},
		"created":          {201, `7`, `7`},
		"no content":       {204, "", `null`},
		"a success of own": {299, `true`, `true`},
	} {
		got, err := run(t, answering(t, c.status, c.body).URL)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
	if _, err := run(t, answering(t, 200, "a\xffb").URL); kind(err) != "result-invalid" {
		t.Errorf("what is no text: %v", err)
	}
}

func TestLargeAnswers(t *testing.T) {
	chunked := func(size int) *httptask.Task {
		return newTask(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush() // its length is not said
			_, _ = w.Write(bytes.Repeat([]byte("a"), size))
		}).URL)
	}
	flood := newTask(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}).URL)
	said := newTask(t, answering(t, 200, strings.Repeat("a", 1<<20+1)).URL)
	own := newTask(t, answering(t, 200, "12345678901").URL, func(e *httptask.Endpoint) { e.MaxResult = 10 })
	for name, x := range map[string]*httptask.Task{"chunked": chunked(1<<20 + 1), "flood": flood, "said": said, "of its own limit": own} {
		if _, err := x.Run(t.Context(), call); kind(err) != "result-too-large" {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := chunked(1<<20).Run(t.Context(), call)
	if err != nil || len(got) != 1<<20+2 {
		t.Errorf("exactly 1 MiB: %d bytes, %v", len(got), err)
	}
	got, err = run(t, answering(t, 200, "1234567890").URL, func(e *httptask.Endpoint) { e.MaxResult = 10 })
	if err != nil || string(got) != "1234567890" {
		t.Errorf("exactly its own limit: %s, %v", got, err)
	}
}

// TestFailures: what a status means to the runner.
func TestFailures(t *testing.T) {
	for status, want := range map[int]string{
		300: "permanent", 302: "permanent", 304: "permanent", 307: "permanent", // without a Location
		400: "permanent", 401: "permanent", 403: "permanent", 404: "permanent", 409: "permanent", 410: "permanent", 418: "permanent",
		422: "permanent", 451: "permanent", 499: "permanent", 600: "permanent", 999: "permanent",
		408: "retry", 425: "retry", 429: "retry", 500: "retry", 501: "retry", 502: "retry", 503: "retry", 504: "retry", 599: "retry",
	} {
		_, err := run(t, answering(t, status, "sorry\n").URL+"/secret/path?token=secret")
		var failure *httptask.StatusError
		if kind(err) != want || !errors.As(err, &failure) || failure.Code != status {
			t.Errorf("%d: %T %v, want %s", status, err, err, want)
			continue
		}
		text := strconv.Itoa(status)
		if name := http.StatusText(status); name != "" {
			text += " " + name
		}
		if status != 304 { // has no body
			text += ": sorry"
		}
		if !strings.HasPrefix(err.Error(), "POST http://127.0.0.1:") || !strings.HasSuffix(err.Error(), ": "+text) {
			t.Errorf("%d: the error is %q, want it to end with %q", status, err, text)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: the error shows the URL: %s", status, err)
		}
	}
}

// TestRetryAfterIsHonoured: for the statuses that are tried again.
func TestRetryAfterIsHonoured(t *testing.T) {
	later := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		status   int
		after    string
		want     string
		from, to time.Duration
	}{
		"seconds":           {429, "60", "wait", time.Minute, 66 * time.Second},
		"a moment":          {503, later, "wait", time.Hour - time.Minute, 66 * time.Minute},
		"too long":          {503, "31536000", "wait", 24 * time.Hour, 24 * time.Hour},
		"nonsense":          {503, "soon", "retry", 0, 0},
		"at once":           {503, "0", "retry", 0, 0},
		"408":               {408, "5", "wait", 5 * time.Second, 6 * time.Second},
		"425":               {425, "5", "wait", 5 * time.Second, 6 * time.Second},
		"500":               {500, "5", "wait", 5 * time.Second, 6 * time.Second},
		"where it is final": {404, "60", "permanent", 0, 0},
	} {
		_, err := run(t, answering(t, c.status, "", "Retry-After", c.after).URL)
		if kind(err) != c.want {
			t.Errorf("%s: %T %v, want %s", name, err, err, c.want)
			continue
		}
		var retry *runner.RetryError
		if errors.As(err, &retry) && (retry.In < c.from || retry.In > c.to || !retry.At.IsZero()) {
			t.Errorf("%s: in %s, at %s; want in %s to %s", name, retry.In, retry.At, c.from, c.to)
		}
	}
}

// TestExcerpt: of a failure's body its error has the first KiB.
func TestExcerpt(t *testing.T) {
	_, err := run(t, answering(t, 400, strings.Repeat("é", 600)+"the end").URL)
	var failure *httptask.StatusError
	if !errors.As(err, &failure) || failure.Body != strings.Repeat("é", 512) {
		t.Errorf("a long body: %v", err)
	}
	_, err = run(t, answering(t, 400, "\xff\xfe").URL)
	if !errors.As(err, &failure) || failure.Body != "\uFFFD" {
		t.Errorf("a body that is no text: %v", err)
	}
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		_, _ = w.Write([]byte("begun"))
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	for limit := time.Second; limit < time.Minute; limit *= 2 { // as long as the begin may take
		_, err = run(t, s.URL, func(e *httptask.Endpoint) { e.Timeout = limit })
		if errors.As(err, &failure) && failure.Body == "begun" {
			break
		}
	}
	if !errors.As(err, &failure) || failure.Body != "begun" || kind(err) != "permanent" {
		t.Errorf("a body without an end: %v", err)
	}
}

func hmacOf(secret, moment, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, moment+"."+body)
	return hex.EncodeToString(mac.Sum(nil))
}

// TestSignature: one for each secret, over the moment and the body; a secret
// that is replaced in its file counts from the next call on.
func TestSignature(t *testing.T) {
	var got, body string
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		got, body = r.Header.Get("Stem-Signature"), string(data)
	})
	path := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HTTPTASK_SECRET", "from the variable")
	inFile, err := httptask.ParseSecret("@" + path)
	if err != nil {
		t.Fatal(err)
	}
	inVariable, err := httptask.ParseSecret("HTTPTASK_SECRET")
	if err != nil {
		t.Fatal(err)
	}
	x := newTask(t, s.URL, func(e *httptask.Endpoint) { e.Secrets = []httptask.Value{inFile, inVariable} })
	for _, secret := range []string{"old", "new"} {
		write(secret + "\r\n")
		if err := x.Check(); err != nil {
			t.Errorf("Check: %v", err)
		}
		began := time.Now().Unix()
		if _, err := x.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		moment, _, _ := strings.Cut(strings.TrimPrefix(got, "t="), ",")
		at, err := strconv.ParseInt(moment, 10, 64)
		if err != nil || at < began || at > time.Now().Unix() {
			t.Errorf("the moment is %q", moment)
		}
		want := fmt.Sprintf("t=%s,v1=%s,v1=%s", moment, hmacOf(secret, moment, body), hmacOf("from the variable", moment, body))
		if got != want {
			t.Errorf("signature is %s, want %s", got, want)
		}
	}
	for name, breakIt := range map[string]func(){
		"empty":   func() { write("\n") },
		"large":   func() { write(strings.Repeat("x", 9<<10)) },
		"missing": func() { _ = os.Remove(path) },
	} {
		breakIt()
		got = "none"
		_, err := x.Run(t.Context(), call)
		if kind(err) != "retry" || got != "none" || !strings.Contains(err.Error(), path) || x.Check() == nil {
			t.Errorf("%s: %v, and the server saw %s", name, err, got)
		}
	}
	if _, err := newTask(t, s.URL).Run(t.Context(), call); err != nil || got != "" {
		t.Errorf("without a secret: %v, signature %q", err, got)
	}
	variable, _ := httptask.ParseSecret("HTTPTASK_UNSET")
	x = newTask(t, s.URL, func(e *httptask.Endpoint) { e.Secrets = []httptask.Value{variable} })
	if err := x.Check(); err == nil || !strings.Contains(err.Error(), "HTTPTASK_UNSET is not set") {
		t.Errorf("a variable that is not set: %v", err)
	}
}

// TestSecretHeaders: a header's value can be in a file, and what an endpoint
// sends back of it is not in the error.
func TestSecretHeaders(t *testing.T) {
	const secret = "Bearer s3cr3t-t0k3n"
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	header, err := httptask.ParseHeader("authorization", "@"+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 500, 990, 1000, 1004, 1005, 1006, 1010, 1015, 1023, 1024, 1030} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			got := r.Header.Get("Authorization")
			if got != secret {
				t.Errorf("the header is %q", got)
			}
			w.WriteHeader(400)
			_, _ = io.WriteString(w, got+strings.Repeat(".", n)+got+strings.Repeat(".", 2000))
		})
		_, err := run(t, s.URL, func(e *httptask.Endpoint) { e.Headers = []httptask.Header{header} })
		if kind(err) != "permanent" || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "Bea") || !strings.Contains(err.Error(), "***") {
			t.Errorf("after %d: %v", n, err)
		}
	}
	if err := os.WriteFile(path, []byte("s3cr3t\nInjected: yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = run(t, "http://127.0.0.1:1/", func(e *httptask.Endpoint) { e.Headers = []httptask.Header{header} })
	if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "Authorization: its value has control characters") {
		t.Errorf("a value of two lines: %v", err)
	}
}

// TestTimeout: a call ends with its own limit, wherever it is slow.
func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	silent := serve(t, func(_ http.ResponseWriter, _ *http.Request) { <-release })
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_, _ = w.Write([]byte("a"))
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				tick.Stop()
				return
			}
		}
	})
	defer close(release)
	for name, url := range map[string]string{"silent": silent.URL, "slow": slow.URL} {
		_, err := run(t, url, func(e *httptask.Endpoint) { e.Timeout = 100 * time.Millisecond })
		if kind(err) != "retry" || !strings.HasSuffix(err.Error(), "no whole answer within 100ms") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStopped: a call ends with the task, and says why.
func TestStopped(t *testing.T) {
	for _, cause := range []error{runner.ErrShutdown, runner.ErrRevoked, runner.ErrSoftTimeout, runner.ErrLeaseLost} {
		for _, begun := range []bool{false, true} {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
				if begun {
					_, _ = w.Write([]byte("begun"))
					w.(http.Flusher).Flush()
				}
				cancel(cause)
				<-r.Context().Done()
			})
			_, err := newTask(t, s.URL).Run(ctx, call)
			if !errors.Is(err, cause) || !strings.HasSuffix(err.Error(), "stopped before the answer was there") {
				t.Errorf("%v, answer begun %v: %v", cause, begun, err)
			}
			_, err = newTask(t, s.URL).Run(ctx, call)
			if !errors.Is(err, cause) {
				t.Errorf("%v, before it began: %v", cause, err)
			}
		}
	}
}

func TestNoConnection(t *testing.T) {
	s := answering(t, 200, "")
	s.Close()
	_, err := run(t, s.URL+"/secret?secret")
	if kind(err) != "retry" || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestLargeArguments: they are sent whole, also to who does not read them.
func TestLargeArguments(t *testing.T) {
	args, err := json.Marshal(strings.Repeat("x", 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	got, err := newTask(t, s.URL).Run(t.Context(), foreign.Call{Args: args})
	if err != nil || string(got) != strconv.Itoa(len(args)) {
		t.Errorf("read: %s, %v", got, err)
	}
	s = answering(t, 413, "too much")
	if _, err = newTask(t, s.URL).Run(t.Context(), foreign.Call{Args: args}); kind(err) != "permanent" && kind(err) != "retry" {
		t.Errorf("not read: %v", err)
	}
}
