package beat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/nearest"
	"github.com/stemjobs/stem/schedule"
)

// written is an entry as JSON has it, in the order of the fields. The id is not
// part of what a store keeps as the definition: it is the record's own.
type written struct {
	ID          string              `json:"id,omitempty"`
	Description string              `json:"description,omitempty"`
	Task        string              `json:"task"`
	Spec        schedule.Definition `json:"spec"`
	Args        json.RawMessage     `json:"args,omitempty"`
	Options     *writtenOptions     `json:"options,omitempty"`
	Jitter      text                `json:"jitter,omitempty"`
	StartAt     time.Time           `json:"startAt,omitzero"`
	EndAt       time.Time           `json:"endAt,omitzero"`
	Misfire     *writtenMisfire     `json:"misfire,omitempty"`
	Overlap     Overlap             `json:"overlap,omitempty"`
	RunOnce     bool                `json:"runOnce,omitempty"`
	Enabled     *bool               `json:"enabled,omitempty"`
	Paused      *bool               `json:"paused,omitempty"`
	Note        string              `json:"note,omitempty"`
}

type writtenOptions struct {
	Queue             string                     `json:"queue,omitempty"`
	Priority          *int                       `json:"priority,omitempty"`
	MaxRetries        *int                       `json:"maxRetries,omitempty"`
	ExpiresIn         text                       `json:"expiresIn,omitempty"`
	VisibilityTimeout text                       `json:"visibilityTimeout,omitempty"`
	Retention         *text                      `json:"retention,omitempty"`
	IgnoreResult      bool                       `json:"ignoreResult,omitempty"`
	Headers           map[string]string          `json:"headers,omitempty"`
	Meta              map[string]json.RawMessage `json:"meta,omitempty"`
}

type writtenMisfire struct {
	Policy Policy `json:"policy,omitempty"`
	Grace  text   `json:"grace,omitempty"`
	Max    int    `json:"max,omitempty"`
}

// text is a duration as JSON has it: Go's form, or "forever".
type text time.Duration

func (d text) MarshalText() ([]byte, error) {
	if time.Duration(d) == stem.Forever {
		return []byte("forever"), nil
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}

// MarshalJSON writes the fields that the entry has.
func (e *Entry) MarshalJSON() ([]byte, error) {
	o := &e.Options
	w := written{
		ID: e.ID, Description: e.Description, Task: e.Task, Spec: e.Spec, Args: e.Args, Jitter: text(e.Jitter),
		StartAt: e.StartAt.UTC(), EndAt: e.EndAt.UTC(), Overlap: e.Overlap, RunOnce: e.RunOnce,
		Enabled: e.Enabled, Paused: e.Paused, Note: e.Note,
	}
	options := writtenOptions{
		Queue: o.Queue, Priority: o.Priority, MaxRetries: o.MaxRetries, ExpiresIn: text(o.ExpiresIn),
		VisibilityTimeout: text(o.VisibilityTimeout), Retention: (*text)(o.Retention),
		IgnoreResult: o.IgnoreResult, Headers: o.Headers, Meta: o.Meta,
	}
	raw, err := marshal(options)
	if err != nil {
		return nil, err
	}
	if string(raw) != "{}" {
		w.Options = &options
	}
	if e.Misfire != (Misfire{}) {
		w.Misfire = &writtenMisfire{Policy: e.Misfire.Policy, Grace: text(e.Misfire.Grace), Max: e.Misfire.Max}
	}
	return marshal(w)
}

// marshal is json.Marshal without HTML's escapes.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode a schedule: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads an entry. What is wrong is a *FieldError: an unknown
// field, or a value of another form. It does not validate beyond that.
func (e *Entry) UnmarshalJSON(raw []byte) error { return e.read(raw, true) }

// read reads an entry; a lax reading ignores fields that it does not know, as
// they may be of a newer version.
func (e *Entry) read(raw []byte, strict bool) error {
	*e = Entry{}
	o := &e.Options
	options := object{
		"queue": into(&o.Queue, "text"), "priority": into(&o.Priority, "a whole number"),
		"maxRetries": into(&o.MaxRetries, "a whole number"), "expiresIn": duration(&o.ExpiresIn),
		"visibilityTimeout": duration(&o.VisibilityTimeout), "retention": retention(&o.Retention),
		"ignoreResult": into(&o.IgnoreResult, "true or false"),
		"headers":      into(&o.Headers, "an object of texts"), "meta": into(&o.Meta, "an object"),
	}
	misfire := object{
		"policy": into((*string)(&e.Misfire.Policy), "latest, all or skip"),
		"grace":  duration(&e.Misfire.Grace), "max": into(&e.Misfire.Max, "a whole number"),
	}
	return object{
		"id": into(&e.ID, "text"), "description": into(&e.Description, "text"), "task": into(&e.Task, "text"),
		"spec": spec(&e.Spec), "args": verbatim(&e.Args),
		"options": options.read, "jitter": duration(&e.Jitter), "startAt": moment(&e.StartAt), "endAt": moment(&e.EndAt),
		"misfire": misfire.orText(&e.Misfire.Policy), "overlap": into((*string)(&e.Overlap), "allow, skip or queue"),
		"runOnce": into(&e.RunOnce, "true or false"), "enabled": into(&e.Enabled, "true or false"),
		"paused": into(&e.Paused, "true or false"), "note": into(&e.Note, "text"),
	}.read(raw, strict)
}

// object says how each field of an object is read.
type object map[string]reading

type reading func(raw []byte, strict bool) error

func (o object) read(raw []byte, strict bool) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return wrong("", "%.40s: want an object", raw)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		read, ok := o[name]
		if !ok {
			if strict {
				return o.unknown(name)
			}
			continue
		}
		if err := read(fields[name], strict); err != nil {
			return within(name, err)
		}
	}
	return nil
}

