package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/httpapi"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(benchWorker); path != "" {
		os.Exit(workAsChild(path))
	}
	goleak.VerifyTestMain(m)
}

// rig is a server on loopback and the client that it serves.
type rig struct {
	t      testing.TB
	client *stem.Client
	server *httpapi.Server
	url    string
	http   *http.Client
	token  string
	stop   func() error // stops the server and returns what Serve returned
}

// newRig starts a server on a store in memory.
func newRig(t testing.TB, o httpapi.Options) *rig {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return newRigOn(t, db, o)
}

func newRigOn(t testing.TB, b stem.Backend, o httpapi.Options) *rig {
	t.Helper()
	client, err := stem.NewClient(b, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if keeper, ok := b.(beat.Store); ok {
		if o.Schedules, err = beat.NewBook(client, keeper.Schedules(), keeper.Locks(), o.Tasks...); err != nil {
			t.Fatal(err)
		}
	}
	return serve(t, client, o)
}

func serve(t testing.TB, client *stem.Client, o httpapi.Options) *rig {
	t.Helper()
	server, err := httpapi.NewServer(client, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	r := &rig{t: t, client: client, server: server, url: "http://" + l.Addr().String(), http: &http.Client{Transport: transport}}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the server did not stop cleanly: %v", err)
		}
		transport.CloseIdleConnections()
	})
	return r
}

// reply is what a request came to.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("answer %.300s: %v", r.body, err)
	}
}

// problem is the slug of a problem's type; "" for another answer, and for one
// that does not tell people what is wrong.
func (r reply) problem() string {
	var p httpapi.Problem
	if r.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(r.body, &p) != nil || p.Status != r.status || p.RequestID == "" {
		return ""
	}
	if p.Detail == "" || strings.Contains(p.Detail, "%!") || strings.Contains(p.Detail, "<nil>") {
		return ""
	}
	return strings.TrimPrefix(p.Type, "/problems/")
}

// do sends a request. Its headers are pairs; "" leaves a default one out.
func (r *rig) do(method, path, body string, headers ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if method == http.MethodPost || method == http.MethodPut {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	for i := 0; i < len(headers); i += 2 {
		switch {
		case headers[i] == "Host":
			req.Host = headers[i+1]
		case headers[i+1] == "":
			req.Header.Del(headers[i])
		default:
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return r.send(req)
}

func (r *rig) send(req *http.Request) reply {
	r.t.Helper()
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	if strings.HasSuffix(resp.Header.Get("Content-Type"), "json") && req.Method != http.MethodHead && !strings.HasSuffix(string(raw), "\n") {
		r.t.Errorf("%s %s: the answer ends without a new line: %.200s", req.Method, req.URL.Path, raw)
	}
	return reply{resp.StatusCode, resp.Header, raw}
}

// must sends a request whose answer has that status, and decodes it.
func (r *rig) must(status int, method, path, body string, into any, headers ...string) reply {
	r.t.Helper()
	got := r.do(method, path, body, headers...)
	if got.status != status {
		r.t.Fatalf("%s %s: status %d, want %d: %.400s", method, path, got.status, status, got.body)
	}
	if into != nil {
		got.into(r.t, into)
	}
	return got
}

// enqueue stores a task and returns its id.
func (r *rig) enqueue(body string, headers ...string) string {
	r.t.Helper()
	var e httpapi.Enqueued
	r.must(http.StatusCreated, "POST", "/v1/tasks", body, &e, headers...)
	return e.ID
}

// work runs a worker with those tasks until the test ends.
func (r *rig) work(rs ...stem.Registration) {
	r.t.Helper()
	w := stem.NewWorker(r.client, stem.WorkerOptions{Concurrency: 4})
	if err := w.Handle(rs...); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func echo() stem.Registration {
	return stem.NewTask[json.RawMessage, json.RawMessage]("echo").With(
		func(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil })
}
