package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// ScanLimit is how many records a List looks at, at most, before it returns
// what it found with Truncated set.
const ScanLimit = 100_000

// Query selects statuses; fields left empty select all.
type Query struct {
	States []task.State
	Name   string // a task name or a pattern with "*"
	Queue  string // a name or a pattern with "*"
	Worker string
	Reason string
	Error  string            // a part of the newest error's type or message, in any case
	Args   string            // a part of the kept args
	Fields map[string]string // of fields of the args by their path, such as user.id or lines.0.sku, where the args are kept whole; as Meta
	Meta   map[string]string // of entries of the task's meta; a pattern with "*" fits texts, other values are JSON
	Since  time.Time
	Until  time.Time // enqueued in [Since, Until)

	Limit  int    // 0: 50; at most 1000
	Cursor string // of the page before; empty: the first page
}

// Size is the query's limit with its default and its bound applied.
func (q Query) Size() int { return broker.Page{Limit: q.Limit}.Size() }

// List is one page of statuses.
type List struct {
	Statuses  []task.Status
	Cursor    string // of the next page; empty: this was the last
	Looked    int    // records looked at
	Truncated bool   // the scan's bound was reached before the page was full
}

// Match reports whether the query selects s. Backends that narrow by an index
// first still agree with it.
func (q Query) Match(s *task.Status) bool {
	if len(q.States) > 0 && !slices.Contains(q.States, s.State) {
		return false
	}
	if q.Name != "" && !broker.Match(q.Name, s.Name) || q.Queue != "" && !broker.Match(q.Queue, s.Queue) {
		return false
	}
	if q.Worker != "" && q.Worker != s.Worker || q.Reason != "" && q.Reason != s.Reason {
		return false
	}
	if !q.Since.IsZero() && s.EnqueuedAt.Before(q.Since) || !q.Until.IsZero() && !s.EnqueuedAt.Before(q.Until) {
		return false
	}
	if q.Args != "" && !bytes.Contains(s.Args, []byte(q.Args)) {
		return false
	}
	if !q.fitsMeta(s.Meta) || !q.fitsFields(s.Args) {
		return false
	}
	if q.Error == "" {
		return true
	}
	return s.Error != nil && strings.Contains(strings.ToLower(s.Error.Type+" "+s.Error.Message), strings.ToLower(q.Error))
}

// fitsMeta reports whether a status's meta has what the query wants: the
// caller's own entries, else those of Stem.
func (q Query) fitsMeta(meta map[string]json.RawMessage) bool {
	if len(q.Meta) == 0 {
		return true
	}
	own := map[string]json.RawMessage{}
	if raw := meta[task.MetaUser]; raw != nil && json.Unmarshal(raw, &own) != nil {
		return false
	}
	for key, want := range q.Meta {
		raw, ok := own[key]
		if !ok {
			raw = meta[key]
		}
		if !fitsValue(want, raw) {
			return false
		}
	}
	return true
}

// fitsFields reports whether args have the fields that the query wants.
func (q Query) fitsFields(args json.RawMessage) bool {
	for path, want := range q.Fields {
		if !fitsValue(want, fieldAt(args, path)) {
			return false
		}
	}
	return true
}

// fieldAt is the value at a path of keys and, in arrays, places from 0; nil
// where there is none.
func fieldAt(value json.RawMessage, path string) json.RawMessage {
	for key := range strings.SplitSeq(path, ".") {
		switch value = bytes.TrimSpace(value); {
		case len(value) > 0 && value[0] == '{':
			var object map[string]json.RawMessage
			if json.Unmarshal(value, &object) != nil {
				return nil
			}
			value = object[key]
		case len(value) > 0 && value[0] == '[':
			var array []json.RawMessage
			i, err := strconv.Atoi(key)
			if err != nil || json.Unmarshal(value, &array) != nil || i < 0 || i >= len(array) {
				return nil
			}
			value = array[i]
		default:
			return nil
		}
	}
	return bytes.TrimSpace(value)
}

