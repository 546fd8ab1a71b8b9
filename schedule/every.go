package schedule

import (
	"strconv"
	"strings"
	"time"
)

// The shortest and the longest time between two moments of an "every".
const (
	ShortestEvery = 100 * time.Millisecond
	LongestEvery  = 100 * 366 * 24 * time.Hour
)

// every fires at whole multiples of a period from its phase: what fires late once
// does not shift what follows.
type every struct {
	period int64     // ms
	phase  time.Time // zero: the Unix epoch
}

func newEvery(d Definition) (Spec, error) {
	if d.Every < ShortestEvery || d.Every > LongestEvery || d.Every%time.Millisecond != 0 {
		return nil, wrong("every", d.Every.String(), "whole milliseconds, from 100ms to 100 years, as in 5m or 1h30m")
	}
	if err := checkMoment("startAt", d.StartAt); err != nil {
		return nil, err
	}
	return every{period: d.Every.Milliseconds(), phase: d.StartAt.UTC()}, nil
}

func (e every) anchor() int64 {
	if e.phase.IsZero() {
		return 0
	}
	return e.phase.UnixMilli()
}

// Next counts in milliseconds, since a time.Duration ends after 292 years.
func (e every) Next(after time.Time) (time.Time, bool) {
	after, ok := within(after)
	if !ok {
		return time.Time{}, false
	}
	since := after.UnixMilli() - e.anchor()
	n := since / e.period
	if since%e.period < 0 {
		n--
	}
	next := time.UnixMilli(e.anchor() + (n+1)*e.period).UTC()
	if next.Year() > lastYear {
		return time.Time{}, false
	}
	return next, true
}

func (e every) String() string {
	text := "every:" + durationText(e.duration())
	if !e.phase.IsZero() {
		text += "@" + momentText(e.phase)
	}
	return text
}

func (e every) Describe() string {
	text := "Every " + durationWords(e.duration())
	if !e.phase.IsZero() {
		text += ", counted from " + momentWords(e.phase)
	}
	return text
}

func (e every) duration() time.Duration { return time.Duration(e.period) * time.Millisecond }

// clocked fires once.
type clocked struct{ at time.Time }

func newClocked(d Definition) (Spec, error) {
	if err := checkMoment("clocked", d.Clocked); err != nil {
		return nil, err
	}
	return clocked{at: d.Clocked.UTC()}, nil
}

func (c clocked) Next(after time.Time) (time.Time, bool) {
	if !c.at.After(after) {
		return time.Time{}, false
	}
	return c.at, true
}

func (c clocked) String() string   { return "clocked:" + momentText(c.at) }
func (c clocked) Describe() string { return "Once, at " + momentWords(c.at) }

// checkMoment refuses what a store could not keep as it is.
func checkMoment(field string, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	if year := t.UTC().Year(); year < 1 || year > lastYear || t.Nanosecond()%int(time.Millisecond) != 0 {
		return wrong(field, t.Format(time.RFC3339Nano), wantMoment)
	}
	return nil
}

const wantMoment = "a moment with its offset and at most milliseconds, as in 2027-01-01T00:00:00Z"

func parseMoment(field, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.IsZero() {
		return time.Time{}, wrong(field, text, wantMoment)
	}
	return t.UTC(), checkMoment(field, t)
}

func momentText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999Z07:00") }

func momentWords(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999 MST") }

// durationText is Go's form without the units that are none: 5m, not 5m0s.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// durationWords is "5 minutes", "minute", "1 hour 30 minutes".
func durationWords(d time.Duration) string {
	units := [...]struct {
		name string
		size time.Duration
	}{
		{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute},
		{"second", time.Second}, {"millisecond", time.Millisecond},
	}
	var words []string
	for _, unit := range units {
		n := int64(d / unit.size)
		d %= unit.size
		switch {
		case n == 1:
			words = append(words, "1 "+unit.name)
		case n > 1:
			words = append(words, strconv.FormatInt(n, 10)+" "+unit.name+"s")
		}
	}
	if len(words) == 1 {
		return strings.TrimPrefix(words[0], "1 ")
	}
	return strings.Join(words, " ")
}
