package schedule_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

func TestDescribe(t *testing.T) {
	tests := []struct{ text, want string }{
		{"every:5m", "Every 5 minutes"},
		{"every:1m", "Every minute"},
		{"every:1h30m", "Every 1 hour 30 minutes"},
		{"every:36h", "Every 1 day 12 hours"},
		{"every:1h@2026-01-01T00:20:00Z", "Every hour, counted from 2026-01-01 00:20:00 UTC"},
		{"clocked:2027-01-01T00:00:00+01:00", "Once, at 2026-12-31 23:00:00 UTC"},
		{"cron:TZ=Europe/Berlin 0 2 * * MON-FRI", "At 02:00, Monday to Friday, Europe/Berlin"},
		{"* * * * *", "Every minute, UTC"},
		{"*/15 * * * *", "Every 15 minutes, UTC"},
		{"*/7 * * * *", "At minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour, UTC"},
		{"*/10 8-17 * * *", "Every 10 minutes, from 08:00 to 17:50, UTC"},
		{"* 2 * * *", "Every minute, from 02:00 to 02:59, UTC"},
		{"* * * * * *", "Every second, UTC"},
		{"*/10 * * * * *", "Every 10 seconds, UTC"},
		{"30 0 2 * * *", "At 02:00:30, UTC"},
		{"@hourly", "Every hour, on the hour, UTC"},
		{"15 * * * *", "At minute 15 of every hour, UTC"},
		{"0 9-17 * * *", "On the hour, from 09:00 to 17:00, UTC"},
		{"0 */2 * * *", "On the hour, every 2 hours, UTC"},
		{"0,30 9,10 * * *", "At 09:00, 09:30, 10:00 and 10:30, UTC"},
		{"5,35 */2 * * *", "At minutes 5 and 35, every 2 hours, UTC"},
		{"@daily", "At 00:00, UTC"},
		{"@weekly", "At 00:00, on Sunday, UTC"},
		{"@monthly", "At 00:00, on day 1 of the month, UTC"},
		{"@yearly", "At 00:00, on day 1 of the month, in January, UTC"},
		{"0 9 * * MON,WED,FRI", "At 09:00, on Monday, Wednesday and Friday, UTC"},
		{"0 9 * * SAT-SUN", "At 09:00, on Saturday and Sunday, UTC"},
		{"0 9 * * 5-7", "At 09:00, Friday to Sunday, UTC"},
		{"0 9 L * *", "At 09:00, on the last day of the month, UTC"},
		{"0 9 L-1 * *", "At 09:00, on the last day but one of the month, UTC"},
		{"0 9 L-3 * *", "At 09:00, on the last day but 3 of the month, UTC"},
		{"0 9 LW * *", "At 09:00, on the last weekday of the month, UTC"},
		{"0 9 15W * *", "At 09:00, on the weekday nearest to day 15 of the month, UTC"},
		{"0 9 * * FRI#2", "At 09:00, on the second Friday of the month, UTC"},
		{"0 9 * * FRIL", "At 09:00, on the last Friday of the month, UTC"},
		{"0 9 13 * FRI", "At 09:00, on day 13 of the month or on Friday, UTC"},
		{"0 9 */10 * FRI", "At 09:00, on days 1, 11, 21 and 31 of the month, if it is Friday, UTC"},
		{"0 9 1-7 JUN-AUG ?", "At 09:00, on days 1 to 7 of the month, June to August, UTC"},
		{"0 0 30 2 *", "At 00:00, on day 30 of the month, in February, UTC (never: there is no such day)"},
		{"solar:sunset@52.52,13.4", "At sunset, at 52.52° N 13.4° E"},
		{"solar:sunset@-33.9,-70.6-15m", "15 minutes before sunset, at 33.9° S 70.6° W"},
		{"solar:dawn@52.52,13.4+1h", "1 hour after dawn, at 52.52° N 13.4° E"},
		{"solar:dusk@90,0", "At dusk, at 90° N 0° E (never: the pole is too near)"},
	}
	for _, tt := range tests {
		spec, err := schedule.Parse(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := spec.Describe(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

func TestCanonicalText(t *testing.T) {
	tests := []struct{ text, want string }{
		{" every:300s ", "every:5m"},
		{"@every 90s", "every:1m30s"},
		{"every:1h@2026-01-01T02:00:00+01:00", "every:1h@2026-01-01T01:00:00Z"},
		{"@daily", "cron:0 0 * * *"},
		{"@Midnight", "cron:0 0 * * *"},
		{"cron:@hourly", "cron:0 * * * *"},
		{"0  2\t* * mon-fri", "cron:0 2 * * MON-FRI"},
		{"CRON_TZ=Europe/Berlin 0 2 * * *", "cron:TZ=Europe/Berlin 0 2 * * *"},
		{"cron:TZ=Europe/Berlin @daily", "cron:TZ=Europe/Berlin 0 0 * * *"},
		{"TZ=UTC 0 2 * * *", "cron:0 2 * * *"},
		{"solar:sunset@52.520,13.40-0h15m", "solar:sunset@52.52,13.4-15m"},
		{"solar:noon@-0.5,-13.4+1h", "solar:noon@-0.5,-13.4+1h"},
		{"clocked:2027-01-01T00:00:00.5+01:00", "clocked:2026-12-31T23:00:00.5Z"},
	}
	for _, tt := range tests {
		spec, err := schedule.Parse(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if got := spec.String(); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
		again, err := schedule.Parse(spec.String())
		if err != nil || again.String() != spec.String() {
			t.Errorf("%q: its canonical text %q is read as %v, %v", tt.text, spec, again, err)
		}
	}
}

// What is refused, with the field that the error names.
func TestRefused(t *testing.T) {
	tests := []struct{ text, field string }{
		{"", "spec"},
		{"hello", "spec"},
		{"weekly:1", "spec"},
		{strings.Repeat("1,", 1000) + " * * * *", "spec"},
		{"every:", "every"},
		{"every:5", "every"},
		{"every:0s", "every"},
		{"every:-5m", "every"},
		{"every:99ms", "every"},
		{"every:1h0.5ms", "every"},
		{"every:2000000h", "every"},
		{"every:5m@yesterday", "startAt"},
		{"cron:", "cron"},
		{"* * * *", "cron"},
		{"* * * * * * *", "cron"},
		{"@reboot", "cron"},
		{"@", "cron"},
		{"60 * * * *", "minute"},
		{"-1 * * * *", "minute"},
		{"*/0 * * * *", "minute"},
		{"*/1000000 * * * *", "minute"},
		{"1-999999999 * * * *", "minute"},
		{"5-1 * * * *", "minute"},
		{"1- * * * *", "minute"},
		{"1,,2 * * * *", "minute"},
		{"L * * * *", "minute"},
		{"? * * * *", "minute"},
		{"*/5/5 * * * *", "minute"},
		{"H * * * *", "minute"},
		{"60 0 0 * * *", "second"},
		{"0 24 * * *", "hour"},
		{"0 0 0 * *", "day of month"},
		{"0 0 32 * *", "day of month"},
		{"0 0 32W * *", "day of month"},
		{"0 0 L-31 * *", "day of month"},
		{"0 0 1-5W * *", "day of month"},
		{"0 0 * 13 *", "month"},
		{"0 0 * JANUARY *", "month"},
		{"0 0 * * 8", "day of week"},
		{"0 0 * * L", "day of week"},
		{"0 0 * * 7/2", "day of week"},
		{"0 0 * * FRI#6", "day of week"},
		{"0 0 * * FRI#0", "day of week"},
		{"0 0 * * #", "day of week"},
		{"TZ=Europe/Berln 0 2 * * *", "timezone"},
		{"TZ=Local 0 2 * * *", "timezone"},
		{"TZ=right/Europe/Berlin 0 2 * * *", "timezone"},
		{"TZ=../../etc/passwd 0 2 * * *", "timezone"},
		{"TZ= 0 2 * * *", "timezone"},
		{"solar:sunset", "solar"},
		{"solar:sunset@52.52", "solar"},
		{"solar:moonrise@52.52,13.4", "solar"},
		{"solar:sunset@91,13.4", "latitude"},
		{"solar:sunset@-90.01,13.4", "latitude"},
		{"solar:sunset@NaN,13.4", "latitude"},
		{"solar:sunset@52,180.5", "longitude"},
		{"solar:sunset@52,1e2", "longitude"},
		{"solar:sunset@52,13.4+15", "offset"},
		{"solar:sunset@52,13.4+25h", "offset"},
		{"clocked:", "clocked"},
		{"clocked:2027-01-01", "clocked"},
		{"clocked:2027-01-01T00:00:00", "clocked"},
		{"clocked:2027-01-01T00:00:00.0001Z", "clocked"},
		{"clocked:2027-02-30T00:00:00Z", "clocked"},
	}
	for _, tt := range tests {
		spec, err := schedule.Parse(tt.text)
		var wrong *schedule.Error
		if !errors.As(err, &wrong) {
			t.Errorf("%.40q: %v, %v, want an error", tt.text, spec, err)
			continue
		}
		if wrong.Field != tt.field || wrong.Want == "" || len(wrong.Value) > 70 {
			t.Errorf("%.40q: %v, want one of the field %q", tt.text, err, tt.field)
		}
	}
}

func TestErrorSaysAllOfIt(t *testing.T) {
	_, err := schedule.Parse("61 * * * *")
	if want := `minute "61": want numbers from 0 to 59, ranges, lists or steps`; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestDefinitionIsOneKind(t *testing.T) {
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, d := range []schedule.Definition{
		{},
		{Cron: "@daily", Every: time.Hour},
		{Every: time.Hour, Timezone: "Europe/Berlin"},
		{Cron: "@daily", StartAt: at},
		{Every: time.Hour, Offset: time.Minute},
		{Clocked: at, Latitude: 1},
		{Solar: "sunset", Latitude: math.NaN()},
		{Solar: "sunset", Longitude: math.Inf(1)},
		{Clocked: at.AddDate(8000, 0, 0)},
		{Clocked: at.Add(time.Microsecond)},
		{Every: -time.Hour},
	} {
		var wrong *schedule.Error
		if err := d.Validate(); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v, want an error", d, err)
		}
	}
}

func TestEveryKeepsItsPhase(t *testing.T) {
	phase := time.Date(2026, 3, 1, 10, 7, 0, 0, time.UTC)
	spec, err := schedule.Definition{Every: 7 * time.Minute, StartAt: phase}.Spec()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ after, want time.Duration }{
		{0, 7 * time.Minute}, {-1, 0}, {time.Millisecond, 7 * time.Minute},
		{-7 * time.Minute, 0}, {-8 * time.Minute, -7 * time.Minute},
		{100 * 365 * 24 * time.Hour, 100*365*24*time.Hour + 7*time.Minute - 100*365*24*time.Hour%(7*time.Minute)},
	} {
		if got, ok := spec.Next(phase.Add(tt.after)); !ok || !got.Equal(phase.Add(tt.want)) {
			t.Errorf("after %v: %v, want %v", tt.after, got.Sub(phase), tt.want)
		}
	}
}

func TestBetween(t *testing.T) {
	start := time.Date(2026, 5, 1, 8, 3, 0, 0, time.UTC)
	end := start.Add(time.Hour)
	hourly, _ := schedule.Parse("every:30m")
	spec, err := schedule.Between(hourly, start, end)
	if err != nil {
		t.Fatal(err)
	}
	got := schedule.Moments(spec, start.AddDate(-1, 0, 0), 10)
	if len(got) != 3 || !got[0].Equal(start) || !got[2].Equal(end) {
		t.Errorf("every 30 minutes from %v to %v: %v", start, end, got)
	}
	if spec.String() != "every:30m" || !strings.Contains(spec.Describe(), "from 2026-05-01 08:03:00 UTC, until") {
		t.Errorf("%s: %s", spec, spec.Describe())
	}
	if same, _ := schedule.Between(hourly, time.Time{}, time.Time{}); same != hourly {
		t.Errorf("without bounds: %v", same)
	}
	var wrong *schedule.Error
	if _, err := schedule.Between(hourly, end, start); !errors.As(err, &wrong) || wrong.Field != "endAt" {
		t.Errorf("an end before the start: %v", err)
	}
}

func TestLatest(t *testing.T) {
	from := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{
		"every:1s", "every:100ms", "* * * * * *", "@daily", "*/5 9 * * MON", "0 0 30 2 *",
		"cron:TZ=Europe/Berlin 30 2 * * *", "clocked:2025-03-30T00:00:00Z", "solar:noon@0,0",
	} {
		spec, err := schedule.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range []time.Duration{0, time.Second, 90 * time.Minute, 90 * 24 * time.Hour, 366 * 24 * time.Hour} {
			until := from.Add(span)
			got, ok := schedule.Latest(spec, from, until)
			next, more := spec.Next(from)
			if any := more && !next.After(until); ok != any {
				t.Errorf("%s in %v: %v, %v, though the next is %v", text, span, got, ok, next)
				continue
			}
			if !ok {
				continue
			}
			after, more := spec.Next(got)
			if got.After(until) || !got.After(from) || more && !after.After(until) {
				t.Errorf("%s in %v: %v, and then comes %v", text, span, got, after)
			}
			if again, _ := spec.Next(got.Add(-time.Millisecond)); !again.Equal(got) {
				t.Errorf("%s in %v: %v is no moment of it", text, span, got)
			}
		}
	}
}

// The times that are put off are part of what is stored and shown: they may never
// change.
func TestJitterIsForEver(t *testing.T) {
	due := time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		id     string
		atMost time.Duration
		want   time.Duration
	}{
		{"nightly-report", 0, 0},
		{"nightly-report", -time.Second, 0},
		{"nightly-report", time.Millisecond, 0},
		{"nightly-report", 30 * time.Second, 29_369 * time.Millisecond},
		{"tick", 30 * time.Second, 17_495 * time.Millisecond},
		{"", time.Hour, 48*time.Minute + 49_078*time.Millisecond},
	} {
		got := schedule.Jitter(tt.id, due, tt.atMost)
		if got != tt.want {
			t.Errorf("%q, at most %v: %v, want %v", tt.id, tt.atMost, got, tt.want)
		}
		if again := schedule.Jitter(tt.id, due.Local(), tt.atMost); again != got {
			t.Errorf("%q: %v, and in another zone %v", tt.id, got, again)
		}
	}
	const buckets, n = 10, 10_000
	var counts [buckets]int
	for i := range n {
		got := schedule.Jitter("tick", due.Add(time.Duration(i)*time.Minute), 10*time.Second)
		counts[got/time.Second]++
	}
	for i, c := range counts {
		if c < n/buckets*8/10 || c > n/buckets*12/10 {
			t.Errorf("of %d moments %d are put off by %d to %d s", n, c, i, i+1)
		}
	}
}

// Whatever it is asked, Next answers, and stays between the years 1 and 9999.
func TestNextAtTheEndsOfTime(t *testing.T) {
	ends := []time.Time{
		{}, time.Unix(math.MinInt64/2, 0), time.Unix(math.MaxInt64/2, 0), time.Unix(math.MinInt64, 0), time.Unix(math.MaxInt64, 0),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(-292277022399, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for _, text := range []string{
		"every:100ms", "every:876000h@9999-01-01T00:00:00Z", "* * * * * *", "cron:TZ=Europe/Berlin 0 2 * * *",
		"cron:TZ=Pacific/Apia */5 * * * *", "0 0 29 2 */6", "0 0 30 2 *", "solar:noon@0,180", "solar:sunset@78,0-24h", "clocked:9999-12-31T23:59:59Z",
	} {
		spec, err := schedule.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range ends {
			next, ok := spec.Next(end)
			if ok && (!next.After(end) || next.Year() > 9999 || next.Year() < 1) {
				t.Errorf("%s after %v: %v", text, end, next)
			}
		}
	}
}
