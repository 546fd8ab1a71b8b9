package schedule

import (
	"math/bits"
	"strconv"
	"strings"
)

const wantCron = "five fields (minute, hour, day of month, month, day of week), six with the second before them, or a name such as @daily"

// The fields of a cron, in the order in which they are written.
var cronFields = [...]cronField{
	{name: "second", min: 0, max: 59},
	{name: "minute", min: 0, max: 59},
	{name: "hour", min: 0, max: 23},
	{name: "day of month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, names: "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"},
	{name: "day of week", min: 0, max: 6, names: "SUNMONTUEWEDTHUFRISAT"},
}

type cronField struct {
	name     string
	min, max int
	names    string // of three letters each, the first one for min
}

// cronName returns the fields that a name stands for.
func cronName(name string) (string, error) {
	switch strings.ToLower(name) {
	case "@yearly", "@annually":
		return "0 0 1 1 *", nil
	case "@monthly":
		return "0 0 1 * *", nil
	case "@weekly":
		return "0 0 * * 0", nil
	case "@daily", "@midnight":
		return "0 0 * * *", nil
	case "@hourly":
		return "0 * * * *", nil
	}
	return "", wrong("cron", name, "@yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly")
}

func newCron(d Definition, l *Loader) (Spec, error) {
	if len(d.Cron) > longestText {
		return nil, wrong("cron", d.Cron, "at most "+strconv.Itoa(longestText)+" bytes")
	}
	zone, err := l.zone(d.Timezone)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(d.Cron)
	if strings.HasPrefix(text, "@") {
		if text, err = cronName(text); err != nil {
			return nil, err
		}
	}
	c := &cron{zone: zone}
	if err := c.parse(strings.Fields(strings.ToUpper(text))); err != nil {
		return nil, err
	}
	c.never = c.isNever()
	return c, nil
}

// parse reads the fields. A cron without seconds fires at second 0.
func (c *cron) parse(fields []string) error {
	c.text = strings.Join(fields, " ")
	c.seconds = 1
	if len(fields) < 5 || len(fields) > 6 {
		return wrong("cron", c.text, wantCron)
	}
	var steps [len(cronFields)]bool // *, or * with a step
	for i, text := range fields {
		i += len(cronFields) - len(fields)
		set, err := cronFields[i].parse(c, text)
		if err != nil {
			return err
		}
		steps[i] = set.whole
		switch cronFields[i].name {
		case "second":
			c.seconds = set.bits
		case "minute":
			c.minutes = set.bits
		case "hour":
			c.hours = set.bits
		case "day of month":
			c.days.plain, c.days.any = set.bits, set.star
		case "month":
			c.months = set.bits
		case "day of week":
			c.weekdays.plain, c.weekdays.any = set.bits, set.star
		}
	}
	c.first = int64(bits.TrailingZeros64(c.hours))*hour +
		int64(bits.TrailingZeros64(c.minutes))*minute + int64(bits.TrailingZeros64(c.seconds))
	const allHours = 1<<24 - 1
	c.elapsed = c.hours == allHours || steps[2] && steps[1]
	return nil
}

// fieldSet is what a field matches, apart from what only days have.
type fieldSet struct {
	bits  uint64
	star  bool // begins with * or ?
	whole bool // is one item, over all there is, with or without a step
}

// parse reads a field: items with commas between them.
func (f cronField) parse(c *cron, text string) (fieldSet, error) {
	set := fieldSet{star: text[0] == '*' || text[0] == '?'}
	items := 0
	for item := range strings.SplitSeq(text, ",") {
		items++
		special, err := f.special(c, item)
		if special || err != nil {
			if err != nil {
				return set, err
			}
			continue
		}
		low, high, step, err := f.item(item)
		if err != nil {
			return set, err
		}
		set.whole = low == f.min && high == f.max
		for n := low; n <= high; n += step {
			if f.name == "day of week" {
				set.bits |= 1 << (n % 7)
				continue
			}
			set.bits |= 1 << n
		}
	}
	set.whole = set.whole && items == 1
	return set, nil
}

// item reads *, ?, n, n-m, and each of them with a step.
func (f cronField) item(text string) (low, high, step int, err error) {
	base, stepText, stepped := strings.Cut(text, "/")
	step = 1
	if stepped {
		if step, err = number(stepText); err != nil || step < 1 || step > f.max-f.min {
			return 0, 0, 0, wrong(f.name, text, "a step from 1 to "+strconv.Itoa(f.max-f.min))
		}
	}
	if base == "*" || base == "?" && strings.HasPrefix(f.name, "day") {
		return f.min, f.max, step, nil
	}
	from, to, ranged := strings.Cut(base, "-")
	if low, err = f.value(from); err != nil {
		return 0, 0, 0, wrong(f.name, text, f.want())
	}
	high = low
	switch {
	case ranged:
		if high, err = f.value(to); err != nil {
			return 0, 0, 0, wrong(f.name, text, f.want())
		}
		if high == 0 && low > 0 && f.name == "day of week" {
			high = 7 // SAT-SUN
		}
	case stepped:
		high = f.max
	}
	if high < low {
		return 0, 0, 0, wrong(f.name, text, "a range that ends after it begins")
	}
	return low, high, step, nil
}

// value reads a number or a name.
func (f cronField) value(text string) (int, error) {
	if i := strings.Index(f.names, text); len(text) == 3 && i >= 0 && i%3 == 0 {
		return f.min + i/3, nil
	}
	n, err := number(text)
	limit := f.max
	if f.name == "day of week" {
		limit = 7 // Sunday, as 0 is
	}
	if err != nil || n < f.min || n > limit {
		return 0, wrong(f.name, text, f.want())
	}
	return n, nil
}

func (f cronField) want() string {
	text := "numbers from " + strconv.Itoa(f.min) + " to " + strconv.Itoa(f.max)
	switch f.name {
	case "day of month":
		return text + ", ranges, lists, steps, L (the last), L-3, 15W (the nearest weekday) or LW"
	case "month":
		return text + " or JAN to DEC, ranges, lists or steps"
	case "day of week":
		return "numbers from 0 to 7 or SUN to SAT, ranges, lists, steps, FRI#2 (the second) or FRIL (the last)"
	}
	return text + ", ranges, lists or steps"
}

// number reads one or two digits: no more are needed, and none overflow.
func number(text string) (int, error) {
	if len(text) > 2 || strings.ContainsAny(text, "+-") {
		return 0, strconv.ErrRange
	}
	return strconv.Atoi(text)
}

// special reads the forms that only days have, and tells whether it was one.
func (f cronField) special(c *cron, item string) (bool, error) {
	switch f.name {
	case "day of month":
		return f.specialDay(&c.days, item)
	case "day of week":
		return f.specialWeekday(&c.weekdays, item)
	}
	return false, nil
}

func (f cronField) specialDay(days *monthDays, item string) (bool, error) {
	if item == "L" {
		days.fromEnd |= 1
		return true, nil
	}
	if item == "LW" {
		days.lastW = true
		return true, nil
	}
	if text, ok := strings.CutPrefix(item, "L-"); ok {
		n, err := number(text)
		if err != nil || n < 1 || n > 30 {
			return false, wrong(f.name, item, "L-1 to L-30, days before the last")
		}
		days.fromEnd |= 1 << n
		return true, nil
	}
	if text, ok := strings.CutSuffix(item, "W"); ok {
		n, err := number(text)
		if err != nil || n < 1 || n > 31 {
			return false, wrong(f.name, item, "1W to 31W, or LW")
		}
		days.nearest |= 1 << n
		return true, nil
	}
	return false, nil
}

func (f cronField) specialWeekday(days *weekDays, item string) (bool, error) {
	if text, nth, ok := strings.Cut(item, "#"); ok {
		weekday, err := f.value(text)
		n, err2 := number(nth)
		if err != nil || err2 != nil || n < 1 || n > 5 {
			return false, wrong(f.name, item, "a day and which one of the month, 1 to 5, as in FRI#2")
		}
		days.nth[n] |= 1 << (weekday % 7)
		return true, nil
	}
	if text, ok := strings.CutSuffix(item, "L"); ok {
		weekday, err := f.value(text)
		if err != nil {
			return false, wrong(f.name, item, "a day of which it is the last in the month, as in FRIL")
		}
		days.last |= 1 << (weekday % 7)
		return true, nil
	}
	return false, nil
}
