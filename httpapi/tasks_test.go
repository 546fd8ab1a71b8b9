package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

func TestEnqueueAndFollow(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	var e httpapi.Enqueued
	got := r.must(201, "POST", "/v1/tasks", fmt.Sprintf(`{"name":"email.send","args":{"to":"a<b>@c"},"id":"mail-1","queue":"mail",
		"at":%q,"expiresIn":"2h","priority":9,"maxRetries":0,"visibilityTimeout":"45s","retention":"forever",
		"headers":{"Tenant":"acme"},"meta":{"user":42},"onSuccess":[{"name":"log"}],"ignoreResult":true}`, at.Format(time.RFC3339Nano)), &e)
	if e.ID != "mail-1" || e.Duplicate || got.header.Get("Location") != "/v1/tasks/mail-1" {
		t.Errorf("enqueued: %+v at %q", e, got.header.Get("Location"))
	}
	var s stem.Status
	raw := r.must(200, "GET", "/v1/tasks/mail-1", "", &s).body
	if s.State != stem.Queued || s.Queue != "mail" || s.Priority != 9 || s.MaxRetries != 0 || !s.NotBefore.Equal(at) ||
		string(s.Meta["user"]) != `{"user":42}` || s.Meta["links"] == nil || string(s.Meta["retention"]) != "-1" {
		t.Errorf("status: %s", raw)
	}
	if !strings.Contains(string(raw), `{"to":"a<b>@c"}`) {
		t.Errorf("the arguments were rewritten: %s", raw)
	}

	again := r.do("POST", "/v1/tasks", `{"name":"email.send","id":"mail-1"}`)
	var p httpapi.Problem
	again.into(t, &p)
	if again.problem() != "task-exists" || again.status != 409 || p.Task == nil || p.Task.Name != "email.send" {
		t.Errorf("a second one: %d %s", again.status, again.body)
	}
	if got := r.do("GET", "/v1/tasks/mail-2", ""); got.problem() != "not-found" || got.status != 404 {
		t.Errorf("an unknown one: %d %s", got.status, got.body)
	}

	var rv httpapi.Revoked
	r.must(200, "POST", "/v1/tasks/mail-1/revoke", `{"reason":"by mistake"}`, &rv)
	if rv != (httpapi.Revoked{ID: "mail-1", State: "cancelled"}) {
		t.Errorf("revoked: %+v", rv)
	}
	r.must(200, "POST", "/v1/tasks/mail-1/revoke", `{}`, &rv)
	if rv.State != "too-late" {
		t.Errorf("revoked again: %+v", rv)
	}
	if got := r.do("POST", "/v1/tasks/mail-2/revoke", `{}`); got.problem() != "not-found" {
		t.Errorf("revoke an unknown one: %d %s", got.status, got.body)
	}
}

func TestWait(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	id := r.enqueue(`{"name":"echo","args":[1,2]}`)
	var s stem.Status
	r.must(202, "GET", "/v1/tasks/"+id+"/wait?timeout=20ms", "", &s)
	if s.State != stem.Queued {
		t.Errorf("before the end: %s", s.State)
	}
	r.must(202, "GET", "/v1/tasks/"+id+"/wait?timeout=0s", "", &s)
	waited := make(chan reply)
	go func() { waited <- r.do("GET", "/v1/tasks/"+id+"/wait", "") }()
	r.work(echo())
	got := <-waited
	got.into(t, &s)
	if got.status != 200 || s.State != stem.Succeeded || string(s.Result) != "[1,2]" {
		t.Errorf("at the end: %d %s", got.status, got.body)
	}
	if got := r.do("GET", "/v1/tasks/nobody/wait", ""); got.problem() != "not-found" {
		t.Errorf("an unknown one: %d %s", got.status, got.body)
	}
}

