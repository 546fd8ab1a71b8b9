package task

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Decode reads an envelope from its wire form and validates it. It is strict:
// a field, header or meta key that is there twice, text that is not UTF-8, a
// number with a fraction where an integer belongs, and nesting deeper than
// MaxDepth are refused. Fields that it does not know are kept in Unknown. The
// error wraps ErrInvalid. The envelope may share memory with data, which must
// not be changed afterwards.
func Decode(data []byte) (*Envelope, error) {
	if err := checkUTF8(data); err != nil {
		return nil, invalid("envelope: %w", err)
	}
	d := decoder{data: data, env: &Envelope{Priority: DefaultPriority}}
	if len(data) <= sharedText {
		d.text = string(data)
	}
	return d.decode()
}

// DecodeRest reads the rest of an envelope of which a store keeps some fields
// beside it: ID, EnqueuedAt, NotBefore, Priority, Attempt and Queue are those of
// known, and the text must not have them. All else is as for Decode. The envelope
// may share memory with text and known.
func DecodeRest(text string, known Envelope) (*Envelope, error) {
	data := []byte(text)
	if err := checkUTF8(data); err != nil {
		return nil, invalid("envelope: %w", err)
	}
	e := &Envelope{
		ID: known.ID, EnqueuedAt: known.EnqueuedAt, NotBefore: known.NotBefore,
		Priority: known.Priority, Attempt: known.Attempt, Queue: known.Queue,
	}
	d := decoder{data: data, env: e, seen: knownFields}
	if len(data) <= sharedText {
		d.text = text
	}
	return d.decode()
}

func (d *decoder) decode() (*Envelope, error) {
	if err := d.envelope(); err != nil {
		return nil, invalid("envelope: %w", err)
	}
	if err := d.env.validateFields(); err != nil {
		return nil, err
	}
	if d.env.Args == nil {
		d.env.Args = json.RawMessage("null")
	}
	return d.env, nil
}

// sharedText is up to which size an envelope's strings are parts of one copy
// of its text: one allocation in place of a dozen, and little memory kept
// alive by whoever keeps one of the strings.
const sharedText = 1024

// The fields of an envelope, as bits.
const (
	fieldUnknown = 0
	fieldID      = 1 << iota
	fieldName
	fieldArgs
	fieldHeaders
	fieldEnqueuedAt
	fieldNotBefore
	fieldExpiresAt
	fieldPriority
	fieldAttempt
	fieldMaxRetries
	fieldVisibilityTimeout
	fieldQueue
	fieldMeta

	knownFields = fieldID | fieldEnqueuedAt | fieldNotBefore | fieldPriority | fieldAttempt | fieldQueue // to DecodeRest
)

func fieldOf(key []byte) int {
	switch string(key) {
	case "id":
		return fieldID
	case "name":
		return fieldName
	case "args":
		return fieldArgs
	case "headers":
		return fieldHeaders
	case "enqueuedAt":
		return fieldEnqueuedAt
	case "notBefore":
		return fieldNotBefore
	case "expiresAt":
		return fieldExpiresAt
	case "priority":
		return fieldPriority
	case "attempt":
		return fieldAttempt
	case "maxRetries":
		return fieldMaxRetries
	case "visibilityTimeout":
		return fieldVisibilityTimeout
	case "queue":
		return fieldQueue
	case "meta":
		return fieldMeta
	default:
		return fieldUnknown
	}
}

type decoder struct {
	data []byte
	text string // data, when it is short
	env  *Envelope
	seen int // bits of the fields that were read
}

// span is a value's place in the data.
type span struct{ from, to int }

func (d *decoder) raw(v span) json.RawMessage { return d.data[v.from:v.to:v.to] }

func (d *decoder) isNull(v span) bool { return d.data[v.from] == 'n' }

func (d *decoder) envelope() error {
	end, err := d.object(0, d.field)
	if err != nil {
		return err
	}
	return atEnd(d.data, end)
}

// object walks one object. each gets a key's place, its quotes included, and
// where the value begins; it returns the value's end.
func (d *decoder) object(i int, each func(key span, i int) (int, error)) (int, error) {
	i = skipSpace(d.data, i)
	if i == len(d.data) || d.data[i] != '{' {
		return i, &scanError{i, "want an object"}
	}
	i = skipSpace(d.data, i+1)
	if i < len(d.data) && d.data[i] == '}' {
		return i + 1, nil
	}
	for {
		end, next, err := scanKey(d.data, i)
		if err != nil {
			return i, err
		}
		if i, err = each(span{i, end}, skipSpace(d.data, next)); err != nil {
			return i, err
		}
		i = skipSpace(d.data, i)
		switch {
		case i == len(d.data):
			return i, &scanError{i, truncated}
		case d.data[i] == '}':
			return i + 1, nil
		case d.data[i] != ',':
			return i, &scanError{i, "want a comma or the end of the object"}
		}
		i = skipSpace(d.data, i+1)
	}
}

