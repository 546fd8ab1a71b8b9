//go:build unix

package otel_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	traces "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/observe/otel"
)

// stores are all the backends, and pairs of them, by name.
func stores(t *testing.T) map[string]connect.Options {
	dir := t.TempDir()
	file := func(name string) string { return "sqlite:" + filepath.Join(dir, name) }
	redis, cluster := redistest.Start(t, redistest.Options{}), redistest.StartCluster(t, redistest.ClusterOptions{})
	return map[string]connect.Options{
		"memory":           {Broker: "memory:"},
		"sqlite":           {Broker: file("one.db")},
		"redis":            {Broker: redis.URL(0)},
		"cluster":          {Broker: "redis+cluster://" + cluster.Nodes[0].Addr},
		"sqlite and redis": {Broker: file("queue.db"), Results: redis.URL(1)},
		"redis and redis":  {Broker: redis.URL(2), Results: redis.URL(3)},
		"redis and sqlite": {Broker: redis.URL(4), Results: file("results.db")},
	}
}

// TestTracesOverEveryBackend: a request to the HTTP API begins what a worker
// goes on with, in its first attempt and in the retry, in what the handler
// enqueues and in what is linked; and who leases over HTTP is told the trace.
func TestTracesOverEveryBackend(t *testing.T) {
	for name, where := range stores(t) {
		t.Run(name, func(t *testing.T) {
			backend, err := connect.Open(t.Context(), where)
			if err != nil {
				t.Fatal(err)
			}
			defer backend.Close()
			r := newReceiver(t)
			x := open(t, otel.Options{TracesURL: r.URL})
			client, err := stem.NewClient(backend, stem.ClientOptions{Tracer: x.Tracer()})
			if err != nil {
				t.Fatal(err)
			}
			leased := overHTTP(t, client)
			closed(t, x)
			checkTree(t, r, leased)
		})
	}
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	caller  = "00f067aa0ba902b7"
)

// overHTTP enqueues "first", which is retried once and enqueues "second", which
// links "third"; and "foreign", which it leases. All of it is done when it
// returns the header that came with the lease.
func overHTTP(t *testing.T, client *stem.Client) string {
	t.Helper()
	first := stem.NewTask[int, int]("first", stem.MaxRetries(1))
	second, third := stem.NewTask[int, int]("second"), stem.NewTask[int, int]("third")
	ends := make(chan struct{}, 1)
	w := stem.NewWorker(client, stem.WorkerOptions{ID: "w1", Concurrency: 2})
	err := w.Handle(first.With(func(ctx context.Context, n int) (int, error) {
		if stem.Current(ctx).Attempt() == 0 {
			return 0, stem.RetryIn(time.Millisecond, errors.New("once more"))
		}
		_, err := stem.Current(ctx).Enqueue(ctx, second.Item(n, stem.Link(third.Linked())))
		return n, err
	}), second.With(func(_ context.Context, n int) (int, error) { return n, nil }),
		third.With(func(_ context.Context, n int) (int, error) {
			ends <- struct{}{}
			return n, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()

	api, err := httpapi.NewServer(client, httpapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- api.Serve(ctx, l) }()
	defer func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	url := "http://" + l.Addr().String()
	post(t, url+"/v1/tasks", `{"name":"first","args":1}`, nil)
	post(t, url+"/v1/tasks", `{"name":"foreign","queue":"elsewhere","args":1}`, nil)
	var answer httpapi.LeaseAnswer
	post(t, url+"/v1/lease", `{"queues":["elsewhere"],"wait":"30s"}`, &answer)
	if len(answer.Tasks) != 1 {
		t.Fatalf("leased %d tasks", len(answer.Tasks))
	}
	select {
	case <-ends:
	case <-time.After(90 * time.Second):
		t.Fatal("the third task was not executed")
	}
	return answer.Tasks[0].Headers["traceparent"]
}

func post(t *testing.T, url, body string, into any) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Traceparent", "00-"+traceID+"-"+caller+"-01")
	q.Header.Set("Tracestate", "v=1")
	q.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("POST %s %s: %d %s, %v", url, body, resp.StatusCode, raw, err)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// checkTree holds the parent of every span.
func checkTree(t *testing.T, r *receiver, leased string) {
	t.Helper()
	byID := map[string]*traces.Span{caller: {Name: "caller"}}
	for _, s := range r.spans {
		byID[hex.EncodeToString(s.SpanId)] = s
	}
	label := func(s *traces.Span) string {
		return strings.TrimPrefix(s.Name, "stem.") + " " + text(s.Attributes, "stem.task")
	}
	count := map[string]int{}
	for _, s := range r.spans {
		parent := byID[hex.EncodeToString(s.ParentSpanId)]
		if hex.EncodeToString(s.TraceId) != traceID || s.TraceState != "v=1" || parent == nil {
			t.Errorf("%s is in trace %x, state %q, below %v", s.Name, s.TraceId, s.TraceState, parent)
			continue
		}
		count[label(s)+" < "+label(parent)]++
	}
	want := map[string]int{
		"enqueue first < caller ": 1, "consume first < enqueue first": 2, "execute first < consume first": 2,
		"enqueue second < execute first": 1, "consume second < enqueue second": 1, "execute second < consume second": 1,
		"consume third < execute second": 1, "execute third < consume third": 1,
		"enqueue foreign < caller ": 1,
	}
	for edge, n := range want {
		if count[edge] != n {
			t.Errorf("%q is there %d times, want %d: %v", edge, count[edge], n, count)
		}
		delete(count, edge)
	}
	if len(count) > 0 {
		t.Errorf("more than there should be: %v", count)
	}
	if parts := strings.Split(leased, "-"); len(parts) != 4 || parts[1] != traceID || byID[parts[2]] == nil || label(byID[parts[2]]) != "enqueue foreign" {
		t.Errorf("the lease came with the trace %q, which is not that of its enqueue", leased)
	}
}
