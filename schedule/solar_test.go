package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// The tables of the United States Naval Observatory, Astronomical Applications
// Department ("Table of Sunrise/Sunset, Moonrise/Moonset, or Twilight Times for an
// Entire Year", https://aa.usno.navy.mil/data/RS_OneYear), for time zone 0: what is of
// a date is of that date in UTC. They are rounded to minutes.
type place struct {
	name                string
	latitude, longitude float64
}

var (
	anchorage    = place{"Anchorage", 61.216667, -149.866667}
	auckland     = place{"Auckland", -36.833333, 174.8}
	brasilia     = place{"Brasilia", -15.8, -47.85}
	singapore    = place{"Singapore", 1.283333, 103.833333}
	longyearbyen = place{"Longyearbyen", 78.216667, 15.633333}
)

var published = []struct {
	place     place
	up, down  string // the events
	date      string
	rise, set string // empty: none on that day
}{
	{anchorage, "sunrise", "sunset", "2020-01-05", "19:11", "00:57"},
	{anchorage, "sunrise", "sunset", "2020-03-25", "15:43", "04:27"},
	{anchorage, "sunrise", "sunset", "2020-06-25", "12:22", "07:42"},
	{anchorage, "sunrise", "sunset", "2020-09-25", "15:53", "03:51"},
	{anchorage, "sunrise", "sunset", "2020-12-25", "19:15", "00:44"},
	{auckland, "sunrise", "sunset", "2020-01-05", "17:09", "07:44"},
	{auckland, "sunrise", "sunset", "2020-03-25", "18:29", "06:25"},
	{auckland, "sunrise", "sunset", "2020-06-25", "19:34", "05:13"},
	{auckland, "sunrise", "sunset", "2020-09-25", "18:04", "06:20"},
	{auckland, "sunrise", "sunset", "2020-12-25", "17:01", "07:41"},
	{brasilia, "sunrise", "sunset", "2020-01-05", "08:46", "21:48"},
	{brasilia, "sunrise", "sunset", "2020-03-25", "09:16", "21:18"},
	{brasilia, "sunrise", "sunset", "2020-06-25", "09:38", "20:50"},
	{brasilia, "sunrise", "sunset", "2020-09-25", "08:58", "21:08"},
	{brasilia, "sunrise", "sunset", "2020-12-25", "08:40", "21:44"},
	{singapore, "sunrise", "sunset", "2020-01-05", "23:09", "11:11"},
	{singapore, "sunrise", "sunset", "2020-03-25", "23:07", "11:14"},
	{singapore, "sunrise", "sunset", "2020-06-25", "23:02", "11:13"},
	{singapore, "sunrise", "sunset", "2020-09-25", "22:53", "10:59"},
	{singapore, "sunrise", "sunset", "2020-12-25", "23:04", "11:06"},
	{longyearbyen, "sunrise", "sunset", "2020-01-25", "", ""}, // polar night
	{longyearbyen, "sunrise", "sunset", "2020-03-25", "04:09", "18:02"},
	{longyearbyen, "sunrise", "sunset", "2020-06-25", "", ""}, // polar day
	{longyearbyen, "sunrise", "sunset", "2020-09-25", "04:53", "16:42"},
	{longyearbyen, "sunrise", "sunset", "2020-12-25", "", ""},
	{anchorage, "dawn", "dusk", "2020-01-05", "18:11", "01:58"},
	{anchorage, "dawn", "dusk", "2020-03-25", "14:59", "05:11"},
	{anchorage, "dawn", "dusk", "2020-06-25", "", ""}, // it is never that dark
	{anchorage, "dawn", "dusk", "2020-09-25", "15:10", "04:34"},
	{anchorage, "dawn", "dusk", "2020-12-25", "18:13", "01:46"},
	{auckland, "dawn", "dusk", "2023-01-05", "16:38", "08:14"},
	{auckland, "dawn", "dusk", "2023-03-25", "18:03", "06:52"},
	{auckland, "dawn", "dusk", "2023-06-25", "19:05", "05:42"},
	{auckland, "dawn", "dusk", "2023-09-25", "17:40", "06:45"},
	{singapore, "dawn", "dusk", "2023-01-05", "22:46", "11:34"},
	{singapore, "dawn", "dusk", "2023-03-25", "22:46", "11:35"},
	{singapore, "dawn", "dusk", "2023-06-25", "22:39", "11:36"},
	{singapore, "dawn", "dusk", "2023-09-25", "22:32", "11:20"},
}

