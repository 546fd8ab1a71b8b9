package schedule

import (
	"math"
	"strconv"
	"time"
)

// LongestOffset is the farthest that a solar spec may be moved from the sun's moment.
const LongestOffset = 24 * time.Hour

// solar fires once in each solar day, from one midnight of the sun to the next, in
// which its event happens. Above the polar circles there are days without.
//
// The equations are those of NOAA's solar calculator, after Jean Meeus, Astronomical
// Algorithms: within a minute between the polar circles, for the centuries around
// ours. Heights, pressure and temperature of a place are not known, and the horizon
// is the sea's.
type solar struct {
	event               event
	latitude, longitude float64 // degrees
	offset              time.Duration
}

// event is one of the sun's moments.
type event struct {
	name   string
	zenith float64 // degrees of the sun's centre from the vertical at that moment
	side   float64 // -1: in the morning, 1: in the evening, 0: noon
}

// At sunrise and sunset the sun's upper edge is on the horizon: half a degree less a
// little for its size, and the air bends the light by 34 minutes of arc.
var events = [...]event{
	{name: "dawn", zenith: 96, side: -1},
	{name: "sunrise", zenith: 90.833, side: -1},
	{name: "noon", zenith: 0, side: 0},
	{name: "sunset", zenith: 90.833, side: 1},
	{name: "dusk", zenith: 96, side: 1},
}

func wantDegrees(field string) string {
	limit := "90"
	if field == "longitude" {
		limit = "180"
	}
	return "degrees from -" + limit + " to " + limit + ", as in 52.52"
}

func newSolar(d Definition) (Spec, error) {
	if !(math.Abs(d.Latitude) <= 90) { // NaN is not either
		return nil, wrong("latitude", degreesText(d.Latitude), wantDegrees("latitude"))
	}
	if !(math.Abs(d.Longitude) <= 180) {
		return nil, wrong("longitude", degreesText(d.Longitude), wantDegrees("longitude"))
	}
	if d.Offset.Abs() > LongestOffset || d.Offset%time.Millisecond != 0 {
		return nil, wrong("offset", d.Offset.String(), "whole milliseconds, at most 24h either way, as in -15m")
	}
	for _, e := range events {
		if e.name == d.Solar {
			return solar{event: e, latitude: d.Latitude, longitude: d.Longitude, offset: d.Offset}, nil
		}
	}
	return nil, wrong("solar", d.Solar, "dawn, sunrise, noon, sunset or dusk")
}

const (
	// nearPole is the latitude from which on the sun rises and sets with the year and
	// not with the day: half a degree is 56 km.
	nearPole = 89.5

	// fastest is more than the sun's declination ever changes in a day, in degrees.
	fastest = 0.41

	degree = math.Pi / 180
)

// Next goes from one solar day to the next. In polar day and night it leaps over
// the days for which the sun would have to move faster than it can.
func (s solar) Next(after time.Time) (time.Time, bool) {
	after, ok := within(after)
	if !ok || s.event.side != 0 && math.Abs(s.latitude) > nearPole {
		return time.Time{}, false
	}
	n := floorDiv(after.Unix()-int64(s.offset/time.Second)+int64(s.longitude*240), day) - 1
	for last := n + 2*366; n <= last; {
		noon := s.noon(n)
		if !time.Unix(noon+day/2, 0).Add(s.offset).After(after) {
			n++ // it is over
			continue
		}
		at, wait := s.on(noon)
		if wait > 0 {
			n += wait
			continue
		}
		if next := time.Unix(at, 0).UTC().Add(s.offset); next.After(after) {
			_, ok := within(next)
			return next, ok
		}
		n++
	}
	return time.Time{}, false
}

// noon returns the second in which the sun is highest, on the n-th solar day after
// that of 1970-01-01.
func (s solar) noon(n int64) int64 {
	mean := float64(n*day+day/2) - s.longitude*240
	at := mean
	for range 2 {
		_, equation := sun(at)
		at = mean - equation
	}
	return int64(math.Round(at))
}