func TestBatch(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	var e httpapi.EnqueuedMany
	r.must(200, "POST", "/v1/tasks/batch", `{"tasks":[{"name":"a","id":"1"},{"name":"not ok"},{"name":"a","id":"1"},
		{"name":"b","priority":10},{"name":"c","in":"1h"}]}`, &e)
	if len(e.Tasks) != 5 || e.Tasks[0].Error != nil || e.Tasks[4].Error != nil {
		t.Fatalf("batch: %+v", e)
	}
	for i, want := range map[int]string{1: "invalid-argument", 2: "task-exists", 3: "invalid-argument"} {
		if p := e.Tasks[i].Error; p == nil || p.Type != "/problems/"+want || e.Tasks[i].ID == "" {
			t.Errorf("task %d: %+v, want %s", i, p, want)
		}
	}
	var l httpapi.TaskList
	r.must(200, "GET", "/v1/tasks?name=c", "", &l)
	if len(l.Tasks) != 1 || l.Tasks[0].NotBefore.IsZero() {
		t.Errorf("listed: %+v", l)
	}
}

func TestIdempotency(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	first := r.enqueue(`{"name":"pay"}`, "Idempotency-Key", "order 7")
	var e httpapi.Enqueued
	r.must(200, "POST", "/v1/tasks", `{"name":"pay"}`, &e, "Idempotency-Key", "order 7")
	if e.ID != first || !e.Duplicate {
		t.Errorf("the same key: %+v, want %s", e, first)
	}
	r.must(200, "POST", "/v1/tasks", `{"name":"pay","idempotencyKey":"order 7"}`, &e)
	if e.ID != first || !e.Duplicate {
		t.Errorf("the same key in the body: %+v, want %s", e, first)
	}
	if other := r.enqueue(`{"name":"pay"}`, "Idempotency-Key", "order 8"); other == first {
		t.Error("another key led to the same task")
	}
	var one, two httpapi.EnqueuedMany
	r.must(200, "POST", "/v1/tasks/batch", `{"tasks":[{"name":"a"},{"name":"a"}]}`, &one, "Idempotency-Key", "b")
	r.must(200, "POST", "/v1/tasks/batch", `{"tasks":[{"name":"a"},{"name":"a"}]}`, &two, "Idempotency-Key", "b")
	if one.Tasks[0].ID == one.Tasks[1].ID || two.Tasks[0].ID != one.Tasks[0].ID || two.Tasks[1].ID != one.Tasks[1].ID || !two.Tasks[1].Duplicate {
		t.Errorf("a batch repeated: %+v, then %+v", one, two)
	}
}

