package schedule

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Describe says when, then on which days, in which months, and where.
func (c *cron) Describe() string {
	words := []string{c.clockWords()}
	words = append(words, c.dayWords()...)
	const allMonths = 1<<13 - 2
	if c.months != allMonths {
		months := inWords(c.months, func(m int) string { return time.Month(m).String() })
		if !strings.Contains(months, " to ") {
			months = "in " + months
		}
		words = append(words, months)
	}
	words = append(words, c.zone.String())
	text := strings.Join(words, ", ")
	if c.never {
		text += " (never: there is no such day)"
	}
	return text
}

// mostTimes is how many times of a day are told one by one.
const mostTimes = 6

// clockWords describes the time of the day.
func (c *cron) clockWords() string {
	times := bits.OnesCount64(c.hours) * bits.OnesCount64(c.minutes) * bits.OnesCount64(c.seconds)
	if times <= mostTimes {
		return "At " + c.timesWords()
	}
	const allHours = 1<<24 - 1
	onlyZero := c.seconds == 1
	switch {
	case onlyZero && c.minutes == 1 && c.hours == allHours:
		return "Every hour, on the hour"
	case onlyZero && c.minutes == 1:
		return "On the hour, " + c.hourWords(false)
	}
	var words []string
	if !onlyZero {
		words = append(words, unitWords(c.seconds, "second"))
	}
	// Every second is every second of each minute; no need to say so.
	const sixty = 1<<60 - 1
	if onlyZero || c.minutes != sixty {
		words = append(words, unitWords(c.minutes, "minute"))
	}
	text := strings.Join(words, " of ")
	switch {
	case c.hours != allHours:
		text += ", " + c.hourWords(true)
	case strings.Contains(text, "minute ") || strings.HasPrefix(text, "minutes "):
		text += " of every hour"
	}
	if !strings.HasPrefix(text, "every") {
		text = "at " + text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// timesWords lists the times of a day that has few.
func (c *cron) timesWords() string {
	var times []string
	for t, ok := c.clock(0); ok; t, ok = c.clock(t + 1) {
		text := fmt.Sprintf("%02d:%02d", t/hour, t%hour/minute)
		if c.seconds != 1 {
			text += fmt.Sprintf(":%02d", t%minute)
		}
		times = append(times, text)
	}
	return andWords(times)
}

// hourWords describes hours: as a span if they are one, whose last hour counts to
// its end where the moments go on in it.
func (c *cron) hourWords(through bool) string {
	low := bits.TrailingZeros64(c.hours)
	high := bits.Len64(c.hours) - 1
	if n := bits.OnesCount64(c.hours); n > 1 && n == high-low+1 {
		last := 0
		if through {
			last = bits.Len64(c.minutes) - 1
		}
		return fmt.Sprintf("from %02d:00 to %02d:%02d", low, high, last)
	}
	if step := stepOf(c.hours, 24); step > 1 {
		return fmt.Sprintf("every %d hours", step)
	}
	if low == high {
		return fmt.Sprintf("from %02d:00 to %02d:%02d", low, high, bits.Len64(c.minutes)-1)
	}
	return "in the hours " + inWords(c.hours, strconv.Itoa)
}

// unitWords describes seconds or minutes: "every 15 minutes", "minute 30".
func unitWords(set uint64, unit string) string {
	switch step := stepOf(set, 60); {
	case step == 1:
		return "every " + unit
	case step > 1:
		return fmt.Sprintf("every %d %ss", step, unit)
	case bits.OnesCount64(set) == 1:
		return unit + " " + strconv.Itoa(bits.TrailingZeros64(set))
	}
	return unit + "s " + inWords(set, strconv.Itoa)
}

// stepOf returns n when the set is 0, n, 2n and so on, and goes on evenly in the
// next hour or day; else 0.
func stepOf(set uint64, size int) int {
	n := bits.OnesCount64(set)
	if n < 2 || size%n != 0 {
		return 0
	}
	step := size / n
	for i := 0; i < size; i += step {
		if set>>i&1 == 0 {
			return 0
		}
	}
	return step
}

// dayWords describes the days; nothing when it is every day.
func (c *cron) dayWords() []string {
	days, weekdays := c.days.words(), c.weekdays.words()
	switch {
	case days == "" && weekdays == "":
		return nil
	case days == "" && c.days.any:
		return []string{weekdays}
	case weekdays == "" && c.weekdays.any:
		return []string{days}
	case days == "" || weekdays == "": // all of them, written without *: either is enough
		return nil
	case c.days.any || c.weekdays.any:
		return []string{days, "if it is " + strings.TrimPrefix(weekdays, "on ")}
	}
	return []string{days + " or " + weekdays}
}

func (f monthDays) words() string {
	const all = 1<<32 - 2
	if f.plain == all {
		return ""
	}
	var words []string
	switch bits.OnesCount64(f.plain) {
	case 0:
	case 1:
		words = append(words, "day "+inWords(f.plain, strconv.Itoa))
	default:
		words = append(words, "days "+inWords(f.plain, strconv.Itoa))
	}
	for rest := f.nearest; rest != 0; rest &= rest - 1 {
		words = append(words, fmt.Sprintf("the weekday nearest to day %d", bits.TrailingZeros64(rest)))
	}
	for rest := f.fromEnd; rest != 0; rest &= rest - 1 {
		switch n := bits.TrailingZeros64(rest); n {
		case 0:
			words = append(words, "the last day")
		case 1:
			words = append(words, "the last day but one")
		default:
			words = append(words, fmt.Sprintf("the last day but %d", n))
		}
	}
	if f.lastW {
		words = append(words, "the last weekday")
	}
	return "on " + andWords(words) + " of the month"
}

func (f weekDays) words() string {
	const all = 1<<7 - 1
	if f.plain == all {
		return ""
	}
	name := func(d int) string { return time.Weekday(d).String() }
	var special []string
	for i, nth := range f.nth {
		for rest := nth; rest != 0; rest &= rest - 1 {
			ordinals := [...]string{1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
			special = append(special, "the "+ordinals[i]+" "+name(bits.TrailingZeros64(rest)))
		}
	}
	for rest := f.last; rest != 0; rest &= rest - 1 {
		special = append(special, "the last "+name(bits.TrailingZeros64(rest)))
	}
	plain := f.plain
	if plain&1 == 1 { // a week is told from its Monday
		plain = plain&^1 | 1<<7
	}
	text := inWords(plain, func(d int) string { return name(d % 7) })
	switch {
	case len(special) == 0 && strings.Contains(text, " to "):
		return text
	case len(special) == 0:
		return "on " + text
	case text != "":
		special = append([]string{text}, special...)
	}
	return "on " + andWords(special) + " of the month"
}

// inWords tells a set of numbers by their names, three or more in a row as a span.
func inWords(set uint64, name func(int) string) string {
	var words []string
	for set != 0 {
		low := bits.TrailingZeros64(set)
		n := bits.TrailingZeros64(^(set >> low))
		high := low + n - 1
		switch {
		case n >= 3:
			words = append(words, name(low)+" to "+name(high))
		case n == 2:
			words = append(words, name(low), name(high))
		default:
			words = append(words, name(low))
		}
		set = set >> (high + 1) << (high + 1)
	}
	return andWords(words)
}

func andWords(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