// on returns the second of the event on the solar day around a noon; or the number
// of days to wait, when that day has none.
func (s solar) on(noon int64) (at, wait int64) {
	if s.event.side == 0 {
		return noon, 0
	}
	low, high := noon-day/2, noon
	if s.event.side > 0 {
		low, high = noon, noon+day/2
	}
	midnight := noon + int64(s.event.side)*day/2
	horizon := 90 - s.event.zenith
	short := max(horizon-s.height(noon), s.height(midnight)-horizon)
	if short >= 0 {
		return 0, max(1, int64(short/fastest))
	}
	up := s.event.side < 0 // from low to high the sun goes up
	for low+1 < high {
		middle := (low + high) / 2
		if (s.height(middle) >= horizon) == up {
			high = middle
		} else {
			low = middle
		}
	}
	return high, 0
}

// height returns the degrees of the sun's centre above the horizon, without what the
// air adds.
func (s solar) height(sec int64) float64 {
	at := float64(sec)
	declination, equation := sun(at)
	angle := ((at-math.Floor(at/day)*day+equation)/240 + s.longitude - 180) * degree
	latitude := s.latitude * degree
	sine := math.Sin(latitude)*math.Sin(declination) + math.Cos(latitude)*math.Cos(declination)*math.Cos(angle)
	return math.Asin(min(max(sine, -1), 1)) / degree
}

// sun returns where the sun is, sec seconds after 1970 began: its declination, in
// radians, and the equation of time, in seconds, by which a sundial is ahead of a
// clock.
func sun(sec float64) (declination, equation float64) {
	t := (sec/day + 2440587.5 - 2451545) / 36525 // Julian centuries since 2000
	meanLongitude := math.Mod(280.46646+t*(36000.76983+t*0.0003032), 360) * degree
	anomaly := math.Mod(357.52911+t*(35999.05029-t*0.0001537), 360) * degree
	eccentricity := 0.016708634 - t*(0.000042037+t*0.0000001267)
	center := math.Sin(anomaly)*(1.914602-t*(0.004817+t*0.000014)) +
		math.Sin(2*anomaly)*(0.019993-t*0.000101) + math.Sin(3*anomaly)*0.000289
	node := (125.04 - 1934.136*t) * degree
	longitude := meanLongitude + (center-0.00569-0.00478*math.Sin(node))*degree
	obliquity := 23 + (26+(21.448-t*(46.815+t*(0.00059-t*0.001813)))/60)/60
	tilt := (obliquity + 0.00256*math.Cos(node)) * degree

	y := math.Tan(tilt / 2)
	y *= y
	angle := y*math.Sin(2*meanLongitude) - 2*eccentricity*math.Sin(anomaly) +
		4*eccentricity*y*math.Sin(anomaly)*math.Cos(2*meanLongitude) -
		y*y*math.Sin(4*meanLongitude)/2 - 5*eccentricity*eccentricity*math.Sin(2*anomaly)/4
	return math.Asin(math.Sin(tilt) * math.Sin(longitude)), angle / degree * 240
}

func (s solar) String() string {
	text := "solar:" + s.event.name + "@" + degreesText(s.latitude) + "," + degreesText(s.longitude)
	if s.offset > 0 {
		text += "+"
	}
	if s.offset != 0 {
		text += durationText(s.offset)
	}
	return text
}

func (s solar) Describe() string {
	text := "At " + s.event.name
	switch {
	case s.offset > 0:
		text = oneOrMore(s.offset) + " after " + s.event.name
	case s.offset < 0:
		text = oneOrMore(-s.offset) + " before " + s.event.name
	}
	text += ", at " + degreesText(math.Abs(s.latitude)) + "° " + side(s.latitude, "N", "S") +
		" " + degreesText(math.Abs(s.longitude)) + "° " + side(s.longitude, "E", "W")
	if s.event.side != 0 && math.Abs(s.latitude) > nearPole {
		text += " (never: the pole is too near)"
	}
	return text
}

func oneOrMore(d time.Duration) string {
	words := durationWords(d)
	if words[0] < '0' || words[0] > '9' {
		return "1 " + words
	}
	return words
}

func side(degrees float64, positive, negative string) string {
	if degrees < 0 {
		return negative
	}
	return positive
}

func degreesText(degrees float64) string { return strconv.FormatFloat(degrees, 'f', -1, 64) }
