package task

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// The wire form is specified in docs/wire.md; testdata/wire has vectors.

// wireTime is how moments are written: RFC 3339, UTC, milliseconds.
const wireTime = "2006-01-02T15:04:05.000Z"

// Encode returns the envelope's wire form. It does not validate, and an
// envelope that Validate refuses may come out as something that Decode refuses
// too; an error says that there is no way to write it at all.
func Encode(e *Envelope) ([]byte, error) {
	return AppendEncode(make([]byte, 0, EncodedSize(e)), e)
}

// AppendEncode appends what Encode returns to dst.
//
// The same envelope always gives the same bytes: fields stand in fixed order,
// unknown ones last, and keys are sorted. Args and the values of Meta and
// Unknown are written as they are.
func AppendEncode(dst []byte, e *Envelope) ([]byte, error) {
	w := writer{buf: dst}
	w.buf = append(w.buf, '{')
	w.text("id", e.ID)
	w.text("name", e.Name)
	w.raw("args", e.Args)
	if len(e.Headers) > 0 {
		w.headers(e.Headers)
	}
	w.time("enqueuedAt", e.EnqueuedAt)
	if !e.NotBefore.IsZero() {
		w.time("notBefore", e.NotBefore)
	}
	if !e.ExpiresAt.IsZero() {
		w.time("expiresAt", e.ExpiresAt)
	}
	w.int("priority", int64(e.Priority))
	w.int("attempt", int64(e.Attempt))
	w.int("maxRetries", int64(e.MaxRetries))
	if e.VisibilityTimeout != 0 {
		w.int("visibilityTimeout", milliseconds(e.VisibilityTimeout))
	}
	w.text("queue", e.Queue)
	if len(e.Meta) > 0 {
		w.meta(e.Meta)
	}
	if len(e.Unknown) > 0 {
		w.unknown(e.Unknown)
	}
	w.buf = append(w.buf, '}')
	if w.err != nil {
		return dst, fmt.Errorf("encode envelope %.140q: %w", e.ID, w.err)
	}
	return w.buf, nil
}

// milliseconds rounds up, so that a lease is never shorter than asked for.
func milliseconds(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}

// writer appends fields, and remembers the first error.
type writer struct {
	buf []byte
	err error
}

func (w *writer) fail(format string, args ...any) {
	if w.err == nil {
		w.err = invalid(format, args...)
	}
}

// key begins a field; keys of ours need no escapes.
func (w *writer) key(name string) {
	if w.buf[len(w.buf)-1] != '{' {
		w.buf = append(w.buf, ',')
	}
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, '"', ':')
}

func (w *writer) text(name, s string) {
	w.key(name)
	w.string(name, s)
}

func (w *writer) int(name string, n int64) {
	w.key(name)
	w.buf = strconv.AppendInt(w.buf, n, 10)
}

func (w *writer) time(name string, t time.Time) {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		w.fail("%s: the year %d has no place on the wire", name, y)
		return
	}
	w.key(name)
	w.buf = append(w.buf, '"')
	w.buf = t.AppendFormat(w.buf, wireTime)
	w.buf = append(w.buf, '"')
}

func (w *writer) raw(name string, v json.RawMessage) {
	w.key(name)
	w.value(v)
}

func (w *writer) value(v json.RawMessage) {
	if v == nil {
		w.buf = append(w.buf, "null"...)
		return
	}
	w.buf = append(w.buf, v...)
}

func (w *writer) headers(headers map[string]string) {
	w.key("headers")
	w.buf = append(w.buf, '{')
	var space [8]string
	for i, k := range sortedKeys(space[:0], headers) {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		w.string("header", k)
		w.buf = append(w.buf, ':')
		w.string("header", headers[k])
	}
	w.buf = append(w.buf, '}')
}

func (w *writer) meta(meta map[string]json.RawMessage) {
	w.key("meta")
	w.buf = append(w.buf, '{')
	var space [8]string
	for i, k := range sortedKeys(space[:0], meta) {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		w.string("meta", k)
		w.buf = append(w.buf, ':')
		w.value(meta[k])
	}
	w.buf = append(w.buf, '}')
}

func (w *writer) unknown(fields map[string]json.RawMessage) {
	for _, k := range sortedKeys(nil, fields) {
		if fieldOf([]byte(k)) != fieldUnknown {
			w.fail("unknown field %q: it is a known one", k)
			return
		}
		w.buf = append(w.buf, ',')
		w.string("field", k)
		w.buf = append(w.buf, ':')
		w.value(fields[k])
	}
}

