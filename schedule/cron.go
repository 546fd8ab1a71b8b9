package schedule

import (
	"math/bits"
	"time"
)

// cron fires at the wall-clock times of a zone that its fields match.
//
// Everything is counted in seconds. A wall-clock time is written as the second it
// would be if the zone were UTC; the offset of a stretch of time is what one adds
// to a moment to get its wall-clock time.
type cron struct {
	text string // the fields, tidied
	zone *time.Location

	seconds, minutes, hours, months uint64 // bit n: n matches
	days                            monthDays
	weekdays                        weekDays
	first                           int64 // the first matching second of a day

	// elapsed is the rule for what is written with wildcards or steps: it follows
	// the time that passes, so an hour that occurs twice has its moments twice, and
	// one that does not exist has none. Otherwise each wall-clock time that matches
	// fires once, whatever the clocks do.
	elapsed bool
	never   bool // no day matches, in any year
}

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour

	// farthest is more than any zone's offset, and more than any change of one (the
	// Philippines and Alaska once went around by 24 hours), so what lies further
	// than that from a change is not touched by it.
	farthest = 26 * hour
)

// Next finds the next wall-clock time that matches, and the moment at which it is.
func (c *cron) Next(after time.Time) (time.Time, bool) {
	after, ok := within(after)
	if !ok || c.never {
		return time.Time{}, false
	}
	sec := after.Unix()
	if c.elapsed {
		sec, ok = c.nextElapsed(sec)
	} else {
		sec, ok = c.nextFixed(sec)
	}
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(sec, 0).In(c.zone), true
}

// nextFixed has the rule in one sentence: a wall-clock time fires at the first
// moment at which the clock shows it or something later. In a gap that is the
// gap's end; of two that look the same it is the first; and it never runs backward.
// So what has fired already is all that the clock ever showed, and the rest has not.
func (c *cron) nextFixed(sec int64) (int64, bool) {
	s := stretchAt(c.zone, sec-farthest)
	shown := min(s.end-1, sec) + s.offset
	for s.end <= sec {
		s = stretchAt(c.zone, s.end)
		shown = max(shown, min(s.end-1, sec)+s.offset)
	}
	wall, ok := c.wall(shown + 1)
	if !ok {
		return 0, false
	}
	for {
		if at := max(wall-s.offset, s.start); at < s.end {
			return at, true
		}
		s = stretchAt(c.zone, max(s.end, wall-farthest))
	}
}

// nextElapsed looks for a match in each stretch of equal offset. There is one on
// nearly every day that matches at all, since what is elapsed has the hour 0 and
// another one.
func (c *cron) nextElapsed(sec int64) (int64, bool) {
	s, from := stretchAt(c.zone, sec), sec+1
	for {
		wall, ok := c.wall(from + s.offset)
		if !ok {
			return 0, false
		}
		if at := wall - s.offset; at < s.end {
			return at, true
		}
		// A change within a day may show the clock's last hours again. Later ones
		// cannot show what is before the match, so those far from it are skipped.
		from = s.end
		if s.end-sec > farthest {
			from = max(from, wall-farthest)
		}
		s = stretchAt(c.zone, from)
	}
}

// wall returns the first wall-clock time from x on that matches.
func (c *cron) wall(x int64) (int64, bool) {
	date := floorDiv(x, day)
	y, m, d := civil(date)
	if y > lastYear {
		return 0, false
	}
	if c.on(y, m)>>d&1 == 1 {
		if t, ok := c.clock(x - date*day); ok {
			return date*day + t, true
		}
	}
	d++ // what is past the month's end matches nothing
	for y <= lastYear {
		if rest := c.on(y, m) >> d << d; rest != 0 {
			d = bits.TrailingZeros64(rest)
			return daysSince(y, m, d)*day + c.first, true
		}
		d = 1
		if later := c.months >> (m + 1) << (m + 1); later != 0 {
			m = bits.TrailingZeros64(later)
			continue
		}
		y, m = y+1, bits.TrailingZeros64(c.months)
	}
	return 0, false
}

// clock returns the first matching second of a day from t on.
func (c *cron) clock(t int64) (int64, bool) {
	h, m, s := t/hour, t%hour/minute, t%minute
	from := func(set uint64, n int64) (int64, bool) {
		rest := set >> n << n
		return int64(bits.TrailingZeros64(rest)), rest != 0
	}
	if c.hours>>h&1 == 1 {
		if c.minutes>>m&1 == 1 {
			if s, ok := from(c.seconds, s); ok {
				return h*hour + m*minute + s, true
			}
		}
		if m, ok := from(c.minutes, m+1); ok {
			return h*hour + m*minute + c.first%minute, true
		}
	}
	if h, ok := from(c.hours, h+1); ok {
		return h*hour + c.first%hour, true
	}
	return 0, false
}

// on returns the days of a month that match, as bits from 1.
func (c *cron) on(y, m int) uint64 {
	if c.months>>m&1 == 0 {
		return 0
	}
	return c.in(shapeOf(y, m))
}

// in returns the days that match in a month of that shape: as cron has it, a day
// that either field names, or, where one of them begins with *, one that both have.
func (c *cron) in(month shape) uint64 {
	days, weekdays := c.days.in(month), c.weekdays.in(month)
	if c.days.any || c.weekdays.any {
		return days & weekdays
	}
	return days | weekdays
}

// isNever looks at each of the fourteen years that there are: with 365 days or 366,
// beginning on each day of the week.
func (c *cron) isNever() bool {
	for start := range 7 {
		for _, leap := range []bool{false, true} {
			weekday := start
			for m := 1; m <= 12; m++ {
				month := shape{length: monthLength(m, leap), first: weekday}
				if c.months>>m&1 == 1 && c.in(month) != 0 {
					return false
				}
				weekday = (weekday + month.length) % 7
			}
		}
	}
	return true
}

func (c *cron) String() string {
	if c.zone == time.UTC {
		return "cron:" + c.text
	}
	return "cron:TZ=" + c.zone.String() + " " + c.text
}

// stretch is a time during which a zone's offset is the same, from start to before
// end, in seconds.
type stretch struct{ start, end, offset int64 }

func stretchAt(zone *time.Location, sec int64) stretch {
	const ever = 1 << 60
	if zone == time.UTC {
		return stretch{start: -ever, end: ever}
	}
	t := time.Unix(sec, 0).In(zone)
	_, offset := t.Zone()
	s := stretch{start: -ever, end: ever, offset: int64(offset)}
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		s.start = start.Unix()
	}
	if !end.IsZero() {
		s.end = end.Unix()
	}
	// Past the zone's last listed change ZoneBounds goes by a rule, year by year, and
	// takes each for one of 365 days: on the last day of a leap year it gives an end
	// that has passed. No rule changes the clock there.
	if s.end <= sec {
		s.end = (floorDiv(sec, day) + 1) * day
	}
	return s
}