// orText also reads a policy alone.
func (o object) orText(to *Policy) reading {
	return func(raw []byte, strict bool) error {
		if json.Unmarshal(raw, to) == nil && string(raw) != "null" {
			return nil
		}
		return o.read(raw, strict)
	}
}

func (o object) unknown(name string) error {
	known := slices.Sorted(maps.Keys(o))
	if n := nearest.Word(name, known); n != "" {
		return wrong(name, "unknown key; did you mean %q?", n)
	}
	return wrong(name, "unknown key (known: %s)", strings.Join(known, ", "))
}

// within puts the name of an outer field before the one that an error names.
func within(name string, err error) error {
	var inner *FieldError
	if !errors.As(err, &inner) {
		return &FieldError{Field: name, Err: err}
	}
	if inner.Field != "" {
		name += "." + inner.Field
	}
	return &FieldError{Field: name, Err: inner.Err}
}

func into[T any](to *T, want string) reading {
	return func(raw []byte, _ bool) error {
		if string(raw) == "null" || json.Unmarshal(raw, to) != nil {
			return fmt.Errorf("%.40s: want %s", raw, want)
		}
		return nil
	}
}

func verbatim(to *json.RawMessage) reading {
	return func(raw []byte, _ bool) error {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		if *to = b.Bytes(); b.String() == "null" {
			*to = nil
		}
		return nil
	}
}

func spec(to *schedule.Definition) reading {
	return func(raw []byte, _ bool) error { return to.UnmarshalJSON(raw) }
}

func duration(to *time.Duration) reading {
	return func(raw []byte, _ bool) error {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			if d, err := time.ParseDuration(s); err == nil {
				*to = d
				return nil
			}
		}
		return fmt.Errorf("%.40s: want a duration with its unit, such as 30s or 1h30m", raw)
	}
}

func retention(to **time.Duration) reading {
	return func(raw []byte, strict bool) error {
		d := stem.Forever
		if string(raw) != `"forever"` {
			if err := duration(&d)(raw, strict); err != nil {
				return err
			}
		}
		*to = &d
		return nil
	}
}

func moment(to *time.Time) reading {
	return func(raw []byte, _ bool) error {
		var t time.Time
		if string(raw) == "null" || json.Unmarshal(raw, &t) != nil || t.IsZero() {
			return fmt.Errorf("%.40s: want a moment with its offset, such as 2027-01-01T00:00:00Z", raw)
		}
		*to = t.UTC()
		return nil
	}
}
