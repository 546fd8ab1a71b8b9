package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

type object = map[string]any

// document is the OpenAPI document as a server serves it.
type document struct {
	root object
}

func openDocument(t testing.TB, r *rig) *document {
	t.Helper()
	d := &document{}
	r.must(200, "GET", "/openapi.json", "", &d.root)
	return d
}

func dig(v any, path ...string) any {
	for _, p := range path {
		m, ok := v.(object)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// check is as much of JSON Schema as the document uses.
func (d *document) check(schema any, v any, at string) error {
	s, ok := schema.(object)
	if !ok {
		return fmt.Errorf("%s: no schema", at)
	}
	if ref, ok := s["$ref"].(string); ok {
		return d.check(dig(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...), v, at)
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is none of %v", at, v, enum)
	}
	kind := ""
	switch x := v.(type) {
	case nil:
		kind = "null"
	case bool:
		kind = "boolean"
	case string:
		kind = "string"
		if s["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339Nano, x); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
	case float64:
		kind = "number"
		if s["type"] == "integer" && x == float64(int64(x)) {
			kind = "integer"
		}
	case []any:
		kind = "array"
		for i, item := range x {
			if s["type"] == "array" {
				if err := d.check(s["items"], item, fmt.Sprintf("%s/%d", at, i)); err != nil {
					return err
				}
			}
		}
	case object:
		kind = "object"
		if s["type"] == "object" {
			if err := d.checkObject(s, x, at); err != nil {
				return err
			}
		}
	}
	if want, ok := s["type"].(string); ok && want != kind {
		return fmt.Errorf("%s: %s, want %s", at, kind, want)
	}
	return nil
}

func (d *document) checkObject(s, x object, at string) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := x[name.(string)]; !ok {
			return fmt.Errorf("%s: %s is missing", at, name)
		}
	}
	for name, value := range x {
		schema := dig(s, "properties", name)
		if schema == nil {
			schema = s["additionalProperties"]
		}
		if schema == nil || schema == false {
			return fmt.Errorf("%s: %s is not in the schema", at, name)
		}
		if err := d.check(schema, value, at+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// operation finds the document's path for a request.
func (d *document) operation(method, path string) (string, object) {
	paths, _ := d.root["paths"].(object)
	best := ""
	for p := range paths {
		pattern := "^" + regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(p), "[^/]+") + "$"
		if dig(paths, p, strings.ToLower(method)) != nil && regexp.MustCompile(pattern).MatchString(path) && (best == "" || !strings.Contains(p, "{")) {
			best = p
		}
	}
	op, _ := dig(paths, best, strings.ToLower(method)).(object)
	return best, op
}

// witness checks each exchange with the server against the document.
type witness struct {
	t    testing.TB
	d    *document
	next http.RoundTripper

	mu   sync.Mutex
	seen map[string]bool
}

func (w *witness) RoundTrip(q *http.Request) (*http.Response, error) {
	var sent []byte
	if q.GetBody != nil {
		if body, err := q.GetBody(); err == nil {
			var b bytes.Buffer
			_, _ = b.ReadFrom(body)
			sent = b.Bytes()
		}
	}
	resp, err := w.next.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	path, op := w.d.operation(q.Method, q.URL.Path)
	if op == nil {
		w.t.Errorf("%s %s is not in the document", q.Method, q.URL.Path)
		return resp, nil
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	resp.Body.Close()
	resp.Body = readCloser{bytes.NewReader(b.Bytes())}
	where := fmt.Sprintf("%s %s %d", q.Method, path, resp.StatusCode)
	w.mu.Lock()
	w.seen[where] = true
	w.mu.Unlock()
	answer := dig(op, "responses", fmt.Sprint(resp.StatusCode))
	if answer == nil {
		w.t.Errorf("%s is not in the document: %.200s", where, b.Bytes())
		return resp, nil
	}
	media := resp.Header.Get("Content-Type")
	if resp.StatusCode != 204 && media != "text/event-stream" {
		w.valid(where+" answer", dig(answer, "content", media, "schema"), b.Bytes())
	}
	if resp.StatusCode < 300 && len(sent) > 0 {
		w.valid(where+" request", dig(op, "requestBody", "content", "application/json", "schema"), sent)
	}
	return resp, nil
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func (w *witness) valid(where string, schema any, raw []byte) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		w.t.Errorf("%s: %v", where, err)
		return
	}
	if err := w.d.check(schema, v, ""); err != nil {
		w.t.Errorf("%s: %v in %.400s", where, err, raw)
	}
}

// TestDocument holds what the server takes and answers to the document that it
// serves, for every route.
func TestDocument(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	d := openDocument(t, r)
	if d.root["openapi"] != "3.1.0" {
		t.Fatalf("openapi %v", d.root["openapi"])
	}
	w := &witness{t: t, d: d, next: r.http.Transport, seen: map[string]bool{}}
	plain := r.http
	r.http = &http.Client{Transport: w}
	defer func() { r.http = plain }()

	r.enqueue(`{"name":"echo","args":{"a":[1]},"id":"t1","queue":"pull","headers":{"a":"b"},"meta":{"m":null},"priority":3,
		"maxRetries":0,"in":"0s","expiresIn":"1h","retention":"forever","onSuccess":[{"name":"next"}],"visibilityTimeout":"30s"}`)
	r.do("POST", "/v1/tasks", `{"name":"a","idempotencyKey":"k"}`)
	r.do("POST", "/v1/tasks", `{"name":"a","idempotencyKey":"k"}`)
	r.do("POST", "/v1/tasks", `{"name":"a","id":"t1"}`)
	r.do("POST", "/v1/tasks", `{"nam":"a"}`)
	r.do("POST", "/v1/tasks", `{}`, "Content-Type", "text/plain")
	r.do("POST", "/v1/tasks", `{}`, "Origin", "https://evil.example")
	r.do("POST", "/v1/tasks", `{"name":"a","args":"`+strings.Repeat("x", 2<<20)+`"}`)
	r.do("POST", "/v1/tasks/batch", `{"tasks":[{"name":"a"},{"name":"b c"},{"name":"a","id":"t1"}]}`)
	l := r.lease(`{"queues":["pull"],"worker":"w","count":1,"wait":"1s","lease":"30s","requestId":"r"}`)
	r.do("POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q,"progress":{"percent":1.5,"data":[]}},{"receipt":"0.0.0~1~~x"}]}`, l[0].Receipt))
	r.do("GET", "/v1/tasks/t1", "")
	r.settle(l[0].Receipt, `"outcome":"failed","permanent":true,"reason":"r","error":{"type":"E","message":"m","stack":"s"}`)
	r.settle(l[0].Receipt, `"outcome":"succeeded"`)
	r.do("POST", "/v1/settle", `{"tasks":[]}`)
	for _, path := range []string{
		"/v1/tasks/t1", "/v1/tasks/no", "/v1/tasks/t1/wait", "/v1/tasks/no/wait", "/v1/tasks/t1/events", "/v1/tasks?limit=2", "/v1/tasks?x=1",
		"/v1/queues", "/v1/deadletters", "/v1/deadletters/t1", "/v1/deadletters/no", "/v1/scale?queue=pull", "/v1/scale", "/openapi.json",
	} {
		r.do("GET", path, "")
	}
	id := r.enqueue(`{"name":"later","in":"1h"}`)
	r.do("GET", "/v1/tasks/"+id+"/wait?timeout=1ms", "")
	r.do("POST", "/v1/tasks/"+id+"/revoke", `{"terminate":false,"reason":"x"}`)
	r.do("POST", "/v1/tasks/no/revoke", `{}`)
	r.do("POST", "/v1/queues/default/purge", `{}`)
	r.do("POST", "/v1/queues/default/purge", `{"confirm":true}`)
	r.do("POST", "/v1/deadletters/replay", `{"filter":{"queue":"pull"},"dryRun":true}`)
	r.do("POST", "/v1/deadletters/purge", `{"filter":{},"confirm":true,"limit":5}`)
	exchangeSchedules(r)
	r.work(echo())
	echoed := r.enqueue(`{"name":"echo","args":1}`)
	var s stem.Status
	r.must(200, "GET", "/v1/tasks/"+echoed+"/wait", "", &s)
	eventually(t, "a worker is listed", func() bool {
		var l httpapi.WorkerList
		r.must(200, "GET", "/v1/workers", "", &l)
		return len(l.Workers) == 1
	})
	exchangeWorkers(r)
	for _, rt := range httpapi.Table() {
		status := "200"
		if rt.Path == "/v1/tasks" && rt.Method == "POST" {
			status = "201"
		}
		if where := rt.Method + " " + rt.Path + " " + status; !w.seen[where] {
			t.Errorf("no exchange shows %s", where)
		}
	}
}

// TestDocumentRefuses makes sure that the checker would notice.
func TestDocumentRefuses(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	d := openDocument(t, r)
	schema := object{"$ref": "#/components/schemas/Enqueued"}
	for _, bad := range []any{nil, []any{}, object{}, object{"id": 1.0, "duplicate": false}, object{"id": "a"}, object{"id": "a", "duplicate": false, "x": 1.0},
		object{"id": "a", "duplicate": false, "error": object{}}} {
		if d.check(schema, bad, "") == nil {
			t.Errorf("%v passes", bad)
		}
	}
	if err := d.check(schema, object{"id": "a", "duplicate": true}, ""); err != nil {
		t.Error(err)
	}
}
