package measure

import (
	"context"
	"log/slog"
	"time"
)

// The names of the spans that there are. One task has an enqueue span, and for
// each of its deliveries a consume span, from its receipt until its outcome is
// stored, with an execute span inside while its handler runs.
const (
	SpanEnqueue = "stem.enqueue"
	SpanConsume = "stem.consume"
	SpanExecute = "stem.execute"
)

// SpanKind is a span's role, as OpenTelemetry has it.
type SpanKind uint8

// The kinds of spans.
const (
	SpanInternal SpanKind = iota
	SpanProducer
	SpanConsumer
)

// The headers of an envelope in which its trace travels, as W3C Trace Context
// names them.
const (
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
)

// TraceContext is a place in a trace as it travels: the values of the two
// headers. The zero value is none.
type TraceContext struct{ Parent, State string }

// TraceOf reads the trace context of an envelope's headers.
func TraceOf(headers map[string]string) TraceContext {
	parent := headers[HeaderTraceParent]
	if parent == "" {
		return TraceContext{}
	}
	return TraceContext{Parent: parent, State: headers[HeaderTraceState]}
}

// Offsets in a traceparent: VERSION-TRACE-SPAN-FLAGS, in hexadecimal digits.
const (
	traceAt   = 3
	spanAt    = 36
	flagsAt   = 53
	parentLen = 55
)

// IDs reads the ids of the trace and of the span, and whether the trace is being
// recorded. ok is false when the context is none, or malformed.
func (t TraceContext) IDs() (trace [16]byte, span [8]byte, sampled, ok bool) {
	p := t.Parent
	if len(p) < parentLen || p[2] != '-' || p[spanAt-1] != '-' || p[flagsAt-1] != '-' {
		return trace, span, false, false
	}
	if len(p) > parentLen && (p[:2] == "00" || p[parentLen] != '-') || p[:2] == "ff" {
		return trace, span, false, false
	}
	var version, flags [1]byte
	ok = decode(version[:], p) && decode(trace[:], p[traceAt:]) && decode(span[:], p[spanAt:]) && decode(flags[:], p[flagsAt:]) &&
		trace != [16]byte{} && span != [8]byte{}
	return trace, span, flags[0]&1 == 1, ok
}

// decode fills out from lower-case hexadecimal digits.
func decode(out []byte, digits string) bool {
	for i := range out {
		high, low := hexValue(digits[2*i]), hexValue(digits[2*i+1])
		if high|low > 0xf {
			return false
		}
		out[i] = high<<4 | low
	}
	return true
}

// hexValue is more than 15 for what is no lower-case digit.
func hexValue(c byte) byte {
	switch {
	case c-'0' < 10:
		return c - '0'
	case c-'a' < 6:
		return c - 'a' + 10
	default:
		return 0xff
	}
}

// Valid reports whether it has the form of a traceparent.
func (t TraceContext) Valid() bool {
	_, _, _, ok := t.IDs()
	return ok
}

// TraceID is the id of the trace, 32 hexadecimal digits; "" when the context is
// none, or malformed.
func (t TraceContext) TraceID() string {
	if !t.Valid() {
		return ""
	}
	return t.Parent[traceAt : spanAt-1]
}

// SpanID is the id of the span, 16 hexadecimal digits; "" as TraceID's.
func (t TraceContext) SpanID() string {
	if !t.Valid() {
		return ""
	}
	return t.Parent[spanAt : flagsAt-1]
}

// Sampled reports whether the trace is being recorded.
func (t TraceContext) Sampled() bool {
	_, _, sampled, ok := t.IDs()
	return ok && sampled
}

// SpanStart is what is known of a span when it begins.
type SpanStart struct {
	Name string
	Kind SpanKind
	// Remote is where the trace goes on that another process, or an earlier
	// moment, began. It is the span's parent unless ctx has a span already.
	Remote TraceContext
	Link   bool      // also link to Remote, as a consumer does to its producer
	At     time.Time // when it began; zero: now
}

// Tracer makes spans. It is safe for concurrent use. What the core does not
// trace costs it one comparison: there is no Tracer then.
type Tracer interface {
	// Start begins a span and returns a context that has it.
	Start(ctx context.Context, s SpanStart) (context.Context, Span)
}

// Span is a stretch of time in a trace. It is used by one goroutine at a time,
// and ended once.
type Span interface {
	// Recording reports whether anybody will see the span: attributes of one
	// that nobody sees need not be made.
	Recording() bool
	// Context is the span's place as it travels. It is valid also when the span
	// is not recorded, so that who takes it up does not record either.
	Context() TraceContext
	// Set adds attributes. Keys are OpenTelemetry's; strings, integers, floats,
	// booleans and durations are kept as such. The slice stays the caller's.
	Set(attrs ...slog.Attr)
	// Fail marks the span as failed: the error's type, and its message.
	Fail(kind, message string)
	// End ends it at that moment, zero for now, with more attributes: what is said
	// here costs less than what is Set.
	End(at time.Time, attrs ...slog.Attr)
}