func sun(t *testing.T, event string, p place) schedule.Spec {
	t.Helper()
	spec, err := schedule.Definition{Solar: event, Latitude: p.latitude, Longitude: p.longitude}.Spec()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestSunMatchesPublishedTables(t *testing.T) {
	for _, row := range published {
		midnight, err := time.Parse(time.DateOnly, row.date)
		if err != nil {
			t.Fatal(err)
		}
		for event, clock := range map[string]string{row.up: row.rise, row.down: row.set} {
			name := fmt.Sprintf("%s of %s in %s", event, row.date, row.place.name)
			got, ok := sun(t, event, row.place).Next(midnight)
			if !ok {
				t.Errorf("%s: never", name)
				continue
			}
			if clock == "" {
				if got.Before(midnight.AddDate(0, 0, 1)) {
					t.Errorf("%s: %v, want none", name, got)
				}
				continue
			}
			want, err := time.Parse(time.DateOnly+" 15:04", row.date+" "+clock)
			if err != nil {
				t.Fatal(err)
			}
			if got.Sub(want).Abs() > time.Minute {
				t.Errorf("%s: %v, want %s within a minute", name, got, clock)
			}
		}
	}
}

// The sun is highest about halfway between its rise and its set.
func TestNoonIsHalfway(t *testing.T) {
	for _, row := range published {
		if row.rise == "" || row.up != "sunrise" || row.place == longyearbyen {
			continue
		}
		midnight, _ := time.Parse(time.DateOnly, row.date)
		rise, _ := sun(t, "sunrise", row.place).Next(midnight)
		set, _ := sun(t, "sunset", row.place).Next(rise)
		noon, _ := sun(t, "noon", row.place).Next(rise)
		if off := noon.Sub(rise.Add(set.Sub(rise) / 2)).Abs(); off > 2*time.Minute {
			t.Errorf("noon of %s in %s is %v from halfway", row.date, row.place.name, off)
		}
	}
}

// In Longyearbyen the sun does not set from the 19th of April to the 23rd of August,
// and does not rise from the 26th of October to the 15th of February, give or take a
// day: so say its tables.
func TestPolarDayAndNight(t *testing.T) {
	tests := []struct{ event, from, next string }{
		{"sunset", "2020-04-20", "2020-08-2"},
		{"sunrise", "2020-04-20", "2020-08-2"},
		{"sunrise", "2020-10-27", "2021-02-1"},
		{"sunset", "2020-10-27", "2021-02-1"},
	}
	for _, tt := range tests {
		from, _ := time.Parse(time.DateOnly, tt.from)
		spec := sun(t, tt.event, longyearbyen)
		next, ok := spec.Next(from)
		if !ok || next.Format(time.DateOnly)[:len(tt.next)] != tt.next {
			t.Errorf("%s after %s: %v, want %s…", tt.event, tt.from, next, tt.next)
		}
		if remark := schedule.Remark(spec, next); remark == "" {
			t.Errorf("%s at %v: nothing is said about the polar day or night before", tt.event, next)
		}
		after, _ := spec.Next(next)
		if remark := schedule.Remark(spec, after); remark != "" {
			t.Errorf("%s at %v: %q, though there was one the day before", tt.event, after, remark)
		}
	}
	for _, latitude := range []float64{-90, 90, 89.9} {
		spec := sun(t, "sunset", place{latitude: latitude})
		if next, ok := spec.Next(time.Unix(0, 0)); ok {
			t.Errorf("a sunset at latitude %v: %v", latitude, next)
		}
		if noon, ok := sun(t, "noon", place{latitude: latitude}).Next(time.Unix(0, 0)); !ok {
			t.Errorf("no noon at latitude %v: %v", latitude, noon)
		}
	}
}

// Every place has each event once a solar day, or not at all.
func TestSunKeepsItsDays(t *testing.T) {
	for latitude, longitude := range map[float64]float64{-89: 13.4, -66: 180, -33: -180, 0: 0, 52: -75.5, 66.5: 25, 78: -15, 89: 120} {
		for _, event := range []string{"dawn", "sunrise", "noon", "sunset", "dusk"} {
			spec := sun(t, event, place{latitude: latitude, longitude: longitude})
			last := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
			for i, at := range schedule.Moments(spec, last, 370) {
				// Near polar day and night a sunset may come hours sooner than the last.
				if step := at.Sub(last); i > 0 && step < 18*time.Hour {
					t.Fatalf("%v: %v is %v after the last", spec, at, step)
				}
				last = at
				if i%10 != 0 {
					continue
				}
				if again, ok := spec.Next(at.Add(-time.Millisecond)); !ok || !again.Equal(at) {
					t.Fatalf("%v: %v, and from just before it %v", spec, at, again)
				}
			}
		}
	}
}

func TestSolarOffset(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	plain := sun(t, "sunset", place{latitude: 52.52, longitude: 13.4})
	for _, offset := range []time.Duration{-24 * time.Hour, -15 * time.Minute, time.Millisecond, 90 * time.Minute, 24 * time.Hour} {
		spec, err := schedule.Definition{Solar: "sunset", Latitude: 52.52, Longitude: 13.4, Offset: offset}.Spec()
		if err != nil {
			t.Fatal(err)
		}
		want, _ := plain.Next(from.Add(-offset))
		if got, _ := spec.Next(from); !got.Equal(want.Add(offset)) {
			t.Errorf("%v: %v, want %v", spec, got, want.Add(offset))
		}
	}
}
