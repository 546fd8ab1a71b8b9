package otel

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"

	"github.com/stemjobs/stem/measure"
)

// ended is a span that has ended: one of the SDK's, or a record.
type ended interface {
	Name() string
	SpanContext() trace.SpanContext
	Parent() trace.SpanContext
	SpanKind() trace.SpanKind
	StartTime() time.Time
	EndTime() time.Time
	Attributes() []attribute.KeyValue
	DroppedAttributes() int
	Events() []sdktrace.Event
	DroppedEvents() int
	Links() []sdktrace.Link
	DroppedLinks() int
	Status() sdktrace.Status
	InstrumentationScope() instrumentation.Scope
}

// taker takes spans that have ended, with attributes that they do not have yet. It
// keeps nothing of either.
type taker interface {
	take(s ended, more []slog.Attr)
}

// recorder makes Stem's own spans for an Exporter. They are told all that there is
// to know of them at once, as they end, so they need little of what the SDK's spans
// can do, and take a fifth of their memory. A span that a handler adds to becomes
// one of the SDK's, which can do it all.
type recorder struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer // of provider
	sampler  sdktrace.Sampler
	follow   bool    // it records what the parent does
	takers   []taker // of spans that have ended
}

// start begins a span after that one, if it is valid. It returns nil for a span
// that nobody will see, with its place.
func (r *recorder) start(s *measure.SpanStart, parent trace.SpanContext) (*live, trace.SpanContext) {
	config := trace.SpanContextConfig{TraceID: parent.TraceID(), SpanID: newSpanID(), TraceState: parent.TraceState()}
	sampled := parent.IsSampled()
	if !parent.IsValid() {
		config.TraceID = newTraceID()
	}
	if !r.follow || !parent.IsValid() {
		verdict := r.sampler.ShouldSample(sdktrace.SamplingParameters{
			ParentContext: trace.ContextWithSpanContext(context.Background(), parent),
			TraceID:       config.TraceID, Name: s.Name, Kind: kind(s.Kind),
		})
		sampled, config.TraceState = verdict.Decision == sdktrace.RecordAndSample, verdict.Tracestate
	}
	config.TraceFlags = parent.TraceFlags().WithSampled(sampled)
	at := trace.NewSpanContext(config)
	if !sampled {
		return nil, at
	}
	l := &live{record: record{recorder: r, name: s.Name, kind: kind(s.Kind), at: at, parent: parent, began: s.At}}
	if s.At.IsZero() {
		l.record.began = time.Now()
	}
	if s.Link && parent.IsRemote() {
		l.record.linked, l.record.link[0].SpanContext = true, parent
	}
	return l, at
}

func newSpanID() (id trace.SpanID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

func newTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

// live is a span that has not ended, as a handler's context has it.
type live struct {
	embedded.Span

	mu     sync.Mutex
	record record
	sdk    trace.Span // in place of record, once a handler has added to the span
	over   bool
}

var _ trace.Span = (*live)(nil)

// wantedID is the key of the id that the SDK's next span is to have.
type wantedID struct{}

// ids makes the ids of the SDK's spans.
type ids struct{}

func (ids) NewIDs(context.Context) (trace.TraceID, trace.SpanID) { return newTraceID(), newSpanID() }

func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if id, ok := ctx.Value(wantedID{}).(trace.SpanID); ok {
		return id
	}
	return newSpanID()
}

// change adds to the span, as one of the SDK's.
func (l *live) change(do func(s trace.Span)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	if l.sdk == nil {
		x := &l.record
		ctx := context.WithValue(context.Background(), wantedID{}, x.at.SpanID())
		o := []trace.SpanStartOption{trace.WithSpanKind(x.kind), trace.WithTimestamp(x.began)}
		if x.linked {
			o = append(o, trace.WithLinks(trace.Link{SpanContext: x.link[0].SpanContext}))
		}
		_, l.sdk = x.recorder.tracer.Start(trace.ContextWithSpanContext(ctx, x.parent), x.name, o...)
	}
	do(l.sdk)
}

func (l *live) SpanContext() trace.SpanContext       { return l.record.at }
func (l *live) TracerProvider() trace.TracerProvider { return l.record.recorder.provider }

func (l *live) IsRecording() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.over
}

func (l *live) AddEvent(name string, o ...trace.EventOption) {
	l.change(func(s trace.Span) { s.AddEvent(name, o...) })
}

func (l *live) AddLink(link trace.Link) { l.change(func(s trace.Span) { s.AddLink(link) }) }

func (l *live) RecordError(err error, o ...trace.EventOption) {
	l.change(func(s trace.Span) { s.RecordError(err, o...) })
}

func (l *live) SetStatus(code codes.Code, description string) {
	l.change(func(s trace.Span) { s.SetStatus(code, description) })
}

func (l *live) SetName(name string) { l.change(func(s trace.Span) { s.SetName(name) }) }

func (l *live) SetAttributes(attrs ...attribute.KeyValue) {
	l.change(func(s trace.Span) { s.SetAttributes(attrs...) })
}

// End does nothing: the span is Stem's, and ends with the handler.
func (l *live) End(...trace.SpanEndOption) {}

// own is a live span as Stem has it.
type own live

func (o *own) Recording() bool               { return true }
func (o *own) Context() measure.TraceContext { return format(o.record.at) }

func (o *own) Set(attrs ...slog.Attr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.record.attrs = append(o.record.attrs, keyValues(attrs)...)
}

func (o *own) Fail(kind, message string) {
	o.Set(slog.String("error.type", kind))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.record.status = sdktrace.Status{Code: codes.Error, Description: message}
}

func (o *own) End(at time.Time, attrs ...slog.Attr) {
	if at.IsZero() {
		at = time.Now()
	}
	o.mu.Lock()
	x, sdk := &o.record, o.sdk
	o.over, x.over = true, at
	o.mu.Unlock()
	if sdk != nil {
		sdk.SetAttributes(append(x.Attributes(), keyValues(attrs)...)...)
		if x.status.Code != codes.Unset {
			sdk.SetStatus(x.status.Code, x.status.Description)
		}
		sdk.End(trace.WithTimestamp(at))
	} else {
		for _, t := range x.recorder.takers {
			t.take(x, attrs)
		}
	}
}

// record is what is known of a span, for those who take it once it has ended.
type record struct {
	recorder    *recorder
	name        string
	kind        trace.SpanKind
	at, parent  trace.SpanContext
	link        [1]sdktrace.Link
	linked      bool // by link
	began, over time.Time
	attrs       []attribute.KeyValue
	status      sdktrace.Status
}

var _ ended = (*record)(nil)

func (x *record) Name() string                     { return x.name }
func (x *record) SpanContext() trace.SpanContext   { return x.at }
func (x *record) Parent() trace.SpanContext        { return x.parent }
func (x *record) SpanKind() trace.SpanKind         { return x.kind }
func (x *record) StartTime() time.Time             { return x.began }
func (x *record) EndTime() time.Time               { return x.over }
func (x *record) Status() sdktrace.Status          { return x.status }
func (x *record) Attributes() []attribute.KeyValue { return x.attrs }
func (x *record) Events() []sdktrace.Event         { return nil }
func (x *record) DroppedAttributes() int           { return 0 }
func (x *record) DroppedLinks() int                { return 0 }
func (x *record) DroppedEvents() int               { return 0 }

func (x *record) InstrumentationScope() instrumentation.Scope {
	return instrumentation.Scope{Name: scope}
}

func (x *record) Links() []sdktrace.Link {
	if !x.linked {
		return nil
	}
	return x.link[:]
}
