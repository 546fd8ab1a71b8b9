package httptask_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/httptask"
	"github.com/stemjobs/stem/internal/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here allows the address of test servers, and no other.
var here = httptask.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

// serve starts a server of a handler.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// answering is a server that always says the same.
func answering(t *testing.T, status int, body string, headers ...string) *httptest.Server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func newPool(t *testing.T, o httptask.Options) *httptask.Pool {
	t.Helper()
	p := httptask.NewPool(o)
	t.Cleanup(p.Close)
	return p
}

// endpoint is one at that URL, in a test's way.
func endpoint(t *testing.T, url string, change ...func(*httptask.Endpoint)) httptask.Endpoint {
	t.Helper()
	u, err := httptask.ParseURL(url)
	if err != nil {
		t.Fatalf("ParseURL(%q): %v", url, err)
	}
	e := httptask.Endpoint{URL: u, Guard: here, Timeout: 20 * time.Second}
	for _, c := range change {
		c(&e)
	}
	return e
}

// newTask makes a task of an endpoint, on a pool of its own.
func newTask(t *testing.T, url string, change ...func(*httptask.Endpoint)) *httptask.Task {
	t.Helper()
	x, err := httptask.New(newPool(t, httptask.Options{}), endpoint(t, url, change...))
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return x
}

var call = foreign.Call{ID: "id-1", Name: "notify", Attempt: 2, Args: json.RawMessage(`{"n":1}`)}

// run makes the usual call.
func run(t *testing.T, url string, change ...func(*httptask.Endpoint)) (json.RawMessage, error) {
	t.Helper()
	return newTask(t, url, change...).Run(t.Context(), call)
}

// kind names the type of error by which a runner judges.
func kind(err error) string {
	var permanent *runner.PermanentError
	var retry *runner.RetryError
	var result *runner.ResultError
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &permanent):
		return "permanent"
	case errors.As(err, &retry):
		return "wait"
	case errors.As(err, &result):
		return result.Reason
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "a bare context error"
	}
	return "retry"
}