// field reads one field of the envelope.
func (d *decoder) field(key span, i int) (int, error) {
	name := d.data[key.from+1 : key.to-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		plain, err := d.string(key)
		if err != nil {
			return i, fmt.Errorf("a field's name at byte %d: %w", key.from, err)
		}
		name = []byte(plain)
	}
	field := fieldOf(name)
	if d.seen&field != 0 {
		return i, &scanError{key.from, fmt.Sprintf("field %q is there twice", name)}
	}
	d.seen |= field
	switch {
	case i < len(d.data) && d.data[i] == '{' && field == fieldHeaders:
		return d.object(i, d.header)
	case i < len(d.data) && d.data[i] == '{' && field == fieldMeta:
		return d.object(i, d.meta)
	}
	end, err := scanValue(d.data, i)
	if err != nil {
		return end, err
	}
	v := span{i, end}
	switch {
	case field == fieldUnknown:
		return end, d.put(&d.env.Unknown, "field", string(name), key, v)
	case field == fieldArgs:
		d.env.Args = d.raw(v)
		return end, nil
	case d.isNull(v): // the same as absent
		return end, nil
	}
	if err := d.scalar(field, v); err != nil {
		return end, fmt.Errorf("%s at byte %d: %w", name, v.from, err)
	}
	return end, nil
}

// scalar sets a field that is a string, a number or a moment.
func (d *decoder) scalar(field int, v span) (err error) {
	e := d.env
	var n int64
	switch field {
	case fieldID:
		e.ID, err = d.string(v)
	case fieldName:
		e.Name, err = d.string(v)
	case fieldQueue:
		e.Queue, err = d.string(v)
	case fieldEnqueuedAt:
		e.EnqueuedAt, err = d.time(v)
	case fieldNotBefore:
		e.NotBefore, err = d.time(v)
	case fieldExpiresAt:
		e.ExpiresAt, err = d.time(v)
	case fieldPriority:
		n, err = d.int(v, math.MaxInt32)
		e.Priority = int(n)
	case fieldAttempt:
		n, err = d.int(v, math.MaxInt32)
		e.Attempt = int(n)
	case fieldMaxRetries:
		n, err = d.int(v, math.MaxInt32)
		e.MaxRetries = int(n)
	case fieldVisibilityTimeout:
		n, err = d.int(v, math.MaxInt64/int64(time.Millisecond))
		e.VisibilityTimeout = time.Duration(n) * time.Millisecond
	default:
		err = errors.New("want an object")
	}
	return err
}

func (d *decoder) header(key span, i int) (int, error) {
	end, err := scanValue(d.data, i)
	if err != nil {
		return end, err
	}
	k, err := d.string(key)
	if err != nil {
		return end, fmt.Errorf("a header's key at byte %d: %w", key.from, err)
	}
	value, err := d.string(span{i, end})
	if err != nil {
		return end, fmt.Errorf("header %q at byte %d: %w", k, i, err)
	}
	if _, twice := d.env.Headers[k]; twice {
		return end, &scanError{key.from, fmt.Sprintf("header %q is there twice", k)}
	}
	if d.env.Headers == nil {
		d.env.Headers = make(map[string]string)
	}
	d.env.Headers[k] = value
	return end, nil
}

func (d *decoder) meta(key span, i int) (int, error) {
	end, err := scanValue(d.data, i)
	if err != nil {
		return end, err
	}
	k, err := d.string(key)
	if err != nil {
		return end, fmt.Errorf("a key of meta at byte %d: %w", key.from, err)
	}
	return end, d.put(&d.env.Meta, "meta", k, key, span{i, end})
}

// put adds a value to a map that has none of that name.
func (d *decoder) put(m *map[string]json.RawMessage, what, name string, key, v span) error {
	if _, twice := (*m)[name]; twice {
		return &scanError{key.from, fmt.Sprintf("%s %q is there twice", what, name)}
	}
	if *m == nil {
		*m = make(map[string]json.RawMessage)
	}
	(*m)[name] = d.raw(v)
	return nil
}

// string reads a scanned value that must be a string.
func (d *decoder) string(v span) (string, error) {
	if d.data[v.from] != '"' {
		return "", errors.New("want a string")
	}
	inner := d.data[v.from+1 : v.to-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		if d.text != "" {
			return d.text[v.from+1 : v.to-1], nil
		}
		return string(inner), nil
	}
	s, ok := unescape(inner)
	if !ok {
		return "", errors.New("half a surrogate pair")
	}
	return s, nil
}

// int reads a scanned value that must be an integer of at most limit either
// way.
func (d *decoder) int(v span, limit int64) (int64, error) {
	n, err := strconv.ParseInt(string(d.data[v.from:v.to]), 10, 64)
	if err != nil || n > limit || n < -limit {
		return 0, fmt.Errorf("%.40s: want an integer up to %d", d.data[v.from:v.to], limit)
	}
	return n, nil
}

// time reads a scanned value that must be a moment. Digits beyond the
// milliseconds are cut off.
func (d *decoder) time(v span) (time.Time, error) {
	s, err := d.string(v)
	if err != nil {
		return time.Time{}, err
	}
	if t, ok := parseWireTime(s); ok {
		return t, nil
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(s)); err != nil {
		return t, fmt.Errorf("%.40q: want RFC 3339 like 2006-01-02T15:04:05.000Z", s)
	}
	return t.UTC().Truncate(time.Millisecond), nil
}

// parseWireTime reads the form that Encode writes, and says no to any other.
func parseWireTime(s string) (time.Time, bool) {
	if len(s) != len(wireTime) {
		return time.Time{}, false
	}
	for i := range len(s) {
		c, want := s[i], wireTime[i]
		isDigit, wantDigit := c >= '0' && c <= '9', want >= '0' && want <= '9'
		if isDigit != wantDigit || !wantDigit && c != want {
			return time.Time{}, false
		}
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if month < 1 || month > 12 || day < 1 || day > 28 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false // the 29th to the 31st, too, are left to package time
	}
	ms := int(s[20]-'0')*100 + two(21)
	return time.Date(year, time.Month(month), day, hour, minute, second, ms*1e6, time.UTC), true
}
