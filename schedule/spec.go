package schedule

import (
	"iter"
	"time"
)

// A Spec says when something happens. It is made by [Parse] or by
// [Definition.Spec], immutable, and safe for use by many goroutines at once.
type Spec interface {
	// Next returns the first moment strictly after another, and false when there
	// is none, ever. It depends on nothing else, and its work is bounded. A cron's
	// moment is in the time zone of the spec; any other is in UTC. It has whole
	// milliseconds.
	Next(after time.Time) (time.Time, bool)

	// String returns the canonical text, from which [Parse] makes an equal spec.
	String() string

	// Describe says it in words: "At 02:00, Monday to Friday, Europe/Berlin".
	Describe() string
}

// lastYear is the last one in which anything fires: times are written with four
// digits for the year.
const lastYear = 9999

// within returns the moment from which to look: it is not before the year 1. It is
// false when there is nothing left.
func within(after time.Time) (time.Time, bool) {
	switch year := after.UTC().Year(); {
	case year > lastYear:
		return time.Time{}, false
	case year < 1:
		return time.Time{}.Add(-1), true
	}
	return after, true
}

// Parse reads the text of a spec. See [ParseDefinition] for the forms. What is
// wrong with it is an [*Error].
func Parse(text string) (Spec, error) {
	return new(Loader).Parse(text)
}

// After walks through the moments of a spec after one moment, in order, for as
// long as there are any.
func After(spec Spec, from time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		for {
			next, ok := spec.Next(from)
			if !ok || !yield(next) {
				return
			}
			from = next
		}
	}
}

// Moments returns the next n moments of a spec after one moment; fewer when it
// ends earlier.
func Moments(spec Spec, from time.Time, n int) []time.Time {
	var moments []time.Time
	if n <= 0 {
		return nil
	}
	for t := range After(spec, from) {
		if moments = append(moments, t); len(moments) == n {
			break
		}
	}
	return moments
}

// Latest returns the last moment of a spec after one moment and not after another,
// and false when there is none between them. However many there are, it asks for a
// few dozen at most: it is how one catches up after a long time.
func Latest(spec Spec, after, until time.Time) (time.Time, bool) {
	latest, ok := spec.Next(after)
	if !ok || latest.After(until) {
		return time.Time{}, false
	}
	// From low there is one that is not after until, from high there is none.
	low, high := latest.UnixMilli(), until.UnixMilli()+1
	for step := int64(1); ; step *= 2 { // most often it was not long ago
		from := until.UnixMilli() - step
		if from <= low {
			break
		}
		if t, ok := spec.Next(time.UnixMilli(from)); ok && !t.After(until) {
			latest, low = t, t.UnixMilli()
			break
		}
		high = from
	}
	for low < high {
		middle := low + (high-low)/2
		t, ok := spec.Next(time.UnixMilli(middle))
		if !ok || t.After(until) {
			high = middle
			continue
		}
		latest, low = t, t.UnixMilli()
	}
	return latest, true
}

// Jitter returns how much later than due an entry fires: at least nothing, less
// than at most, in whole milliseconds. It is derived from the entry's id and the
// moment alone, so every scheduler finds the same, again and again, and entries
// that are due together are spread.
func Jitter(id string, due time.Time, atMost time.Duration) time.Duration {
	span := uint64(max(atMost.Milliseconds(), 0))
	if span == 0 {
		return 0
	}
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a
	hash := uint64(offset)
	for i := range len(id) {
		hash = (hash ^ uint64(id[i])) * prime
	}
	hash ^= uint64(due.UnixMilli())
	// FNV's upper bits say little about the last bytes: mix them (splitmix64).
	hash += 0x9e3779b97f4a7c15
	hash = (hash ^ hash>>30) * 0xbf58476d1ce4e5b9
	hash = (hash ^ hash>>27) * 0x94d049bb133111eb
	hash ^= hash >> 31
	return time.Duration(hash%span) * time.Millisecond
}