// fitsValue reports whether a JSON value is the one that is wanted: a text by a
// pattern, anything else as it is written.
func fitsValue(want string, raw json.RawMessage) bool {
	var text string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return broker.Match(want, text)
	}
	return len(raw) > 0 && string(raw) == want
}

// ParseQuery reads the query language of the command line and the API:
//
//	state:failed,retried name:email.* queue:default worker:W reason:R
//	error:"timed out" args:"42" since:2h until:2026-01-02T15:04:05Z
//	args.user.id:42 meta.tenant:acme
//
// now is what the durations of since and until count back from. The error says
// which word is wrong, and wraps task.ErrInvalid.
func ParseQuery(text string, now time.Time) (Query, error) {
	var q Query
	words, err := splitWords(text)
	if err != nil {
		return q, err
	}
	for _, w := range words {
		key, value, ok := strings.Cut(w, ":")
		if !ok || value == "" {
			return q, fmt.Errorf("%w query word %q: want KEY:VALUE, such as state:failed", task.ErrInvalid, w)
		}
		if err := q.set(key, value, now); err != nil {
			return q, err
		}
	}
	return q, nil
}

func (q *Query) set(key, value string, now time.Time) (err error) {
	switch key {
	case "state":
		for _, name := range strings.Split(value, ",") {
			s, err := task.ParseState(name)
			if err != nil {
				return fmt.Errorf("%w query word state:%s: %w", task.ErrInvalid, value, err)
			}
			q.States = append(q.States, s)
		}
	case "name":
		q.Name = value
	case "queue":
		q.Queue = value
	case "worker":
		q.Worker = value
	case "reason":
		q.Reason = value
	case "error":
		q.Error = value
	case "args":
		q.Args = value
	case "since":
		q.Since, err = ParseMoment(value, now)
	case "until":
		q.Until, err = ParseMoment(value, now)
	default:
		if name, ok := strings.CutPrefix(key, "meta."); ok && name != "" {
			if q.Meta == nil {
				q.Meta = map[string]string{}
			}
			q.Meta[name] = value
			return nil
		}
		if path, ok := strings.CutPrefix(key, "args."); ok && !slices.Contains(strings.Split(path, "."), "") {
			if q.Fields == nil {
				q.Fields = map[string]string{}
			}
			q.Fields[path] = value
			return nil
		}
		return fmt.Errorf("%w query key %q: want one of state, name, queue, worker, reason, error, args, args.PATH, since, until, meta.KEY",
			task.ErrInvalid, key)
	}
	return err
}

// ParseMoment reads RFC 3339, or a duration before now such as 90m or 2h.
func ParseMoment(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w moment %q: want RFC 3339, or a duration ago such as 2h", task.ErrInvalid, value)
	}
	return t, nil
}

// splitWords splits at spaces outside double quotes, and drops the quotes.
func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range text {
		switch {
		case r == '"':
			quoted, started = !quoted, true
		case r == ' ' && !quoted:
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("%w query %q: a quote is not closed", task.ErrInvalid, text)
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}

// Cursor names a position in a listing: after the record of that moment and id.
type Cursor struct {
	At time.Time
	ID string
}

// String returns the cursor as one opaque word; the zero cursor is empty.
func (c Cursor) String() string {
	if c.ID == "" {
		return ""
	}
	return fmt.Sprintf("%d~%s", c.At.UnixMilli(), c.ID)
}

// ParseCursor reads what String wrote; empty is the zero cursor. The error
// wraps task.ErrInvalid.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return Cursor{}, nil
	}
	ms, id, ok := strings.Cut(s, "~")
	var at int64
	if _, err := fmt.Sscanf(ms, "%d", &at); err != nil || !ok || task.ValidateID(id) != nil {
		return Cursor{}, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, s)
	}
	return Cursor{At: time.UnixMilli(at), ID: id}, nil
}
