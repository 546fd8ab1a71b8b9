package schedule_test

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// The names of the tz database, links included.
//
//go:embed testdata/zones.txt
var zoneNames string

// Zones with something that others lack: half an hour of summer time, offsets with
// quarters, two hours of it, a day that never was, summer time that pauses for
// Ramadan, changes at midnight, changes late in the evening, none at all.
var oddZones = []string{
	"Australia/Lord_Howe", "Pacific/Chatham", "Antarctica/Troll", "Pacific/Apia",
	"Africa/Casablanca", "Asia/Gaza", "America/Havana", "America/Santiago",
	"America/Nuuk", "America/Scoresbysund", "Asia/Tehran", "Pacific/Kwajalein",
	"Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC",
}

var (
	firstTested = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTested  = time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
)

// long tells whether everything is to be walked through, and says which it is.
func long(t *testing.T) bool {
	t.Helper()
	if os.Getenv("STEM_CHAOS") == "full" {
		t.Log("the long form: every change of every zone from 1990 to 2040")
		return true
	}
	t.Log("the short form: a sample; STEM_CHAOS=full walks through every change of every zone")
	return false
}

// changes lists the moments at which a zone's offset changes.
func changes(zone *time.Location) []time.Time {
	var list []time.Time
	for at := firstTested; ; {
		_, end := at.In(zone).ZoneBounds()
		switch {
		case end.IsZero() || end.After(lastTested):
			return list
		case !end.After(at): // the last day of a leap year, which ZoneBounds does not know
			at = at.AddDate(0, 0, 1)
		default:
			list, at = append(list, end), end
		}
	}
}

// A minute is one real minute: when it is, and what the clock shows, which is
// written as that time in UTC.
type minute struct{ at, shown time.Time }

// walked is how many days before and after a change are walked through. The first
// one shows the oracle what clocks have shown already.
const walked = 2

// walk goes through the real minutes of a few days around a moment.
func walk(zone *time.Location, around time.Time) []minute {
	minutes := make([]minute, 0, 2*walked*24*60)
	start := around.Truncate(time.Minute).Add(-walked * 24 * time.Hour)
	for i := range cap(minutes) {
		at := start.Add(time.Duration(i) * time.Minute)
		_, offset := at.In(zone).Zone()
		minutes = append(minutes, minute{at, at.UTC().Add(time.Duration(offset) * time.Second)})
	}
	return minutes
}

// pattern is a random cron, which knows by itself what it matches.
type pattern struct {
	text    string
	elapsed bool // by docs/scheduling.md
	matches func(shown time.Time) bool
}

// randomPattern has hours and minutes of all kinds, on all days or on one of the
// week.
func randomPattern(r *rand.Rand) pattern {
	minutes, minuteText, minuteKind := randomField(r, 60)
	hours, hourText, hourKind := randomField(r, 24)
	dayText, onDay := "*", func(time.Time) bool { return true }
	if r.IntN(4) == 0 {
		day := time.Weekday(r.IntN(7))
		dayText, onDay = strings.ToLower(day.String()[:3]), func(t time.Time) bool { return t.Weekday() == day }
	}
	return pattern{
		text:    fmt.Sprintf("%s %s * * %s", minuteText, hourText, dayText),
		elapsed: hourKind == "*" || hourKind == "*/" && minuteKind != "",
		matches: func(t time.Time) bool { return minutes[t.Minute()] && hours[t.Hour()] && onDay(t) },
	}
}

// randomField returns the numbers that a field matches, its text, and whether it is
// "*", a step of all ("*/"), or neither ("").
func randomField(r *rand.Rand, size int) (set []bool, text, kind string) {
	set = make([]bool, size)
	switch r.IntN(5) {
	case 0:
		text, kind = "*", "*"
		for i := range size {
			set[i] = true
		}
	case 1:
		step := 2 + r.IntN(size/2)
		text, kind = "*/"+strconv.Itoa(step), "*/"
		for i := 0; i < size; i += step {
			set[i] = true
		}
	case 2:
		low := r.IntN(size - 2)
		high := low + 1 + r.IntN(min(4, size-1-low))
		text = fmt.Sprintf("%d-%d", low, high)
		for i := low; i <= high; i++ {
			set[i] = true
		}
	default: // mostly in the small hours, in which clocks change
		var texts []string
		for range 1 + r.IntN(3) {
			n := r.IntN(min(size, 4)) * (1 + r.IntN(size/24*4+1)) % size
			set[n] = true
			texts = append(texts, strconv.Itoa(n))
		}
		text = strings.Join(texts, ",")
	}
	return set, text, kind
}

// expected is the rule, applied to each real minute in turn. What follows elapsed
// time fires when the clock shows a match. What does not fires in the first minute
// in which the clock shows a match or something later than it.
func (p pattern) expected(minutes []minute) []time.Time {
	var fired []time.Time
	highest := minutes[0].shown
	for _, m := range minutes[1:] {
		if p.elapsed {
			if p.matches(m.shown) {
				fired = append(fired, m.at)
			}
			continue
		}
		hit := false
		for shown := highest.Add(time.Minute); !shown.After(m.shown); shown = shown.Add(time.Minute) {
			highest = shown
			hit = hit || p.matches(shown)
		}
		if hit {
			fired = append(fired, m.at)
		}
	}
	return fired
}

