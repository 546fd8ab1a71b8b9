package otel

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/stemjobs/stem/measure"
)

// scope names what makes Stem's spans and metrics.
const scope = "github.com/stemjobs/stem"

// Tracer is a measure.Tracer on a provider of OpenTelemetry.
type Tracer struct {
	tracer trace.Tracer
	follow bool // whether a trace is recorded is its beginning's choice
	kinds  [measure.SpanConsumer + 1]trace.SpanStartOption

	recorder *recorder // makes the spans; nil: tracer does
}

var _ measure.Tracer = (*Tracer)(nil)

// NewTracer makes a Tracer. The provider stays the caller's to shut down.
func NewTracer(p trace.TracerProvider) *Tracer {
	t := &Tracer{tracer: p.Tracer(scope)}
	for k := range t.kinds {
		t.kinds[k] = trace.WithSpanKind(kind(measure.SpanKind(k)))
	}
	return t
}

// Start implements measure.Tracer. Where sampling follows the parent's choice,
// a trace that is not recorded costs next to nothing: it is handed on.
func (t *Tracer) Start(ctx context.Context, s measure.SpanStart) (context.Context, measure.Span) {
	remote := parse(s.Remote)
	parent := remote
	if !parent.IsValid() {
		parent = trace.SpanContextFromContext(ctx)
	}
	if t.follow && parent.IsValid() && !parent.IsSampled() {
		return unseen(ctx, parent)
	}
	if t.recorder != nil {
		made, at := t.recorder.start(&s, parent)
		if made == nil {
			return unseen(ctx, at)
		}
		return trace.ContextWithSpan(ctx, made), (*own)(made)
	}
	options := make([]trace.SpanStartOption, 0, 3)
	options = append(options, t.kinds[s.Kind])
	if !s.At.IsZero() {
		options = append(options, trace.WithTimestamp(s.At))
	}
	if remote.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, remote)
		if s.Link {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: remote}))
		}
	}
	ctx, made := t.tracer.Start(ctx, s.Name, options...)
	return ctx, span{made}
}

func kind(k measure.SpanKind) trace.SpanKind {
	switch k {
	case measure.SpanProducer:
		return trace.SpanKindProducer
	case measure.SpanConsumer:
		return trace.SpanKindConsumer
	default:
		return trace.SpanKindInternal
	}
}

// parse reads the headers; what is malformed is as good as none.
func parse(t measure.TraceContext) trace.SpanContext {
	traceID, spanID, sampled, ok := t.IDs()
	if !ok {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, Remote: true}
	if sampled {
		config.TraceFlags = trace.FlagsSampled
	}
	if t.State != "" {
		if state, err := trace.ParseTraceState(t.State); err == nil {
			config.TraceState = state
		}
	}
	return trace.NewSpanContext(config)
}

func format(c trace.SpanContext) measure.TraceContext {
	if !c.IsValid() {
		return measure.TraceContext{}
	}
	traceID, spanID := c.TraceID(), c.SpanID()
	parent := make([]byte, 0, 64)
	parent = append(parent, "00-"...)
	parent = hex.AppendEncode(parent, traceID[:])
	parent = append(parent, '-')
	parent = hex.AppendEncode(parent, spanID[:])
	if c.IsSampled() {
		parent = append(parent, "-01"...)
	} else {
		parent = append(parent, "-00"...)
	}
	return measure.TraceContext{Parent: string(parent), State: c.TraceState().String()}
}

// passed is the span of a trace that is not recorded, as a handler's context has
// it: its place alone, for the spans that follow.
type passed struct {
	trace.Span // which does nothing
	at         trace.SpanContext
}

func (p *passed) SpanContext() trace.SpanContext { return p.at }

func unseen(ctx context.Context, at trace.SpanContext) (context.Context, measure.Span) {
	p := &passed{noop.Span{}, at}
	return trace.ContextWithSpan(ctx, p), (*passing)(p)
}

// passing is a passed span as Stem has it.
type passing passed

func (*passing) Recording() bool                 { return false }
func (p *passing) Context() measure.TraceContext { return format(p.at) }
func (*passing) Set(...slog.Attr)                {}
func (*passing) Fail(string, string)             {}
func (*passing) End(time.Time, ...slog.Attr)     {}

// span is one of OpenTelemetry's.
type span struct{ trace.Span }

func (s span) Recording() bool               { return s.IsRecording() }
func (s span) Context() measure.TraceContext { return format(s.SpanContext()) }

func (s span) Set(attrs ...slog.Attr) { s.SetAttributes(keyValues(attrs)...) }

func (s span) Fail(kind, message string) {
	s.SetAttributes(attribute.String("error.type", kind))
	s.SetStatus(codes.Error, message)
}

func (s span) End(at time.Time, attrs ...slog.Attr) {
	if len(attrs) > 0 {
		s.Set(attrs...)
	}
	if at.IsZero() {
		s.Span.End()
		return
	}
	s.Span.End(trace.WithTimestamp(at))
}

func keyValues(attrs []slog.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, len(attrs))
	for i, a := range attrs {
		out[i] = keyValue(a)
	}
	return out
}

func keyValue(a slog.Attr) attribute.KeyValue {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindInt64:
		return attribute.Int64(a.Key, v.Int64())
	case slog.KindUint64:
		return attribute.Float64(a.Key, float64(v.Uint64()))
	case slog.KindFloat64:
		return attribute.Float64(a.Key, v.Float64())
	case slog.KindBool:
		return attribute.Bool(a.Key, v.Bool())
	case slog.KindDuration:
		return attribute.Float64(a.Key, v.Duration().Seconds())
	default:
		return attribute.String(a.Key, v.String())
	}
}
