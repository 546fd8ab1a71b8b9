package otel

import (
	"log/slog"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// What follows writes spans as the protobuf messages of OTLP, straight into the
// bytes that are sent. The official way there, by a tree of messages, takes
// several times as long and leaves five kilobytes of garbage a span, which a
// worker of quick tasks feels. The field numbers are those of
// opentelemetry/proto/trace/v1 and common/v1.

// appendResource appends the resource of all spans to ResourceSpans.
func appendResource(b []byte, r *resource.Resource) []byte {
	b, start := begin(b, 1)
	return end(appendAttributes(b, 1, r.Attributes()), start)
}

// appendScope appends to ScopeSpans what its spans are of.
func appendScope(b []byte, s *instrumentation.Scope) []byte {
	if *s == (instrumentation.Scope{}) {
		return b
	}
	b, start := begin(b, 1)
	b = appendString(b, 1, s.Name)
	b = appendString(b, 2, s.Version)
	return end(appendAttributes(b, 3, s.Attributes.ToSlice()), start)
}

// appendSpan appends a span to ScopeSpans, with more attributes than it has.
func appendSpan(b []byte, s ended, more []slog.Attr) []byte {
	b, start := begin(b, 2)
	at, parent := s.SpanContext(), s.Parent()
	b = appendIDs(b, at)
	b = appendString(b, 3, at.TraceState().String())
	if id := parent.SpanID(); id.IsValid() {
		b = appendBytes(b, 4, id[:])
	}
	b = appendString(b, 5, s.Name())
	b = appendVarint(b, 6, uint64(s.SpanKind())) // which has OTLP's numbers
	b = appendTime(b, 7, s.StartTime())
	b = appendTime(b, 8, s.EndTime())
	b = appendAttributes(b, 9, s.Attributes())
	for i := range more {
		b = appendAttr(b, 9, &more[i])
	}
	b = appendCount(b, 10, s.DroppedAttributes())
	for _, e := range s.Events() {
		b = appendEvent(b, &e)
	}
	b = appendCount(b, 12, s.DroppedEvents())
	for _, l := range s.Links() {
		b = appendLink(b, &l)
	}
	b = appendCount(b, 14, s.DroppedLinks())
	b = appendStatus(b, s.Status())
	return end(appendFlags(b, 16, at.TraceFlags(), parent.IsRemote()), start)
}

func appendEvent(b []byte, e *sdktrace.Event) []byte {
	b, start := begin(b, 11)
	b = appendTime(b, 1, e.Time)
	b = appendString(b, 2, e.Name)
	b = appendAttributes(b, 3, e.Attributes)
	return end(appendCount(b, 4, e.DroppedAttributeCount), start)
}

func appendLink(b []byte, l *sdktrace.Link) []byte {
	b, start := begin(b, 13)
	b = appendIDs(b, l.SpanContext)
	b = appendString(b, 3, l.SpanContext.TraceState().String())
	b = appendAttributes(b, 4, l.Attributes)
	b = appendCount(b, 5, l.DroppedAttributeCount)
	return end(appendFlags(b, 6, l.SpanContext.TraceFlags(), l.SpanContext.IsRemote()), start)
}

func appendStatus(b []byte, s sdktrace.Status) []byte {
	b, start := begin(b, 15)
	b = appendString(b, 2, s.Description)
	switch s.Code { // the numbers are not OTLP's
	case codes.Ok:
		b = appendVarint(b, 3, 1)
	case codes.Error:
		b = appendVarint(b, 3, 2)
	}
	return end(b, start)
}

func appendIDs(b []byte, at trace.SpanContext) []byte {
	traceID, spanID := at.TraceID(), at.SpanID()
	return appendBytes(appendBytes(b, 1, traceID[:]), 2, spanID[:])
}

// appendFlags appends the flags of a trace, and whether what they came with is
// remote: bit 9, which bit 8 says is known.
func appendFlags(b []byte, field protowire.Number, f trace.TraceFlags, remote bool) []byte {
	flags := uint32(f) | 1<<8
	if remote {
		flags |= 1 << 9
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, field, protowire.Fixed32Type), flags)
}