// compare asks the spec for what the oracle found: from one moment to the next, and
// from other moments around the change.
func compare(t *testing.T, p pattern, zone string, minutes []minute) {
	t.Helper()
	spec, err := schedule.Definition{Cron: p.text, Timezone: zone}.Spec()
	if err != nil {
		t.Fatalf("%q in %s: %v", p.text, zone, err)
	}
	from, until := minutes[24*60].at, minutes[len(minutes)-1].at
	expected := p.expected(minutes)
	ask := func(after time.Time) time.Time {
		next, ok := spec.Next(after)
		i, _ := slices.BinarySearchFunc(expected, after.Add(1), time.Time.Compare)
		switch {
		case i == len(expected) && ok && !next.After(until):
			t.Fatalf("%v: after %v comes %v, want none until %v", spec, after.In(next.Location()), next, until)
		case i == len(expected):
			return time.Time{}
		case !ok || !next.Equal(expected[i]):
			t.Fatalf("%v: after %v comes %v, want %v", spec, after.In(next.Location()), next, expected[i].In(next.Location()))
		}
		if again, ok := spec.Next(next.Add(-time.Second)); !ok || !again.Equal(next) {
			t.Fatalf("%v: %v, and from a second before it %v", spec, next, again)
		}
		return next
	}
	for at := from; !at.IsZero(); {
		at = ask(at)
	}
	change := minutes[walked*24*60].at
	for off := -130 * time.Minute; off < 130*time.Minute; off += 13 * time.Minute {
		ask(change.Add(off))
	}
}

func TestCronAgainstRealMinutes(t *testing.T) {
	full := long(t)
	r := rand.New(rand.NewPCG(20, 26))
	for _, name := range append(strings.Fields(zoneNames), oddZones...) {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		moments := changes(zone)
		moments = append(moments, firstTested.Add(time.Duration(r.Int64N(int64(lastTested.Sub(firstTested))))))
		if !full {
			r.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
			moments = moments[:1]
		}
		for _, around := range moments {
			minutes := walk(zone, around)
			for range 2 {
				compare(t, randomPattern(r), name, minutes)
			}
		}
	}
}

// The odd zones, at their own changes, with the times that their changes touch.
func TestCronAtOddChanges(t *testing.T) {
	full := long(t)
	r := rand.New(rand.NewPCG(7, 7))
	for _, name := range oddZones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		moments := changes(zone)
		if !full {
			r.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
			moments = moments[:min(len(moments), 6)]
			if name == "Pacific/Apia" { // whose 30th of December 2011 never was
				moments = append(moments, time.Date(2011, 12, 30, 10, 0, 0, 0, time.UTC))
			}
		}
		for _, around := range moments {
			minutes := walk(zone, around)
			before, after := around.Add(-time.Minute).In(zone), around.In(zone)
			for _, shown := range []time.Time{before, after, after.Add(15 * time.Minute), before.Add(-29 * time.Minute)} {
				hour, minute := shown.Hour(), shown.Minute()
				compare(t, pattern{
					text:    fmt.Sprintf("%d %d * * *", minute, hour),
					matches: func(t time.Time) bool { return t.Hour() == hour && t.Minute() == minute },
				}, name, minutes)
			}
			compare(t, pattern{
				text: "*/20 * * * *", elapsed: true,
				matches: func(t time.Time) bool { return t.Minute()%20 == 0 },
			}, name, minutes)
			compare(t, randomPattern(r), name, minutes)
		}
	}
}

// A daily time fires for each day of the calendar, once, in every zone: at that
// time, or, where the clock leaps over it, when it does.
func TestNoDayIsSkippedOrDoubled(t *testing.T) {
	full := long(t)
	r := rand.New(rand.NewPCG(3, 1))
	for _, name := range strings.Fields(zoneNames) {
		from, days := firstTested, 50*365
		if !full && !slices.Contains(oddZones, name) {
			from, days = firstTested.AddDate(r.IntN(48), r.IntN(12), 0), 400
		}
		hour, minute := r.IntN(4), r.IntN(60)
		spec, err := schedule.Definition{Cron: fmt.Sprintf("%d %d * * *", minute, hour), Timezone: name}.Spec()
		if err != nil {
			t.Fatal(err)
		}
		shown := func(at time.Time) time.Time { // what the clock shows, as that time in UTC
			_, offset := at.Zone()
			return at.UTC().Add(time.Duration(offset) * time.Second)
		}
		last, _ := spec.Next(from)
		due := time.Date(shown(last).Year(), shown(last).Month(), shown(last).Day(), hour, minute, 0, 0, time.UTC)
		if due.After(shown(last)) {
			due = due.AddDate(0, 0, -1)
		}
		for range days {
			at, ok := spec.Next(last)
			due = due.AddDate(0, 0, 1)
			if !ok || !at.After(last) {
				t.Fatalf("%v: after %v comes %v", spec, last, at)
			}
			if shown(at).Before(due) || !shown(at.Add(-time.Second)).Before(due) || !shown(at.Add(-90*time.Minute)).Before(due) {
				t.Fatalf("%v: fires at %v for what is due when the clock shows %v", spec, at, due)
			}
			last = at
		}
	}
}
