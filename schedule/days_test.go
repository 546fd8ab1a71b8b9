package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// dayRule is one item of a field of days, and the days that it means.
type dayRule struct {
	text string
	on   func(time.Time) bool
}

func lastOf(t time.Time) int { return t.AddDate(0, 1, -t.Day()).Day() }

// nearestWeekday walks outward from a day, within its month.
func nearestWeekday(t time.Time, d int) int {
	for _, step := range []int{0, -1, 1, -2, 2} {
		day := time.Date(t.Year(), t.Month(), d+step, 0, 0, 0, 0, time.UTC)
		if day.Month() == t.Month() && day.Weekday() != time.Saturday && day.Weekday() != time.Sunday {
			return d + step
		}
	}
	return 0
}

func randomDay(r *rand.Rand) dayRule {
	n := 1 + r.IntN(31)
	switch r.IntN(6) {
	case 0:
		return dayRule{"L", func(t time.Time) bool { return t.Day() == lastOf(t) }}
	case 1:
		return dayRule{"LW", func(t time.Time) bool { return t.Day() == nearestWeekday(t, lastOf(t)) }}
	case 2:
		n := 1 + r.IntN(30)
		return dayRule{"L-" + strconv.Itoa(n), func(t time.Time) bool { return t.Day() == lastOf(t)-n }}
	case 3:
		return dayRule{strconv.Itoa(n) + "W", func(t time.Time) bool { return n <= lastOf(t) && t.Day() == nearestWeekday(t, n) }}
	case 4:
		high := n + r.IntN(32-n)
		return dayRule{fmt.Sprintf("%d-%d", n, high), func(t time.Time) bool { return n <= t.Day() && t.Day() <= high }}
	}
	return dayRule{strconv.Itoa(n), func(t time.Time) bool { return t.Day() == n }}
}

func randomWeekday(r *rand.Rand) dayRule {
	n := r.IntN(8)
	is := func(t time.Time) bool { return int(t.Weekday()) == n%7 }
	switch r.IntN(4) {
	case 0:
		return dayRule{strconv.Itoa(n) + "L", func(t time.Time) bool { return is(t) && t.Day()+7 > lastOf(t) }}
	case 1:
		nth := 1 + r.IntN(5)
		return dayRule{fmt.Sprintf("%d#%d", n, nth), func(t time.Time) bool { return is(t) && (t.Day()+6)/7 == nth }}
	case 2:
		low := r.IntN(6)
		high := low + 1 + r.IntN(6-low)
		names := strings.Fields("SUN MON TUE WED THU FRI SAT")
		return dayRule{names[low] + "-" + names[high], func(t time.Time) bool {
			return low <= int(t.Weekday()) && int(t.Weekday()) <= high
		}}
	}
	return dayRule{strconv.Itoa(n), is}
}

// field joins a few items; or it is all days, or every other one.
func dayField(r *rand.Rand, item func(*rand.Rand) dayRule, step dayRule) (rule dayRule, star bool) {
	switch r.IntN(4) {
	case 0:
		return dayRule{"*", func(time.Time) bool { return true }}, true
	case 1:
		return step, true
	}
	var rules []dayRule
	var texts []string
	for range 1 + r.IntN(2) {
		rules = append(rules, item(r))
		texts = append(texts, rules[len(rules)-1].text)
	}
	return dayRule{strings.Join(texts, ","), func(t time.Time) bool {
		return slices.ContainsFunc(rules, func(rule dayRule) bool { return rule.on(t) })
	}}, false
}

// Every kind of day, and both ways in which two fields of days go together, against
// a walk through the calendar.
func TestDaysAgainstTheCalendar(t *testing.T) {
	r := rand.New(rand.NewPCG(28, 29))
	evenOnes := dayRule{"*/2", func(t time.Time) bool { return t.Day()%2 == 1 }}
	everyThird := dayRule{"*/3", func(t time.Time) bool { return t.Weekday()%3 == 0 }}
	for range 200 {
		days, dayStar := dayField(r, randomDay, evenOnes)
		weekdays, weekdayStar := dayField(r, randomWeekday, everyThird)
		months, monthText := func(time.Time) bool { return true }, "*"
		if r.IntN(2) == 0 {
			n := time.Month(1 + r.IntN(12))
			months, monthText = func(t time.Time) bool { return t.Month() == n }, n.String()[:3]
		}
		text := fmt.Sprintf("0 0 %s %s %s", days.text, monthText, weekdays.text)
		spec, err := schedule.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		day := time.Date(1995+r.IntN(105), 1, 1, 0, 0, 0, 0, time.UTC)
		last := day.Add(-time.Second)
		for end := day.AddDate(5, 0, 0); day.Before(end); day = day.AddDate(0, 0, 1) {
			on := days.on(day) || weekdays.on(day)
			if dayStar || weekdayStar {
				on = days.on(day) && weekdays.on(day)
			}
			if !on || !months(day) {
				continue
			}
			if next, ok := spec.Next(last); !ok || !next.Equal(day) {
				t.Fatalf("%s: after %v comes %v, %v, want %v", text, last, next, ok, day)
			}
			last = day
		}
		if next, ok := spec.Next(last); ok && next.Before(day) {
			t.Fatalf("%s: after %v comes %v, want none until %v", text, last, next, day)
		}
	}
}

// What is far away is found, and what never comes is known.
func TestFarAndNever(t *testing.T) {
	from := time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"0 0 29 2 *":     "2104-02-29", // 2100 has none
		"0 0 29 2 */6":   "2116-02-29", // a Saturday
		"0 0 L-28 2 *":   "2104-02-01",
		"0 0 31W 1 *":    "2097-01-31",
		"0 0 30 2 *":     "",
		"0 0 30,31 2 *":  "",
		"0 0 31 4,6 *":   "",
		"0 0 L-29 2 *":   "",
		"0 0 31W 9 *":    "",
		"0 0 */30 2 7#5": "",
	} {
		spec, err := schedule.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		next, ok := spec.Next(from)
		if ok != (want != "") || ok && next.Format(time.DateOnly) != want {
			t.Errorf("%s: %v, %v, want %q", text, next, ok, want)
		}
		if never := strings.Contains(spec.Describe(), "never"); never != (want == "") {
			t.Errorf("%s: %s", text, spec.Describe())
		}
	}
}