func appendAttributes(b []byte, field protowire.Number, attrs []attribute.KeyValue) []byte {
	for i := range attrs {
		b = appendAttribute(b, field, &attrs[i])
	}
	return b
}

func appendAttribute(b []byte, field protowire.Number, a *attribute.KeyValue) []byte {
	b, start := begin(b, field)
	b = appendString(b, 1, string(a.Key))
	return end(appendValue(b, 2, &a.Value), start)
}

// appendAttr appends an attribute of Stem's own. Most are short texts: those are
// written in one go.
func appendAttr(b []byte, field protowire.Number, a *slog.Attr) []byte {
	if a.Value.Kind() != slog.KindString {
		v := keyValue(*a)
		return appendAttribute(b, field, &v)
	}
	key, text := a.Key, valid(a.Value.String())
	value := len(text) + 2
	all := len(key) + 2 + value + 2
	if all >= 1<<7 || field >= 1<<4 || text == "" {
		v := attribute.String(key, text)
		return appendAttribute(b, field, &v)
	}
	tag := func(n protowire.Number) byte { return byte(protowire.EncodeTag(n, protowire.BytesType)) }
	b = append(b, tag(field), byte(all), tag(1), byte(len(key)))
	b = append(b, key...)
	b = append(b, tag(2), byte(value), tag(1), byte(len(text)))
	return append(b, text...)
}

// appendValue appends an AnyValue.
func appendValue(b []byte, field protowire.Number, v *attribute.Value) []byte {
	b, start := begin(b, field)
	switch v.Type() {
	case attribute.STRING:
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), valid(v.AsString()))
	case attribute.BOOL:
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), protowire.EncodeBool(v.AsBool()))
	case attribute.INT64:
		b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(v.AsInt64()))
	case attribute.FLOAT64:
		b = protowire.AppendFixed64(protowire.AppendTag(b, 4, protowire.Fixed64Type), math.Float64bits(v.AsFloat64()))
	case attribute.BYTESLICE:
		b = protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), v.AsByteSlice())
	case attribute.MAP:
		var all int
		b, all = begin(b, 6)
		b = end(appendAttributes(b, 1, v.AsMap()), all)
	case attribute.EMPTY:
	default:
		var all int
		b, all = begin(b, 5)
		b = end(appendElements(b, v), all)
	}
	return end(b, start)
}

// appendElements appends the elements of an array of any type.
func appendElements(b []byte, v *attribute.Value) []byte {
	add := func(e attribute.Value) { b = appendValue(b, 1, &e) }
	switch v.Type() {
	case attribute.STRINGSLICE:
		for _, e := range v.AsStringSlice() {
			add(attribute.StringValue(e))
		}
	case attribute.BOOLSLICE:
		for _, e := range v.AsBoolSlice() {
			add(attribute.BoolValue(e))
		}
	case attribute.INT64SLICE:
		for _, e := range v.AsInt64Slice() {
			add(attribute.Int64Value(e))
		}
	case attribute.FLOAT64SLICE:
		for _, e := range v.AsFloat64Slice() {
			add(attribute.Float64Value(e))
		}
	case attribute.SLICE:
		for _, e := range v.AsSlice() {
			add(e)
		}
	}
	return b
}

// appendString, appendBytes, appendVarint and appendCount leave out what is
// zero, as protobuf does.
func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), valid(s))
}

// valid is s as UTF-8: a receiver refuses all that is sent for one byte that is not.
func valid(s string) string {
	if utf8.ValidString(s) { // which is several times as fast to find
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendCount(b []byte, field protowire.Number, n int) []byte {
	return appendVarint(b, field, uint64(min(max(n, 0), math.MaxUint32)))
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(max(0, t.UnixNano())))
}

// begin opens a message inside another; end closes the one that begins at start.
func begin(b []byte, field protowire.Number) (_ []byte, start int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0) // room for a short length
	return b, len(b)
}

func end(b []byte, start int) []byte {
	n := len(b) - start
	if n < 1<<7 {
		b[start-1] = byte(n)
		return b
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	for range more {
		b = append(b, 0)
	}
	copy(b[start+more:], b[start:start+n])
	protowire.AppendVarint(b[:start-1], uint64(n))
	return b
}
