package schedule

import "math/bits"

// monthDays is the field "day of month".
type monthDays struct {
	any     bool   // begins with *: it narrows the days of the week instead of adding to them
	plain   uint64 // bit n: day n
	fromEnd uint64 // bit n: n days before the last day
	nearest uint64 // bit n: the weekday nearest to day n, within the month
	lastW   bool   // the last weekday
}

func (f monthDays) in(month shape) uint64 {
	set := f.plain & month.all()
	for rest := f.fromEnd; rest != 0; rest &= rest - 1 {
		if d := month.length - bits.TrailingZeros64(rest); d >= 1 {
			set |= 1 << d
		}
	}
	for rest := f.nearest; rest != 0; rest &= rest - 1 {
		if d := bits.TrailingZeros64(rest); d <= month.length {
			set |= 1 << month.nearestWeekday(d)
		}
	}
	if f.lastW {
		set |= 1 << month.nearestWeekday(month.length)
	}
	return set
}

// weekDays is the field "day of week"; 0 is Sunday.
type weekDays struct {
	any   bool      // begins with *
	plain uint64    // bit n: each such day
	last  uint64    // bit n: the last such day of the month
	nth   [6]uint64 // [i] bit n: the i-th such day of the month
}

func (f weekDays) in(month shape) uint64 {
	const everyDay = 1<<7 - 1
	if f.plain == everyDay {
		return month.all()
	}
	var set uint64
	for rest := f.plain; rest != 0; rest &= rest - 1 {
		const everyWeek = 1<<0 | 1<<7 | 1<<14 | 1<<21 | 1<<28
		set |= everyWeek << month.firstOf(bits.TrailingZeros64(rest))
	}
	for rest := f.last; rest != 0; rest &= rest - 1 {
		d := month.firstOf(bits.TrailingZeros64(rest))
		set |= 1 << (d + (month.length-d)/7*7)
	}
	for i, nth := range f.nth {
		for rest := nth; rest != 0; rest &= rest - 1 {
			set |= 1 << (month.firstOf(bits.TrailingZeros64(rest)) + 7*(i-1))
		}
	}
	return set & month.all()
}

// shape is all that matters of a month: how long it is, and the day of the week on
// which it begins.
type shape struct{ length, first int }

func shapeOf(y, m int) shape {
	return shape{length: monthLength(m, isLeap(y)), first: weekdayOf(daysSince(y, m, 1))}
}

// all has a bit for each day of the month.
func (s shape) all() uint64 { return (1<<s.length - 1) << 1 }

// firstOf returns the first day of the month that is a given day of the week.
func (s shape) firstOf(weekday int) int { return (weekday-s.first+7)%7 + 1 }

// nearestWeekday returns the day from Monday to Friday nearest to d that is in the
// month.
func (s shape) nearestWeekday(d int) int {
	switch (s.first + d - 1) % 7 {
	case 6: // Saturday
		if d == 1 {
			return 3
		}
		return d - 1
	case 0: // Sunday
		if d == s.length {
			return d - 2
		}
		return d + 1
	}
	return d
}

func isLeap(y int) bool { return y%4 == 0 && (y%100 != 0 || y%400 == 0) }

func monthLength(m int, leap bool) int {
	switch m {
	case 2:
		if leap {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// weekdayOf takes days since 1970-01-01, a Thursday.
func weekdayOf(days int64) int {
	return int(((days+4)%7 + 7) % 7)
}

// daysSince counts days since 1970-01-01. Years begin in March in it, so that a
// leap day is a year's last one.
func daysSince(y, m, d int) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	era := floorDiv(int64(y), 400)
	yearOfEra := int64(y) - era*400
	dayOfYear := int64(153*(m-3)+2)/5 + int64(d) - 1
	return era*146097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719468
}

// civil is the reverse of daysSince.
func civil(days int64) (y, m, d int) {
	days += 719468
	era := floorDiv(days, 146097)
	dayOfEra := days - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	month := (5*dayOfYear + 2) / 153
	y, m, d = int(yearOfEra+era*400), int(month)+3, int(dayOfYear-(153*month+2)/5)+1
	if m > 12 {
		y, m = y+1, m-12
	}
	return y, m, d
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
