package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/httpapi"
)

func newRequest(ctx context.Context, t testing.TB, url, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return req
}

type pair struct{ A, B int }

func TestClient(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: allTokens(t)})
	c, err := httpapi.NewClient(r.url+"/", httpapi.ClientOptions{Token: secret + "operate", HTTP: r.http})
	if err != nil {
		t.Fatal(err)
	}
	add := stem.NewTask[pair, int]("add", stem.MaxRetries(1))
	broken := stem.NewTask[stem.None, stem.None]("broken", stem.MaxRetries(0))
	r.work(add.With(func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil }),
		broken.Do(func(context.Context, stem.None) error { return errors.New("out of order") }))
	ctx := t.Context()
	h, err := add.Enqueue(ctx, c, pair{1, 2}, stem.Queue("default"), stem.In(10*time.Millisecond), stem.Priority(7),
		stem.Header("tenant", "acme"), stem.Meta("k", "v"), stem.Retention(stem.Forever), stem.ExpiresIn(time.Hour),
		stem.VisibilityTimeout(time.Minute), stem.Encoder(), stem.Link(add.Item(pair{3, 4}, stem.ID("linked"))))
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := h.Wait(ctx); err != nil || sum != 3 {
		t.Errorf("result %d, %v", sum, err)
	}
	if sum, err := add.Handle(c, "linked").Wait(ctx); err != nil || sum != 7 {
		t.Errorf("the linked task's result %d, %v", sum, err)
	}
	s, err := h.Status(ctx)
	if err != nil || s.Priority != 7 || s.MaxRetries != 1 || !s.ExpiresAt.IsZero() || string(s.Meta["user"]) != `{"k":"v"}` {
		t.Errorf("status %+v, %v", s, err)
	}
	direct, err := r.client.Get(ctx, h.ID)
	if a, b := asJSON(t, direct), asJSON(t, s); err != nil || a != b {
		t.Errorf("the status over HTTP is\n%s, not\n%s", b, a)
	}

	var failed *stem.TaskError
	h2, err := broken.Enqueue(ctx, c, stem.None{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h2.Wait(ctx); !errors.As(err, &failed) || failed.Message != "out of order" || failed.Reason != "retries-exhausted" {
		t.Errorf("a failed task: %v", err)
	}
	var exists *stem.TaskExistsError
	if _, err := add.Enqueue(ctx, c, pair{}, stem.ID(h.ID)); !errors.As(err, &exists) || exists.Status == nil || exists.Status.State != stem.Succeeded {
		t.Errorf("an id in use: %v", err)
	}
	first, err := add.Enqueue(ctx, c, pair{}, stem.Idempotency("k", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := add.Enqueue(ctx, c, pair{}, stem.Idempotency("k", time.Hour)); err != nil || again.ID != first.ID || !again.Duplicate {
		t.Errorf("a duplicate: %+v, %v", again, err)
	}
	if _, err := c.Get(ctx, "nobody"); !errors.Is(err, stem.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	if _, err := c.Wait(ctx, "nobody"); !errors.Is(err, stem.ErrNotFound) {
		t.Errorf("wait for an unknown one: %v", err)
	}
	if _, err := c.Get(ctx, "../x"); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("a path for an id: %v", err)
	}
	if _, err := add.Enqueue(ctx, c, pair{}, stem.Queue("a b")); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("a wrong queue: %v", err)
	}
	if _, err := add.Enqueue(ctx, c, pair{}, stem.In(-1)); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("a wrong option: %v", err)
	}
	large := stem.NewItem("x", json.RawMessage(`"`+strings.Repeat("x", 1<<20)+`"`))
	rs, err := c.EnqueueMany(ctx, []stem.Item{large, stem.NewItem("y", nil)})
	if err != nil || !errors.Is(rs[0].Err, stem.ErrTooLarge) || rs[1].Err != nil {
		t.Errorf("a large one: %+v, %v", rs, err)
	}
	waiting, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(waiting, rs[1].ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait that is over: %v", err)
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestClientDescent: what a handler enqueues over the API, and what a puller
// does, has a parent and a root.
func TestClientDescent(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, err := httpapi.NewClient(r.url, httpapi.ClientOptions{HTTP: r.http})
	if err != nil {
		t.Fatal(err)
	}
	step := stem.NewTask[int, stem.None]("step")
	r.work(step.Do(func(ctx context.Context, n int) error {
		if n == 3 {
			return nil
		}
		_, err := step.Enqueue(ctx, c, n+1, stem.ID(fmt.Sprintf("s%d", n+1)))
		return err
	}))
	if _, err := step.Enqueue(t.Context(), c, 1, stem.ID("s1")); err != nil {
		t.Fatal(err)
	}
	descent := func(id, parent, root string) {
		t.Helper()
		eventually(t, id+" is there", func() bool { return r.do("GET", "/v1/tasks/"+id, "").status == 200 })
		if s := r.status(id); string(s.Meta["parent"]) != parent || string(s.Meta["root"]) != root {
			t.Errorf("%s: parent %s, root %s; want %s, %s", id, s.Meta["parent"], s.Meta["root"], parent, root)
		}
	}
	descent("s1", "", "")
	descent("s2", `"s1"`, `"s1"`)
	descent("s3", `"s2"`, `"s1"`)

	for i, want := range []string{"p0", "p0", "p0"} {
		body := `{"task":"a","queue":"pull","id":"p0"}`
		if i > 0 {
			body = fmt.Sprintf(`{"task":"a","queue":"pull","id":"p%d","parent":"p%d","root":"p0"}`, i, i-1)
		}
		id := r.enqueue(body)
		l := r.lease(`{"queues":["pull"]}`)
		if len(l) != 1 || l[0].ID != id || l[0].Name != "a" || l[0].Root != want {
			t.Errorf("leased %+v, want %s with root %s", l, id, want)
		}
	}
	descent("p2", `"p1"`, `"p0"`)
}

func TestClientBatches(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, err := httpapi.NewClient(r.url, httpapi.ClientOptions{HTTP: r.http})
	if err != nil {
		t.Fatal(err)
	}
	var items []stem.Item
	for i := range 2500 {
		items = append(items, stem.NewItem("a", json.RawMessage(fmt.Sprint(i))))
	}
	for range 10 {
		items = append(items, stem.NewItem("big", json.RawMessage(`"`+strings.Repeat("x", 900<<10)+`"`)))
	}
	rs, err := c.EnqueueMany(t.Context(), items)
	if err != nil || len(rs) != len(items) {
		t.Fatalf("%d receipts, %v", len(rs), err)
	}
	ids := map[string]bool{}
	for i, got := range rs {
		if got.Err != nil {
			t.Fatalf("item %d: %v", i, got.Err)
		}
		ids[got.ID] = true
	}
	q, err := r.client.Queues(t.Context())
	if err != nil || len(ids) != len(items) || q[0].Ready != len(items) {
		t.Errorf("%d ids, %d ready, %v; want %d", len(ids), q[0].Ready, err, len(items))
	}
	if rs, err := c.EnqueueMany(t.Context(), nil); err != nil || len(rs) != 0 {
		t.Errorf("nothing: %v, %v", rs, err)
	}
}

func TestClientFailures(t *testing.T) {
	for _, base := range []string{"", "127.0.0.1:80", "ftp://x", "http://", "http://u:p@x", "http://x/?q=1", "http://x#f"} {
		if _, err := httpapi.NewClient(base, httpapi.ClientOptions{}); !errors.Is(err, stem.ErrInvalid) {
			t.Errorf("NewClient(%q): %v", base, err)
		}
	}
	var answer atomic.Pointer[func(w http.ResponseWriter)]
	url := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { (*answer.Load())(w) }))
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c, err := httpapi.NewClient(url, httpapi.ClientOptions{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	problem := func(slug string, status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"type":"/problems/%s","status":%d}`, slug, status)
		}
	}
	for _, f := range []struct {
		answer func(http.ResponseWriter)
		want   error
	}{
		{func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, stem.ErrOutcomeUnknown},
		{func(w http.ResponseWriter) { w.WriteHeader(502) }, stem.ErrOutcomeUnknown},
		{func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") }, stem.ErrOutcomeUnknown},
		{func(w http.ResponseWriter) { fmt.Fprint(w, `{"tasks":[]}`) }, stem.ErrOutcomeUnknown},
		{problem("outcome-unknown", 503), stem.ErrOutcomeUnknown},
		{problem("unavailable", 503), broker.ErrUnavailable},
		{problem("queue-full", 429), stem.ErrQueueFull},
		{problem("too-large", 413), stem.ErrTooLarge},
		{problem("unsupported", 501), broker.ErrUnsupported},
		{problem("lease-lost", 409), broker.ErrLeaseLost},
	} {
		answer.Store(&f.answer)
		rs, err := c.EnqueueMany(t.Context(), []stem.Item{stem.NewItem("a", nil)})
		if !errors.Is(err, f.want) || len(rs) != 1 || rs[0].ID == "" || !errors.Is(rs[0].Err, f.want) {
			t.Errorf("%+v, %v; want %v", rs, err, f.want)
		}
	}
	// A wait goes on over a server that is away for a while.
	var calls atomic.Int32
	restarting := func(w http.ResponseWriter) {
		switch calls.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			problem("busy", 503)(w)
		case 3:
			w.WriteHeader(202)
			fmt.Fprint(w, `{"id":"a","state":"running"}`)
		default:
			fmt.Fprint(w, `{"id":"a","state":"succeeded"}`)
		}
	}
	answer.Store(&restarting)
	if s, err := c.Wait(t.Context(), "a"); err != nil || s.State != stem.Succeeded {
		t.Errorf("wait: %+v, %v", s, err)
	}
	forbidden := problem("forbidden", 403)
	answer.Store(&forbidden)
	var p *httpapi.Problem
	if _, err := c.Wait(t.Context(), "a"); !errors.As(err, &p) || p.Status != 403 {
		t.Errorf("wait without the role: %v", err)
	}
}
