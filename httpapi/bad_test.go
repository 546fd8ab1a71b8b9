package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

// listen serves a handler on loopback until the test ends.
func listen(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestBadBodies(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	deep := strings.Repeat("[", 1001) + strings.Repeat("]", 1001)
	for _, c := range []struct{ body, problem, pointer string }{
		{``, "malformed-json", ""},
		{`{`, "malformed-json", ""},
		{`{"name":"a"} x`, "malformed-json", ""},
		{`{"name":"a",}`, "malformed-json", ""},
		{`{'name':'a'}`, "malformed-json", ""},
		{`{"name":"a","args":NaN}`, "malformed-json", ""},
		{`{"name":"a","args":-Infinity}`, "malformed-json", ""},
		{`{"name":"a","args":01}`, "malformed-json", ""},
		{`{"name":"a","args":` + deep + `}`, "malformed-json", ""},
		{"{\"name\":\"a\",\"args\":\"\xff\"}", "malformed-json", ""},
		{"\xef\xbb\xbf{}", "malformed-json", ""},
		{"{\"name\":\"a\nb\"}", "malformed-json", ""},
		{`[]`, "invalid-argument", ""},
		{`"name"`, "invalid-argument", ""},
		{`null`, "invalid-argument", ""},
		{`{}`, "invalid-argument", "/name"},
		{`{"name":1}`, "invalid-argument", "/name"},
		{`{"name":null}`, "invalid-argument", "/name"},
		{`{"Name":"a"}`, "unknown-field", "/Name"},
		{`{"name":"a","a/b~c":1}`, "unknown-field", "/a~1b~0c"},
		{`{"name":"a","name":"b"}`, "duplicate-field", "/name"},
		{`{"name":"a","task":"a"}`, "duplicate-field", "/task"},
		{`{"task":1}`, "invalid-argument", "/task"},
		{`{"name":"a","root":"x"}`, "invalid-argument", "/root"},
		{`{"name":"a","parent":"x y"}`, "invalid-argument", ""},
		{`{"name":"a","\u006eame":"b"}`, "duplicate-field", "/name"},
		{`{"name":"a","headers":{"k":"v","k":"w"}}`, "duplicate-field", "/headers/k"},
		{`{"name":"a","headers":{"k":1}}`, "invalid-argument", "/headers/k"},
		{`{"name":"a","headers":{"stem-x":"1"}}`, "invalid-argument", ""},
		{`{"name":"a","priority":"5"}`, "invalid-argument", "/priority"},
		{`{"name":"a","priority":5.5}`, "invalid-argument", "/priority"},
		{`{"name":"a","priority":1e400}`, "invalid-argument", "/priority"},
		{`{"name":"a","priority":-1}`, "invalid-argument", ""},
		{`{"name":"a","in":5}`, "invalid-argument", "/in"},
		{`{"name":"a","in":"-5s"}`, "invalid-argument", "/in"},
		{`{"name":"a","in":"soon"}`, "invalid-argument", "/in"},
		{`{"name":"a","at":"tomorrow"}`, "invalid-argument", "/at"},
		{`{"name":"a","at":"2099-01-01T00:00:00Z","in":"1s"}`, "invalid-argument", "/at"},
		{`{"name":"a","expiresAt":"2099-01-01T00:00:00Z","expiresIn":"1s"}`, "invalid-argument", "/expiresAt"},
		{`{"name":"a","retention":"always"}`, "invalid-argument", "/retention"},
		{`{"name":"a","idempotencyTtl":"1h"}`, "invalid-argument", "/idempotencyTtl"},
		{`{"name":"a","args":1,"encoders":["none"]}`, "invalid-argument", ""},
		{`{"name":"a\u0000b"}`, "invalid-argument", ""},
		{`{"name":"../../etc/passwd\\"}`, "invalid-argument", ""},
		{`{"name":"a","id":"a b"}`, "invalid-argument", ""},
		{`{"name":"a","queue":".."}`, "invalid-argument", ""},
		{`{"name":"a","onSuccess":[{"name":"b"},{"nam":"c"}]}`, "unknown-field", "/onSuccess/1/nam"},
		{`{"name":"a","onSuccess":[{"name":"b","onFailure":[{"name":"c","in":"1s","at":"2099-01-01T00:00:00Z"}]}]}`, "invalid-argument", "/onSuccess/0/onFailure/0/at"},
		{`{"name":"a","onSuccess":[{"name":"b","idempotencyKey":"k"}]}`, "invalid-argument", ""},
		{strings.Repeat(`{"name":"a","onSuccess":[`, 12) + strings.Repeat(`]}`, 12), "invalid-argument", strings.Repeat("/onSuccess/0", 8) + "/onSuccess"},
	} {
		got := r.do("POST", "/v1/tasks", c.body)
		var p httpapi.Problem
		got.into(t, &p)
		if got.problem() != c.problem || got.status != 400 || p.Pointer != c.pointer {
			t.Errorf("%.80q: %d %.300s\n\twant %s at %q", c.body, got.status, got.body, c.problem, c.pointer)
		}
	}
	got := r.do("POST", "/v1/tasks/batch", `{"tasks":[{"name":"a"},{"name":"b","x":1}]}`)
	var p httpapi.Problem
	if got.into(t, &p); p.Pointer != "/tasks/1/x" {
		t.Errorf("a field in a batch: %s", got.body)
	}
	for _, body := range []string{`{"tasks":[]}`, `{"tasks":{}}`, `{"tasks":[null]}`, `{"tasks":[` + strings.Repeat(`{"name":"a"},`, 10000) + `{"name":"a"}]}`} {
		if got := r.do("POST", "/v1/tasks/batch", body); got.problem() != "invalid-argument" {
			t.Errorf("%.40s: %d %.200s", body, got.status, got.body)
		}
	}
	var l httpapi.TaskList
	if r.must(200, "GET", "/v1/tasks", "", &l); len(l.Tasks) != 0 {
		t.Errorf("bad requests stored %d tasks", len(l.Tasks))
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	big := `{"name":"a","args":"` + strings.Repeat("x", 2<<20) + `"}`
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		problem            string
	}{
		{"POST", "/v1/tasks", big, nil, 413, "too-large"},
		{"POST", "/v1/tasks", `{"name":"a","args":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "too-large"},
		{"POST", "/v1/tasks/batch", `{"tasks":[` + big + `,` + big + `]}`, nil, 413, "too-large"},
		{"POST", "/v1/tasks", `{"name":"a"}`, []string{"Content-Type", "text/plain"}, 415, "unsupported-media-type"},
		{"POST", "/v1/tasks", `{"name":"a"}`, []string{"Content-Type", ""}, 415, "unsupported-media-type"},
		{"POST", "/v1/tasks", `{"name":"a"}`, []string{"Content-Type", "application/json; charset=latin1"}, 415, "unsupported-media-type"},
		{"POST", "/v1/tasks", `{"name":"a"}`, []string{"Content-Type", "multipart/form-data"}, 415, "unsupported-media-type"},
		{"POST", "/v1/tasks", `{"name":"a"}`, []string{"Idempotency-Key", strings.Repeat("k", 257)}, 400, "invalid-argument"},
		{"POST", "/v1/tasks", `{"name":"a","idempotencyKey":"b"}`, []string{"Idempotency-Key", "k"}, 400, "invalid-argument"},
		{"POST", "/v1/tasks?x=1", `{"name":"a"}`, nil, 400, "unknown-parameter"},
		{"PUT", "/v1/tasks", "", nil, 405, "method-not-allowed"},
		{"DELETE", "/v1/tasks/abc", "", nil, 405, "method-not-allowed"},
		{"GET", "/v1/lease", "", nil, 405, "method-not-allowed"},
		{"GET", "/", "", nil, 404, "not-found"},
		{"GET", "/v2/tasks", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/a/b/c", "", nil, 404, "not-found"},
		{"GET", "//v1/tasks", "", nil, 404, "not-found"},
		{"GET", "/v1/./tasks", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/%2e%2e/queues", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/%2e%2e", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/..%2f..%2fetc", "", nil, 404, "not-found"},
		{"GET", "/v1/tasks/a%00b", "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/a%2fb", "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/a%20b", "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/" + strings.Repeat("a", 129), "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/%ff", "", nil, 400, "invalid-argument"},
		{"POST", "/v1/queues/%2a/purge", `{"confirm":true}`, nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/a/wait?timeout=1y", "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/a/wait?timeout=2m", "", nil, 400, "invalid-argument"},
		{"GET", "/v1/tasks/a/wait?timeout=-1s", "", nil, 400, "invalid-argument"},
	} {
		got := r.do(c.method, c.path, c.body, c.headers...)
		if got.status != c.status || got.problem() != c.problem {
			t.Errorf("%s %.60s %v: %d %.200s\n\twant %d %s", c.method, c.path, c.headers, got.status, got.body, c.status, c.problem)
		}
	}
	if got := r.do("PUT", "/v1/tasks", ""); got.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", got.header.Get("Allow"))
	}
	if got := r.do("GET", "/v1/queues", "", "X-Request-Id", "mine-1"); got.header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("request id: %q", got.header.Get("X-Request-Id"))
	}
	for _, id := range []string{"a b", strings.Repeat("x", 200), `<script>`} {
		if got := r.do("GET", "/v1/queues", "", "X-Request-Id", id).header.Get("X-Request-Id"); got == id || got == "" {
			t.Errorf("request id %q gets %q", id, got)
		}
	}
}

// TestBadQueries: no store fails on what only it can tell to be wrong.
func TestBadQueries(t *testing.T) {
	stores(t, func(t *testing.T, b stem.Backend) {
		r := newRigOn(t, b, httpapi.Options{})
		r.enqueue(`{"name":"a","id":"a"}`)
		var paths []string
		for _, cursor := range []string{"x", "~", "1~", "~a", "-1~a", "99999999999999999999~a", "9223372036854775807~a", "1~a~b", "%00", "%ff", "1%20~a", strings.Repeat("1", 5000)} {
			paths = append(paths, "/v1/tasks?cursor="+cursor, "/v1/deadletters?cursor="+cursor)
		}
		for _, query := range []string{
			"limit=0", "limit=-1", "limit=1e3", "limit=99999999999999999999", "limit=1001", "limit=", "since=yesterday", "since=-1h", "since=9999999h",
			"until=10000-01-01T00:00:00Z", "since=0000-01-01T00:00:00Z", "state=running,", "state=done", "q=state:done", "q=%22", "q=x:y", "q=a&state=failed",
			"cursor=1~a&cursor=1~a", "nobody=1", "name=%ff", "args=%00",
		} {
			paths = append(paths, "/v1/tasks?"+query)
		}
		for _, path := range paths {
			if got := r.do("GET", path, ""); got.status >= 500 || got.status != 200 && got.problem() == "" {
				t.Errorf("%.100s: %d %.200s", path, got.status, got.body)
			}
		}
		for _, path := range []string{"/v1/tasks?cursor=x", "/v1/deadletters?cursor=x", "/v1/tasks?limit=0", "/v1/tasks?state=done", "/v1/tasks?q=state:done", "/v1/tasks?name=%ff"} {
			if got := r.do("GET", path, ""); got.status != 400 {
				t.Errorf("%s: %d %.200s", path, got.status, got.body)
			}
		}
		for _, filter := range []string{`{"ids":["a b"]}`, `{"queue":"a b"}`, `{"before":"0001-01-01T00:00:00Z"}`, `{"task":"["}`, `{"ids":[]}`, `{"reason":"\u0000"}`} {
			for _, path := range []string{"/v1/deadletters/replay", "/v1/deadletters/purge"} {
				if got := r.do("POST", path, `{"dryRun":true,"filter":`+filter+`}`); got.status >= 500 {
					t.Errorf("%s %s: %d %.200s", path, filter, got.status, got.body)
				}
			}
		}
	})
}

// dial opens a bare connection to the server.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func TestSlowBodies(t *testing.T) {
	r := newRig(t, httpapi.Options{ReadTimeout: 100 * time.Millisecond})
	head := "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
	eventually(t, "a body that does not come is told so", func() bool {
		c := r.dial()
		defer c.Close()
		fmt.Fprint(c, head+"\r\n{\"name\":")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false // the head came too late, on a slow machine
		}
		resp.Body.Close()
		return resp.StatusCode == 408
	})
	c := r.dial()
	fmt.Fprint(c, head) // and headers that do not end
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("headers that do not end: %v", err)
	}
	// One that breaks off changes nothing.
	c = r.dial()
	fmt.Fprint(c, head+"\r\n{\"name\":\"a\"}")
	c.Close()
	c = r.dial()
	var b strings.Builder
	b.WriteString("GET /v1/queues HTTP/1.1\r\nHost: localhost\r\n")
	for i := range 100_000 {
		fmt.Fprintf(&b, "X-%d: y\r\n", i)
	}
	_, _ = io.WriteString(c, b.String()+"\r\n") // the server may close while this is under way
	if answer, _ := io.ReadAll(c); len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
		t.Errorf("100,000 headers: %.100s", answer)
	}
	if q, err := r.client.Queues(t.Context()); err != nil || len(q) != 0 {
		t.Errorf("broken requests stored tasks: %+v, %v", q, err)
	}
}

func TestConnectionLimit(t *testing.T) {
	r := newRig(t, httpapi.Options{MaxConns: 10})
	var held []net.Conn
	for range 9 {
		c := r.dial()
		fmt.Fprint(c, "GET /v1/queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	r.must(200, "GET", "/v1/queues", "", nil) // the tenth
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 200 { // 10,000 in all, 50 at a time
				c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a new connection takes it
				n, err := c.Read(make([]byte, 1))
				c.Close()
				if err == nil || n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a connection beyond the limit is not closed: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.must(200, "GET", "/v1/queues", "", nil)
	for _, c := range held {
		c.Close()
	}
	eventually(t, "there is room again", func() bool {
		c := r.dial()
		defer c.Close()
		fmt.Fprint(c, "GET /v1/queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	})
}

// TestSlowReaders: who asks and does not read keeps no connection.
func TestSlowReaders(t *testing.T) {
	r := newRig(t, httpapi.Options{MaxConns: 3, WriteTimeout: 200 * time.Millisecond})
	r.work(stem.NewTask[stem.None, string]("big").With(func(context.Context, stem.None) (string, error) {
		return strings.Repeat("x", 900_000), nil
	}))
	id := r.enqueue(`{"name":"big","args":{}}`)
	eventually(t, "the large result is there", func() bool {
		s, err := r.client.Get(t.Context(), id)
		return err == nil && s.State == stem.Succeeded
	})
	r.http.CloseIdleConnections()
	for range 3 {
		c := r.dial()
		if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, strings.Repeat("GET /v1/tasks/"+id+" HTTP/1.1\r\nHost: localhost\r\n\r\n", 30))
	}
	eventually(t, "there is room again", func() bool {
		c := r.dial()
		defer c.Close()
		fmt.Fprint(c, "GET /v1/queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	})
}

// TestClientsGone: clients that leave in the middle of anything leave nothing
// behind, neither a place among those that wait nor a task.
func TestClientsGone(t *testing.T) {
	const room = 40
	r := newRig(t, httpapi.Options{MaxWaiting: room})
	id := r.enqueue(`{"name":"never","queue":"other"}`)
	follow := fmt.Sprintf("GET /v1/tasks/%s/events HTTP/1.1\r\nHost: localhost\r\n\r\n", id)
	for round := range 5 {
		var held []net.Conn
		for i := range 30 {
			c := r.dial()
			switch i % 3 {
			case 0:
				fmt.Fprintf(c, "GET /v1/tasks/%s/wait?timeout=60s HTTP/1.1\r\nHost: localhost\r\n\r\n", id)
			case 1:
				fmt.Fprint(c, follow)
				_, _ = c.Read(make([]byte, 1)) // an answer
			default:
				body := `{"queues":["default"],"wait":"30s"}`
				fmt.Fprintf(c, "POST /v1/lease HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
			held = append(held, c)
		}
		for _, c := range held {
			c.Close()
		}
		// Those that leave before they have said all stored nothing.
		for _, part := range []string{"POST /v1/ta", "POST /v1/tasks HTTP/1.1\r\nHost: loc", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" +
			"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"name\":\"gone\"}"} {
			c := r.dial()
			fmt.Fprint(c, part)
			c.Close()
		}
		// And one that leaves as soon as it has said all stored one at most.
		c := r.dial()
		body := fmt.Sprintf(`{"name":"gone","queue":"gone","id":"gone-%d"}`, round)
		fmt.Fprintf(c, "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		c.Close()
		if got := r.do("POST", "/v1/tasks", body); got.status != 201 && got.problem() != "task-exists" {
			t.Errorf("the repeat: %d %s", got.status, got.body)
		}
	}
	var l httpapi.TaskList
	if r.must(200, "GET", "/v1/tasks?name=gone", "", &l); len(l.Tasks) != 5 {
		t.Errorf("%d tasks are stored, want one of each round", len(l.Tasks))
	}
	eventually(t, "all the room is there again", func() bool {
		for range room {
			c := r.dial()
			defer c.Close()
			fmt.Fprint(c, follow)
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil || !strings.Contains(line, "200") {
				return false
			}
		}
		return true
	})
}

// TestWaitingLimit holds the number of clients that wait.
func TestWaitingLimit(t *testing.T) {
	r := newRig(t, httpapi.Options{MaxWaiting: 2})
	id := r.enqueue(`{"name":"a"}`)
	_, one := r.events(t.Context(), id, "")
	_, two := r.events(t.Context(), id, "")
	<-one
	<-two
	got := r.do("GET", "/v1/tasks/"+id+"/wait", "")
	if got.problem() != "busy" || got.header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %s", got.status, got.body)
	}
	r.must(200, "GET", "/v1/tasks/"+id, "", nil)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for range one {
	}
	for range two {
	}
}
