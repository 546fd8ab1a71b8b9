package otel_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/observe/otel"
)

// official keeps what the official exporter would send.
type official struct{ spans []*traces.ResourceSpans }

func (*official) Start(context.Context) error { return nil }
func (*official) Stop(context.Context) error  { return nil }

func (o *official) UploadTraces(_ context.Context, s []*traces.ResourceSpans) error {
	o.spans = append(o.spans, s...)
	return nil
}

// flat are spans by their name, with the scope and the resource of each.
func flat(all []*traces.ResourceSpans) map[string]*traces.ResourceSpans {
	out := map[string]*traces.ResourceSpans{}
	for _, r := range all {
		for _, s := range r.ScopeSpans {
			for _, one := range s.Spans {
				out[one.Name] = &traces.ResourceSpans{Resource: r.Resource, SchemaUrl: r.SchemaUrl, ScopeSpans: []*traces.ScopeSpans{
					{Scope: s.Scope, SchemaUrl: s.SchemaUrl, Spans: []*traces.Span{one}},
				}}
			}
		}
	}
	return out
}

func TestSpansAreSentAsTheOfficialExporterSendsThem(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{Service: "s", Version: "1", TracesURL: r.URL, Attributes: map[string]string{"a": "b", "none": ""}})
	o := &official{}
	exporter, err := otlptrace.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	provider := x.TracerProvider().(*sdktrace.TracerProvider)
	provider.RegisterSpanProcessor(sdktrace.NewSimpleSpanProcessor(exporter))

	state, err := trace.ParseTraceState("a=1,b=2")
	if err != nil {
		t.Fatal(err)
	}
	far := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true,
	})
	attrs := []attribute.KeyValue{
		attribute.String("string", "é"), attribute.String("empty", ""), attribute.String("long", strings.Repeat("x", 20_000)),
		attribute.Bool("true", true), attribute.Bool("false", false), attribute.Int("int", -3), attribute.Int("zero", 0),
		attribute.Float64("float", 1.5), attribute.StringSlice("strings", []string{"a", ""}), attribute.BoolSlice("bools", []bool{true, false}),
		attribute.IntSlice("ints", []int{0, 1, 2, 3, 4}), attribute.Float64Slice("floats", []float64{0, 1}),
		attribute.ByteSlice("bytes", []byte{0, 255}), attribute.Slice("mixed", attribute.IntValue(1), attribute.StringValue("x")),
		attribute.Map("map", attribute.Int("x", 1), attribute.String("y", "z")),
	}
	scopes := []trace.Tracer{
		provider.Tracer("plain"),
		provider.Tracer("full", trace.WithInstrumentationVersion("2"), trace.WithSchemaURL("http://schema"), trace.WithInstrumentationAttributes(attribute.Int("n", 1))),
		provider.Tracer(""),
	}
	kinds := []trace.SpanKind{trace.SpanKindInternal, trace.SpanKindServer, trace.SpanKindClient, trace.SpanKindProducer, trace.SpanKindConsumer}
	for i, kind := range kinds {
		ctx, tracer := t.Context(), scopes[i%len(scopes)]
		if i%2 == 1 {
			ctx = trace.ContextWithSpanContext(ctx, far)
		}
		ctx, s := tracer.Start(ctx, "outer "+kind.String(), trace.WithSpanKind(kind), trace.WithLinks(
			trace.Link{SpanContext: far.WithTraceState(trace.TraceState{}), Attributes: attrs[:2]}))
		s.SetAttributes(attrs[:3*(i+1)]...)
		s.AddEvent("event", trace.WithAttributes(attrs...))
		s.RecordError(errors.New("oh no"))
		s.SetStatus([]codes.Code{codes.Unset, codes.Error, codes.Ok}[i%3], "described")
		_, inner := scopes[0].Start(ctx, "inner "+kind.String())
		inner.End()
		s.End()
	}
	_, many := scopes[0].Start(t.Context(), "many")
	for i := range 200 { // more than the SDK keeps
		many.SetAttributes(attribute.Int(strings.Repeat("k", i+1), i))
		many.AddEvent("e")
		many.AddLink(trace.Link{SpanContext: far.WithTraceState(trace.TraceState{})})
	}
	many.End()
	closed(t, x)

	got, want := flat(r.traces), flat(o.spans)
	if len(want) != 2*len(kinds)+1 {
		t.Fatalf("%d spans to compare with", len(want))
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestABadTextLosesNoSpans(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{TracesURL: r.URL})
	_, s := x.TracerProvider().Tracer("test").Start(t.Context(), "a\xffb")
	s.SetAttributes(attribute.String("k\xff", "v\xff"))
	s.End()
	closed(t, x)
	if got := r.named("a\uFFFDb"); len(got) != 1 || text(got[0].Attributes, "k\uFFFD") != "v\uFFFD" {
		t.Errorf("got %v", r.spans)
	}
}

