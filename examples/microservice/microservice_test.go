//go:build unix

package microservice

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/store"
)

// patience is for what must come, on a machine that is busy with other things.
const patience = 90 * time.Second

// span is one that a program sent.
type span struct {
	*traces.Span
	service string
}

func (s span) id() string     { return hex.EncodeToString(s.SpanId) }
func (s span) trace() string  { return hex.EncodeToString(s.TraceId) }
func (s span) parent() string { return hex.EncodeToString(s.ParentSpanId) }
func (s span) task() string   { return text(s.Attributes, "stem.task") }

// text is an attribute as a text; "" without it.
func text(attrs []*common.KeyValue, key string) string {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// receiver takes OTLP over HTTP.
type receiver struct {
	*httptest.Server
	t     *testing.T
	mu    sync.Mutex
	spans []span
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t}
	r.Server = httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, q *http.Request) {
	var data traces.TracesData // what a request is, on the wire
	raw, err := io.ReadAll(q.Body)
	if err == nil {
		err = proto.Unmarshal(raw, &data)
	}
	if err != nil || q.URL.Path != "/v1/traces" {
		r.t.Errorf("%s: %v", q.URL.Path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range data.ResourceSpans {
		service := text(resource.Resource.Attributes, "service.name")
		for _, s := range resource.ScopeSpans {
			for _, x := range s.Spans {
				r.spans = append(r.spans, span{x, service})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// find returns the one span that is so.
func (r *receiver) find(what string, is func(s span) bool) span {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []span
	for _, s := range r.spans {
		if is(s) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		for _, s := range r.spans {
			r.t.Logf("%s %s of %q, id %s, trace %s, parent %s", s.service, s.Name, s.task(), s.id(), s.trace(), s.parent())
		}
		r.t.Fatalf("%d spans are %s, want one", len(found), what)
	}
	return found[0]
}

// child returns the one span of that name and service right below another.
func (r *receiver) child(of span, service, name string) span {
	r.t.Helper()
	s := r.find(fmt.Sprintf("%s of %s below %s", name, service, of.Name), func(s span) bool {
		return s.service == service && s.Name == name && s.parent() == of.id()
	})
	if s.trace() != of.trace() {
		r.t.Errorf("%s left the trace of its parent %s", s.Name, of.Name)
	}
	return s
}

// program is one of the three, running.
type program struct {
	*exec.Cmd
	out *bufio.Reader
}

func start(t *testing.T, path string, env ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(path)}
	p.Env = append(os.Environ(), env...)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	p.Stderr, p.out = &said, bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // it has ended, unless the test failed
		_ = p.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), said.String())
		}
	})
	return p
}

// stop asks the program to end, and waits until it has sent its spans.
func (p *program) stop(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%s after SIGTERM: %v", filepath.Base(p.Path), err)
	}
}

// order posts an order as somebody who traces does, and returns its task's id.
func order(t *testing.T, url, traceparent, body string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/orders", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Traceparent", traceparent)
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.ID
}

// ended waits until a task of each of the names has succeeded.
func ended(t *testing.T, broker string, names ...string) {
	t.Helper()
	backend, err := connect.Open(t.Context(), connect.Options{Broker: broker})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	client, err := stem.NewClient(backend, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		missing := ""
		for _, name := range names {
			l, err := client.List(t.Context(), store.Query{Name: name, States: []stem.State{stem.Succeeded}, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Statuses) == 0 {
				missing = name
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s has succeeded", missing)
		}
	}
}

// TestTracesThroughAllThree: a request's trace goes on in the task that it
// enqueues and in what follows that; a firing begins a trace of its own, which
// the worker goes on in.
func TestTracesThroughAllThree(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./api", "./worker", "./beat")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, said)
	}
	server, otlp := redistest.Start(t, redistest.Options{}), newReceiver(t)
	env := []string{"STEM_BROKER_URL=" + server.URL(0), "STEM_OTLP_ENDPOINT=" + otlp.URL, "LISTEN_ADDR=127.0.0.1:0", "COUNT_EVERY=1s"}
	worker, beat, api := start(t, bin+"/worker", env...), start(t, bin+"/beat", env...), start(t, bin+"/api", env...)
	line, err := api.out.ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the API said %q, %v", line, err)
	}

	const traceID, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	code, id := order(t, url, "00-"+traceID+"-"+caller+"-01", `{"item":"tea","count":12}`)
	if code != http.StatusAccepted || id == "" {
		t.Fatalf("POST /orders: %d, id %q", code, id)
	}
	if code, _ := order(t, url, "", `{"item":`); code != http.StatusBadRequest {
		t.Errorf("malformed JSON: %d", code)
	}
	ended(t, server.URL(0), "order.pack", "order.confirm", "stock.count")
	for _, p := range []*program{api, beat, worker} {
		p.stop(t)
	}

	request := otlp.find("the request", func(s span) bool { return s.parent() == caller })
	if request.trace() != traceID || request.service != "orders-api" || request.Kind != traces.Span_SPAN_KIND_SERVER {
		t.Errorf("the request is in trace %s, of %s, a %v", request.trace(), request.service, request.Kind)
	}
	enqueue := otlp.child(request, "orders-api", "stem.enqueue")
	if got := text(enqueue.Attributes, "messaging.message.id"); got != id {
		t.Errorf("the span of the enqueue is of %s, want %s", got, id)
	}
	pack := executed(t, otlp, enqueue, "order.pack")
	executed(t, otlp, pack, "order.confirm")

	// Any of the firings that were executed.
	var firing span
	for _, s := range otlp.spans {
		if s.service == "orders-worker" && s.Name == "stem.consume" && s.task() == "stock.count" {
			firing = otlp.find("the firing", func(f span) bool { return f.id() == s.parent() })
			break
		}
	}
	if firing.Span == nil || firing.service != "orders-beat" || firing.Name != "stem.enqueue" || firing.parent() != "" || firing.trace() == traceID {
		t.Fatalf("the stock was counted, but not by a firing that begins a trace: %+v", firing)
	}
	executed(t, otlp, firing, "stock.count")
}

// executed holds that the worker executed the task right below that span, and
// returns the span of the execution.
func executed(t *testing.T, otlp *receiver, from span, task string) span {
	t.Helper()
	consume := otlp.child(from, "orders-worker", "stem.consume")
	if len(consume.Links) != 1 || hex.EncodeToString(consume.Links[0].SpanId) != from.id() {
		t.Errorf("the consumer of %s is not linked to %s", task, from.Name)
	}
	execute := otlp.child(consume, "orders-worker", "stem.execute")
	if consume.task() != task || execute.task() != task {
		t.Errorf("consumed %q and executed %q, want %s", consume.task(), execute.task(), task)
	}
	return execute
}