// TestLostReply breaks the connection between the commit and the reply.
func TestLostReply(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	var calls atomic.Int32
	proxy := listen(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if calls.Add(1) < 3 {
			r.server.ServeHTTP(nowhere{http.Header{}}, q)
			panic(http.ErrAbortHandler)
		}
		r.server.ServeHTTP(w, q)
	}))
	behind := *r
	behind.url = proxy
	send := func() (*http.Response, error) {
		req, err := http.NewRequest("POST", proxy+"/v1/tasks", strings.NewReader(`{"name":"pay"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header["Idempotency-Key"] = []string{"k"}
		req.GetBody = nil // the client repeats, and not its transport
		return r.http.Do(req)
	}
	for range 2 {
		if resp, err := send(); err == nil {
			resp.Body.Close()
			t.Fatal("a reply came through")
		}
	}
	resp, err := send()
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	var l httpapi.TaskList
	r.must(200, "GET", "/v1/tasks", "", &l)
	if resp.StatusCode != 200 || len(l.Tasks) != 1 {
		t.Errorf("status %d, %d tasks; want 200 and one", resp.StatusCode, len(l.Tasks))
	}
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header       { return n.h }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

func TestList(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	for i := range 25 {
		r.enqueue(fmt.Sprintf(`{"name":"n.%d","id":"t%02d","queue":"q%d","args":"needle %d"}`, i%2, i, i%3, i))
	}
	seen := map[string]bool{}
	for cursor := ""; ; {
		var l httpapi.TaskList
		r.must(200, "GET", "/v1/tasks?limit=10&name=n.*&cursor="+url.QueryEscape(cursor), "", &l)
		for _, s := range l.Tasks {
			if seen[s.ID] {
				t.Errorf("%s is on two pages", s.ID)
			}
			seen[s.ID] = true
		}
		if cursor = l.Cursor; cursor == "" {
			break
		}
	}
	if len(seen) != 25 {
		t.Errorf("%d tasks on all pages, want 25", len(seen))
	}
	for query, want := range map[string]int{
		"q=" + url.QueryEscape(`name:n.1 queue:q0 state:queued since:1h`): 4,
		"q=" + url.QueryEscape(`args:"needle 24"`):                        1,
		"name=n.1&queue=q0&state=queued,failed&since=1h":                  4,
		"args=needle+24&until=2099-01-01T00:00:00Z":                       1,
		"state=succeeded":             0,
		"worker=w&reason=r&error=boo": 0,
	} {
		var l httpapi.TaskList
		if got := r.must(200, "GET", "/v1/tasks?"+query, "", &l); len(l.Tasks) != want || l.Tasks == nil {
			t.Errorf("%s: %d tasks, want %d: %.200s", query, len(l.Tasks), want, got.body)
		}
	}
	for _, query := range []string{
		"state=done", "limit=0", "limit=1001", "limit=x", "cursor=x", "since=yesterday", "q=nonsense", "q=state:failed&name=a",
		"q=%22", "since=-1h", "until=0001-01-01T00:00:00Z", "%zz=1", "name=%ff", "args=" + strings.Repeat("x", 5000),
	} {
		if got := r.do("GET", "/v1/tasks?"+query, ""); got.problem() != "invalid-argument" {
			t.Errorf("%.60s: %d %s", query, got.status, got.body)
		}
	}
	for _, query := range []string{"nam=a", "limit=1&limit=2"} {
		if got := r.do("GET", "/v1/tasks?"+query, ""); got.problem() != "unknown-parameter" {
			t.Errorf("%s: %d %s", query, got.status, got.body)
		}
	}
}

// events reads server-sent events until the stream ends.
func (r *rig) events(ctx context.Context, id, last string) (int, <-chan [3]string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v1/tasks/"+id+"/events", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	out := make(chan [3]string, 100)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		var e [3]string
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			switch key {
			case "id":
				e[0] = value
			case "event":
				e[1] = value
			case "data":
				e[2] = value
			case "":
				if lines.Text() != "" {
					out <- [3]string{"", "comment", value}
				} else if e[1] != "" {
					out <- e
					e = [3]string{}
				}
			}
		}
	}()
	return resp.StatusCode, out
}

func TestEvents(t *testing.T) {
	r := newRig(t, httpapi.Options{Heartbeat: 10 * time.Millisecond})
	id := r.enqueue(`{"name":"slow"}`)
	_, stream := r.events(t.Context(), id, "")
	first := <-stream
	if first[1] != "status" || !strings.Contains(first[2], `"queued"`) {
		t.Fatalf("first event: %v", first)
	}
	if beat := <-stream; beat[1] != "comment" {
		t.Fatalf("no heartbeat, but %v", beat)
	}
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	r.work(stem.NewTask[json.RawMessage, string]("slow").With(func(ctx context.Context, _ json.RawMessage) (string, error) {
		stem.Current(ctx).Progress(50, map[string]int{"n": 1})
		<-release
		return "done", nil
	}))
	var last [3]string
	for e := range stream {
		if e[1] == "comment" {
			continue
		}
		if strings.Contains(e[2], `"percent":50`) {
			free()
		}
		last = e
	}
	var s stem.Status
	if err := json.Unmarshal([]byte(last[2]), &s); err != nil || last[1] != "end" || s.State != stem.Succeeded {
		t.Fatalf("last event: %v, %v", last, err)
	}
	if status, _ := r.events(t.Context(), id, last[0]); status != 204 {
		t.Errorf("who has seen the end gets %d, want 204", status)
	}
	_, again := r.events(t.Context(), id, first[0])
	if e := <-again; e != last {
		t.Errorf("who saw the first gets %v, want the end", e)
	}
	for range again {
	}
	if got := r.do("GET", "/v1/tasks/nobody/events", ""); got.problem() != "not-found" {
		t.Errorf("an unknown one: %d %s", got.status, got.body)
	}
}
