package otel_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
	"github.com/stemjobs/stem/observe/otel"
	"github.com/stemjobs/stem/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a receiver of OTLP over HTTP: it decodes what it is sent.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	spans   []*traces.Span
	traces  []*traces.ResourceSpans
	metrics map[string]*metrics.Metric
	names   map[string]bool // service.name of what came
	auth    string
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, metrics: map[string]*metrics.Metric{}, names: map[string]bool{}}
	r.Server = httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, q *http.Request) {
	raw, err := io.ReadAll(q.Body)
	if err != nil || q.Header.Get("Content-Type") != "application/x-protobuf" {
		r.t.Errorf("%s: %v, of type %q", q.URL.Path, err, q.Header.Get("Content-Type"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = q.Header.Get("Authorization")
	switch q.URL.Path {
	case "/v1/traces":
		x := &traces.TracesData{} // what a request is, on the wire
		if err := proto.Unmarshal(raw, x); err != nil {
			r.t.Error(err)
		}
		r.traces = append(r.traces, x.ResourceSpans...)
		for _, resource := range x.ResourceSpans {
			r.names[text(resource.Resource.Attributes, "service.name")] = true
			for _, s := range resource.ScopeSpans {
				r.spans = append(r.spans, s.Spans...)
			}
		}
	case "/v1/metrics":
		x := &metrics.MetricsData{}
		if err := proto.Unmarshal(raw, x); err != nil {
			r.t.Error(err)
		}
		for _, resource := range x.ResourceMetrics {
			r.names[text(resource.Resource.Attributes, "service.name")] = true
			for _, s := range resource.ScopeMetrics {
				for _, m := range s.Metrics {
					r.metrics[m.Name] = m
				}
			}
		}
	default:
		r.t.Errorf("asked for %s", q.URL.Path)
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // of an empty message: all of it was taken
}

// text is an attribute as a text; "" without it.
func text(attrs []*common.KeyValue, key string) string {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func (r *receiver) named(name string) []*traces.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*traces.Span
	for _, s := range r.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

func open(t *testing.T, o otel.Options) *otel.Exporter {
	t.Helper()
	x, err := otel.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// closed sends what is left.
func closed(t *testing.T, x *otel.Exporter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := x.Close(ctx); err != nil {
		t.Error(err)
	}
}

// client makes a client on memory, and a worker that does not run yet.
func client(t *testing.T, o stem.ClientOptions) (*stem.Client, *stem.Worker) {
	t.Helper()
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	c, err := stem.NewClient(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return c, stem.NewWorker(c, stem.WorkerOptions{ID: "w1", Concurrency: 2})
}

// work runs a worker with these handlers until use returns.
func work(t *testing.T, x *otel.Exporter, use func(c *stem.Client), rs ...stem.Registration) {
	t.Helper()
	o := stem.ClientOptions{}
	if x.Meter() != nil {
		o.Meter = x.Meter()
	}
	if x.Tracer() != nil {
		o.Tracer = x.Tracer()
	}
	c, w := client(t, o)
	if err := w.Handle(rs...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	use(c)
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestOneTraceFromEnqueueToExecution(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{Service: "mailer", TracesURL: r.URL, Headers: map[string]string{"Authorization": "Bearer x"}})
	child := stem.NewTask[int, int]("child")
	parent := stem.NewTask[int, int]("parent", stem.MaxRetries(0))
	inner := x.TracerProvider().Tracer("test")
	const remote = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	work(t, x, func(c *stem.Client) {
		h, err := parent.Enqueue(t.Context(), c, 1, stem.Header("traceparent", remote), stem.Header("tracestate", "v=1"), stem.Link(child.Linked()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for { // the child by the handler, and the one that is linked
			l, err := c.List(t.Context(), store.Query{Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			ended := 0
			for i := range l.Statuses {
				if l.Statuses[i].State == stem.Succeeded {
					ended++
				}
			}
			if ended == 3 {
				return
			}
			select {
			case <-t.Context().Done():
				t.Fatal("the children did not end")
			case <-time.After(time.Millisecond):
			}
		}
	}, parent.With(func(ctx context.Context, n int) (int, error) {
		_, s := inner.Start(ctx, "inner")
		s.End()
		_, err := stem.Current(ctx).Enqueue(ctx, child.Item(n))
		return n, err
	}), child.With(func(_ context.Context, n int) (int, error) { return n, nil }))
	closed(t, x)

	if r.auth != "Bearer x" || !r.names["mailer"] {
		t.Errorf("authorization %q, services %v", r.auth, r.names)
	}
	byID := map[string]*traces.Span{}
	for _, s := range r.spans {
		byID[string(s.SpanId)] = s
		if string(s.TraceId) != string(r.spans[0].TraceId) || s.TraceState != "v=1" {
			t.Errorf("%s is of trace %x, state %q", s.Name, s.TraceId, s.TraceState)
		}
	}
	count := map[string]int{"stem.enqueue": 2, "stem.consume": 3, "stem.execute": 3, "inner": 1}
	for name, n := range count {
		if got := len(r.named(name)); got != n {
			t.Errorf("%d spans %s, want %d", got, name, n)
		}
	}
	parents := map[string][]string{"stem.execute": {"stem.consume"}, "inner": {"stem.execute"}, "stem.consume": {"stem.enqueue", "stem.execute"}}
	for name, want := range parents {
		for _, s := range r.named(name) {
			p := byID[string(s.ParentSpanId)]
			if p == nil || p.Name != want[0] && p.Name != want[len(want)-1] {
				t.Errorf("%s has the parent %v, want one of %v", name, p.GetName(), want)
			}
		}
	}
	for _, s := range r.named("stem.consume") {
		if s.Kind != traces.Span_SPAN_KIND_CONSUMER || len(s.Links) != 1 || string(s.Links[0].SpanId) != string(s.ParentSpanId) {
			t.Errorf("consume: kind %v, links %v", s.Kind, s.Links)
		}
		for key, want := range map[string]string{
			"messaging.system": "stem", "messaging.destination.name": "default", "stem.queue": "default",
			"messaging.client.id": "w1", "stem.outcome": "succeeded",
		} {
			if got := text(s.Attributes, key); got != want {
				t.Errorf("consume: %s is %q, want %q", key, got, want)
			}
		}
		if text(s.Attributes, "messaging.message.id") == "" || text(s.Attributes, "stem.task") == "" {
			t.Error("consume: no id, or no task")
		}
	}
	for _, s := range r.named("stem.enqueue") {
		if s.Kind != traces.Span_SPAN_KIND_PRODUCER {
			t.Errorf("enqueue is a %v", s.Kind)
		}
	}
}

func TestAFailureIsOnItsSpans(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{TracesURL: r.URL})
	bad := stem.NewTask[int, int]("bad", stem.MaxRetries(0))
	work(t, x, func(c *stem.Client) {
		h, err := bad.Enqueue(t.Context(), c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); err == nil {
			t.Error("it did not fail")
		}
		if _, err := bad.Enqueue(t.Context(), c, 1, stem.ID(h.ID)); !errors.Is(err, stem.ErrTaskExists) {
			t.Error(err)
		}
	}, bad.With(func(context.Context, int) (int, error) { return 0, errors.New("oh no") }))
	closed(t, x)
	for _, name := range []string{"stem.consume", "stem.execute"} {
		s := r.named(name)
		if len(s) != 1 || s[0].Status.Code != traces.Status_STATUS_CODE_ERROR || s[0].Status.Message != "oh no" ||
			text(s[0].Attributes, "error.type") != "error" || text(s[0].Attributes, "stem.reason") != "retries-exhausted" {
			t.Errorf("%s: %v", name, s)
		}
	}
	failed := 0
	for _, s := range r.named("stem.enqueue") {
		if text(s.Attributes, "error.type") == "task-exists" {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d enqueues failed, want 1", failed)
	}
}

func TestSampling(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{TracesURL: r.URL, Sampler: "parentbased_traceidratio", SamplerArg: "0"})
	echo := stem.NewTask[int, string]("echo")
	const on, off = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-11111111111111111111111111111111-00f067aa0ba902b7-00"
	work(t, x, func(c *stem.Client) {
		for _, parent := range []string{"", off, on} {
			var opts []stem.Option
			if parent != "" {
				opts = append(opts, stem.Header("traceparent", parent))
			}
			h, err := echo.Enqueue(t.Context(), c, 1, opts...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := h.Wait(t.Context())
			at := measure.TraceContext{Parent: got}
			if err != nil || !at.Valid() || at.Sampled() != (parent == on) {
				t.Errorf("enqueued in %q, executed in %q, %v", parent, got, err)
			}
			if want := (measure.TraceContext{Parent: parent}).TraceID(); want != "" && at.TraceID() != want {
				t.Errorf("executed in the trace %s, want %s", at.TraceID(), want)
			}
		}
	}, echo.With(func(ctx context.Context, _ int) (string, error) {
		c := trace.SpanContextFromContext(ctx)
		return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String(), nil
	}))
	closed(t, x)
	if len(r.spans) != 3 {
		t.Errorf("%d spans, want those of the one trace that is recorded", len(r.spans))
	}
}

func TestMetrics(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{MetricsURL: r.URL + "/", TracesURL: r.URL})
	err := x.Meter().Watch(observe.NewStore(func(context.Context) ([]broker.QueueInfo, error) {
		return []broker.QueueInfo{{Name: "default", Ready: 7, Dead: 2, Oldest: time.Second}}, nil
	}, func(context.Context) ([]store.Heartbeat, error) {
		return []store.Heartbeat{{Worker: "w1", At: time.Now().Add(-time.Minute)}}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	echo := stem.NewTask[int, int]("echo")
	work(t, x, func(c *stem.Client) {
		h, err := echo.Enqueue(t.Context(), c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}, echo.With(func(_ context.Context, n int) (int, error) { return n, nil }))
	for _, m := range measure.All() { // each under its own name
		values := make([]string, len(m.Labels))
		switch m.Kind {
		case measure.KindCounter:
			x.Meter().Counter(m, values...).Add(0)
		case measure.KindGauge:
			x.Meter().Gauge(m, values...).Set(0)
		case measure.KindHistogram:
			x.Meter().Histogram(m, values...).Observe(0)
		}
	}
	closed(t, x)

	for _, m := range measure.All() {
		if r.metrics[m.Name].GetDescription() != m.Help {
			t.Errorf("%s did not arrive", m.Name)
		}
	}
	sum := 0.0
	for _, p := range r.metrics["stem.tasks.succeeded"].GetSum().GetDataPoints() {
		if text(p.Attributes, "task") == "echo" && text(p.Attributes, "queue") == "default" {
			sum += p.GetAsDouble()
		}
	}
	if sum != 1 || !r.metrics["stem.tasks.succeeded"].GetSum().IsMonotonic {
		t.Errorf("succeeded %v", r.metrics["stem.tasks.succeeded"])
	}
	depth := r.metrics["stem.queue.depth"].GetGauge().GetDataPoints()
	if len(depth) != 1 || depth[0].GetAsDouble() != 7 || text(depth[0].Attributes, "queue") != "default" {
		t.Errorf("depth %v", depth)
	}
	if age := r.metrics["stem.worker.heartbeat_age"].GetGauge().GetDataPoints(); len(age) != 1 || age[0].GetAsDouble() < 59 {
		t.Errorf("age %v", age)
	}
	examples := 0
	for _, p := range r.metrics["stem.task.duration"].GetHistogram().GetDataPoints() {
		for _, e := range p.Exemplars {
			if len(e.TraceId) == 16 {
				examples++
			}
		}
	}
	if examples == 0 {
		t.Error("no exemplar")
	}
}

func TestTheConsoleWritesToTheLog(t *testing.T) {
	log, text := newLog()
	x := open(t, otel.Options{ConsoleMetrics: true, ConsoleTraces: true, Logger: log})
	echo := stem.NewTask[int, int]("echo")
	work(t, x, func(c *stem.Client) {
		h, err := echo.Enqueue(t.Context(), c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}, echo.With(func(_ context.Context, n int) (int, error) { return n, nil }))
	closed(t, x)
	for _, want := range []string{`"span":"stem.execute"`, `"stem.task":"echo"`, `"metric":"stem.tasks.succeeded"`, `"labels":{"queue":"default","task":"echo"},"value":1`} {
		if !strings.Contains(text(), want) {
			t.Errorf("no %s in the log", want)
		}
	}
}

func TestAReceiverThatIsAwayIsLoggedOnce(t *testing.T) {
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	defer r.Close()
	log, text := newLog()
	x := open(t, otel.Options{MetricsURL: r.URL, Logger: log, Interval: 5 * time.Millisecond})
	x.Meter().Counter(measure.TasksStarted, "a", "b").Add(1)
	for !strings.Contains(text(), "cannot send measurements") {
		if t.Context().Err() != nil {
			t.Fatal("nothing was logged")
		}
		time.Sleep(time.Millisecond)
	}
	closed(t, x)
	if n := strings.Count(text(), "cannot send"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []otel.Options{
		{MetricsURL: "127.0.0.1:4318"}, {TracesURL: "ftp://x"}, {TracesURL: "http://"},
		{Sampler: "sometimes"}, {Sampler: "parentbased_"}, {Sampler: "traceidratio", SamplerArg: "2"}, {SamplerArg: "x"},
	} {
		if x, err := otel.Open(t.Context(), o); err == nil {
			closed(t, x)
			t.Errorf("%+v was accepted", o)
		}
	}
}