func sortedKeys[V any](space []string, m map[string]V) []string {
	for k := range m {
		space = append(space, k)
	}
	slices.Sort(space)
	return space
}

const hexDigits = "0123456789abcdef"

// string appends s as a JSON string with no more escapes than it needs.
func (w *writer) string(what, s string) {
	w.buf = append(w.buf, '"')
	from, ascii := 0, true
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			ascii = ascii && c < utf8.RuneSelf
			continue
		}
		w.buf = append(w.buf, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			w.buf = append(w.buf, '\\', c)
		case '\n':
			w.buf = append(w.buf, '\\', 'n')
		case '\r':
			w.buf = append(w.buf, '\\', 'r')
		case '\t':
			w.buf = append(w.buf, '\\', 't')
		default:
			w.buf = append(w.buf, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	w.buf = append(append(w.buf, s[from:]...), '"')
	if !ascii && !utf8.ValidString(s) {
		w.fail("%s %.80q: it is not UTF-8", what, s)
	}
}

// EncodedSize is how many bytes Encode makes of the envelope: exactly, and
// without making them.
func EncodedSize(e *Envelope) int {
	n := len(`{"id":,"name":,"args":,"enqueuedAt":"",,"priority":,"attempt":,"maxRetries":,"queue":}`) - 1 +
		len(wireTime) + stringSize(e.ID) + stringSize(e.Name) + stringSize(e.Queue) + rawSize(e.Args) +
		intSize(int64(e.Priority)) + intSize(int64(e.Attempt)) + intSize(int64(e.MaxRetries))
	if len(e.Headers) > 0 {
		n += len(`,"headers":{}`) + len(e.Headers)*len(`:,`) - 1
		for k, v := range e.Headers {
			n += stringSize(k) + stringSize(v)
		}
	}
	if !e.NotBefore.IsZero() {
		n += len(`,"notBefore":""`) + len(wireTime)
	}
	if !e.ExpiresAt.IsZero() {
		n += len(`,"expiresAt":""`) + len(wireTime)
	}
	if e.VisibilityTimeout != 0 {
		n += len(`,"visibilityTimeout":`) + intSize(milliseconds(e.VisibilityTimeout))
	}
	if len(e.Meta) > 0 {
		n += len(`,"meta":{}`) + len(e.Meta)*len(`:,`) - 1
		for k, v := range e.Meta {
			n += stringSize(k) + rawSize(v)
		}
	}
	for k, v := range e.Unknown {
		n += stringSize(k) + rawSize(v) + len(`:,`)
	}
	return n
}

func stringSize(s string) int {
	n := len(s) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t':
			n++
		case c < ' ':
			n += 5
		}
	}
	return n
}

func rawSize(v json.RawMessage) int {
	if v == nil {
		return len("null")
	}
	return len(v)
}

func intSize(n int64) int {
	size := 1
	if n < 0 {
		size++
	}
	for ; n > 9 || n < -9; n /= 10 {
		size++
	}
	return size
}

// CheckSize refuses what is larger than its limit, both in bytes. The error
// wraps ErrTooLarge and says what to do instead.
func CheckSize(size, limit int) error {
	if size <= limit {
		return nil
	}
	return fmt.Errorf("%w: %d bytes, at most %d: store the payload elsewhere and pass a reference to it", ErrTooLarge, size, limit)
}

// ValidateJSON checks that raw is one well-formed JSON value of valid UTF-8,
// nested at most MaxDepth deep; white space around it is allowed. Nil is valid
// and stands for null. The error wraps ErrInvalid and says where and why.
func ValidateJSON(what string, raw json.RawMessage) error {
	if err := checkJSON(raw); err != nil {
		return invalid("%s: not JSON as it should be: %w", what, err)
	}
	return nil
}

func checkJSON(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	if err := checkUTF8(raw); err != nil {
		return err
	}
	end, err := scanValue(raw, 0)
	if err != nil {
		return err
	}
	return atEnd(raw, end)
}

func checkUTF8(data []byte) error {
	if utf8.Valid(data) {
		return nil
	}
	for i := 0; ; {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return &scanError{i, "not UTF-8"}
		}
		i += size
	}
}

func atEnd(data []byte, i int) error {
	if i = skipSpace(data, i); i < len(data) {
		return &scanError{i, "something after the value's end"}
	}
	return nil
}