func TestAHandlerAddsToItsSpan(t *testing.T) {
	r := newReceiver(t)
	x := open(t, otel.Options{TracesURL: r.URL})
	adds, looks := stem.NewTask[int, string]("adds", stem.MaxRetries(0)), stem.NewTask[int, string]("looks")
	place := func(s trace.Span) string { return s.SpanContext().SpanID().String() }
	var late trace.Span
	var ids []string
	work(t, x, func(c *stem.Client) {
		for _, d := range []stem.Task[int, string]{adds, looks} {
			h, err := d.Enqueue(t.Context(), c, 1)
			if err != nil {
				t.Fatal(err)
			}
			id, err := h.Wait(t.Context())
			if (err == nil) != (d == looks) {
				t.Error(err)
			}
			ids = append(ids, id)
		}
	}, adds.With(func(ctx context.Context, _ int) (string, error) {
		s := trace.SpanFromContext(ctx)
		if !s.IsRecording() {
			t.Error("the handler's span is not recorded")
		}
		s.SetAttributes(attribute.String("mine", "yes"))
		s.AddEvent("half way")
		s.RecordError(errors.New("a small one"))
		s.AddLink(trace.Link{SpanContext: s.SpanContext()})
		s.End() // which is not its to do
		_, inner := s.TracerProvider().Tracer("test").Start(ctx, "inner of adds")
		inner.End()
		late = s
		return place(s), errors.New("oh no")
	}), looks.With(func(ctx context.Context, _ int) (string, error) {
		s := trace.SpanFromContext(ctx)
		_, inner := s.TracerProvider().Tracer("test").Start(ctx, "inner of looks")
		inner.End()
		return place(s), nil
	}))
	if late.IsRecording() {
		t.Error("the span is recorded after its end")
	}
	late.SetAttributes(attribute.String("late", "yes"))
	closed(t, x)

	spans := r.named("stem.execute")
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	for _, s := range spans {
		name := text(s.Attributes, "stem.task")
		inner := r.named("inner of " + name)
		if len(inner) != 1 || string(inner[0].ParentSpanId) != string(s.SpanId) || string(inner[0].TraceId) != string(s.TraceId) {
			t.Errorf("%s: its span %x has %v inside", name, s.SpanId, inner)
		}
		consume := r.consumeOf(s)
		if consume == nil || text(consume.Attributes, "stem.task") != name {
			t.Errorf("%s: it is inside of %v", name, consume)
		}
		if name == "looks" {
			continue
		}
		if text(s.Attributes, "mine") != "yes" || text(s.Attributes, "late") != "" || text(s.Attributes, "stem.outcome") != "failed" ||
			len(s.Events) != 2 || len(s.Links) != 1 || s.Status.Message != "oh no" || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("got %v", s)
		}
	}
	if ids[1] == "" {
		t.Error("no id")
	}
}

// consumeOf is the span that this one is inside of.
func (r *receiver) consumeOf(s *traces.Span) *traces.Span {
	for _, p := range r.named("stem.consume") {
		if string(p.SpanId) == string(s.ParentSpanId) {
			return p
		}
	}
	return nil
}

func TestSpansOfAReceiverThatHangs(t *testing.T) {
	hangs, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		once.Do(func() { close(hangs) })
		<-release
	}))
	defer r.Close()
	defer close(release)
	log, logged := newLog()
	x := open(t, otel.Options{TracesURL: r.URL, Logger: log})
	tracer := x.TracerProvider().Tracer("test")
	span := func(size int) {
		_, s := tracer.Start(t.Context(), "large")
		s.SetAttributes(attribute.String("blob", strings.Repeat("x", size)))
		s.End()
	}
	for range 600 { // more than a batch
		span(1)
	}
	<-hangs
	for range 10 {
		span(1 << 20)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Close(ctx); err == nil {
		t.Error("all was sent")
	}
	if n := strings.Count(logged(), "spans were dropped"); n != 1 {
		t.Errorf("logged:\n%s", logged())
	}
}

func TestAProgramsOwnProvider(t *testing.T) {
	got := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(got))
	c, w := client(t, stem.ClientOptions{Tracer: otel.NewTracer(provider)})
	echo := stem.NewTask[int, int]("echo")
	err := w.Handle(echo.With(func(ctx context.Context, n int) (int, error) {
		trace.SpanFromContext(ctx).SetAttributes(attribute.Bool("mine", true))
		return n, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(context.WithoutCancel(t.Context())) }()
	h, err := echo.Enqueue(t.Context(), c, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	w.Shutdown(stem.Warm)
	if err := <-ran; err != nil {
		t.Error(err)
	}
	spans := got.GetSpans()
	slices.SortFunc(spans, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	var names []string
	for i, s := range spans {
		names = append(names, s.Name)
		if i > 0 && s.Parent.SpanID() != spans[i-1].SpanContext.SpanID() {
			t.Errorf("%s is not in %s", s.Name, spans[i-1].Name)
		}
		if !slices.Contains(s.Attributes, attribute.String("stem.task", "echo")) {
			t.Errorf("%s has %v", s.Name, s.Attributes)
		}
	}
	if want := []string{"stem.enqueue", "stem.consume", "stem.execute"}; !slices.Equal(names, want) {
		t.Fatalf("spans %v, want %v", names, want)
	}
	if links := spans[1].Links; len(links) != 1 || links[0].SpanContext.SpanID() != spans[0].SpanContext.SpanID() {
		t.Errorf("links %v", links)
	}
	if !slices.Contains(spans[2].Attributes, attribute.Bool("mine", true)) {
		t.Error("what the handler added is missing")
	}
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
