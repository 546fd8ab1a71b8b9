package otel

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/stemjobs/stem/measure"
)

// scope names what makes Stem's spans and metrics.
const scope = "github.com/stemjobs/stem"

// Tracer is a measure.Tracer on a provider of OpenTelemetry.
type Tracer struct {
	tracer trace.Tracer
	follow bool // whether a trace is recorded is its beginning's choice
}

var _ measure.Tracer = (*Tracer)(nil)

// NewTracer makes a Tracer. The provider stays the caller's to shut down.
func NewTracer(p trace.TracerProvider) *Tracer { return &Tracer{tracer: p.Tracer(scope)} }

// Start implements measure.Tracer. Where sampling follows the parent's choice,
// a trace that is not recorded costs next to nothing: it is handed on.
func (t *Tracer) Start(ctx context.Context, s measure.SpanStart) (context.Context, measure.Span) {
	remote := parse(s.Remote)
	if remote.IsValid() {
		if t.follow && !remote.IsSampled() {
			return trace.ContextWithRemoteSpanContext(ctx, remote), passing{s.Remote}
		}
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
	} else if at := trace.SpanContextFromContext(ctx); t.follow && at.IsValid() && !at.IsSampled() {
		return ctx, passing{format(at)}
	}
	options := make([]trace.SpanStartOption, 0, 3)
	options = append(options, trace.WithSpanKind(kind(s.Kind)))
	if !s.At.IsZero() {
		options = append(options, trace.WithTimestamp(s.At))
	}
	if s.Link && remote.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: remote}))
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
	if !t.Valid() {
		return trace.SpanContext{}
	}
	id, err := trace.TraceIDFromHex(t.TraceID())
	if err != nil {
		return trace.SpanContext{}
	}
	parent, err := trace.SpanIDFromHex(t.SpanID())
	if err != nil {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{TraceID: id, SpanID: parent, Remote: true}
	if t.Sampled() {
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
	flags := "-00"
	if c.IsSampled() {
		flags = "-01"
	}
	return measure.TraceContext{
		Parent: "00-" + c.TraceID().String() + "-" + c.SpanID().String() + flags,
		State:  c.TraceState().String(),
	}
}

// passing is the span of a trace that is not recorded.
type passing struct{ at measure.TraceContext }

func (passing) Recording() bool                 { return false }
func (p passing) Context() measure.TraceContext { return p.at }
func (passing) Set(...slog.Attr)                {}
func (passing) Fail(string, string)             {}
func (passing) End(time.Time)                   {}

// span is one of OpenTelemetry's.
type span struct{ trace.Span }

func (s span) Recording() bool               { return s.IsRecording() }
func (s span) Context() measure.TraceContext { return format(s.SpanContext()) }

func (s span) Set(attrs ...slog.Attr) {
	out := make([]attribute.KeyValue, len(attrs))
	for i, a := range attrs {
		out[i] = keyValue(a)
	}
	s.SetAttributes(out...)
}

func (s span) Fail(kind, message string) {
	s.SetAttributes(attribute.String("error.type", kind))
	s.SetStatus(codes.Error, message)
}

func (s span) End(at time.Time) {
	if at.IsZero() {
		s.Span.End()
		return
	}
	s.Span.End(trace.WithTimestamp(at))
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
