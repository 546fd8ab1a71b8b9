package schedule

import "time"

// Between returns a spec that fires from start to end only, both included; the
// zero time leaves that side open. An "every" without a phase of its own counts
// from start, and so fires at start first.
//
// The result describes its bounds, but they are no part of its String: they belong
// to the entry, not to the spec.
func Between(spec Spec, start, end time.Time) (Spec, error) {
	if err := checkMoment("startAt", start); err != nil {
		return nil, err
	}
	if err := checkMoment("endAt", end); err != nil {
		return nil, err
	}
	if !start.IsZero() && !end.IsZero() && end.Before(start) {
		return nil, wrong("endAt", momentText(end), "a moment that is not before startAt, which is "+momentText(start))
	}
	if start.IsZero() && end.IsZero() {
		return spec, nil
	}
	counted := spec
	if e, ok := spec.(every); ok && e.phase.IsZero() && !start.IsZero() {
		e.phase = start.UTC()
		counted = e
	}
	return between{spec: counted, text: spec.String(), words: spec.Describe(), start: start, end: end}, nil
}

type between struct {
	spec        Spec
	text, words string
	start, end  time.Time
}

func (b between) Next(after time.Time) (time.Time, bool) {
	if !b.start.IsZero() && after.Before(b.start) {
		after = b.start.Add(-1) // start itself counts
	}
	next, ok := b.spec.Next(after)
	if !ok || !b.end.IsZero() && next.After(b.end) {
		return time.Time{}, false
	}
	return next, true
}

func (b between) String() string { return b.text }

func (b between) Describe() string {
	text := b.words
	if !b.start.IsZero() {
		text += ", from " + momentWords(b.start)
	}
	if !b.end.IsZero() {
		text += ", until " + momentWords(b.end)
	}
	return text
}
