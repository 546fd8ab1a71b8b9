package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// The table of docs/scheduling.md: what fires on the two days of 2026 on which the
// clocks of Berlin change, from midnight until half past four.
func TestClockChangesAsDocumented(t *testing.T) {
	for _, tt := range []struct{ cron, march, october string }{
		{"30 2 * * *", "03:00+2", "02:30+2"},
		{"30 * * * *", "00:30+1 01:30+1 03:30+2", "00:30+2 01:30+2 02:30+2 02:30+1 03:30+1"},
		{"@hourly", "00:00+1 01:00+1 03:00+2 04:00+2", "00:00+2 01:00+2 02:00+2 02:00+1 03:00+1 04:00+1"},
		{"*/20 */2 * * *", "00:00+1 00:20+1 00:40+1 04:00+2 04:20+2",
			"00:00+2 00:20+2 00:40+2 02:00+2 02:20+2 02:40+2 02:00+1 02:20+1 02:40+1 04:00+1 04:20+1"},
		{"0 */2 * * *", "00:00+1 03:00+2 04:00+2", "00:00+2 02:00+2 04:00+1"},
		{"*/15 2 * * *", "03:00+2", "02:00+2 02:15+2 02:30+2 02:45+2"},
		{"0,30 2,3 * * *", "03:00+2 03:30+2", "02:00+2 02:30+2 03:00+1 03:30+1"},
		{"0/20 0-23/2 * * *", "00:00+1 00:20+1 00:40+1 04:00+2 04:20+2", // the same as */20 */2
			"00:00+2 00:20+2 00:40+2 02:00+2 02:20+2 02:40+2 02:00+1 02:20+1 02:40+1 04:00+1 04:20+1"},
	} {
		spec, err := schedule.Definition{Cron: tt.cron, Timezone: "Europe/Berlin"}.Spec()
		if err != nil {
			t.Fatal(err)
		}
		for midnight, want := range map[string]string{"2026-03-29T00:00:00+01:00": tt.march, "2026-10-25T00:00:00+02:00": tt.october} {
			from, err := time.Parse(time.RFC3339, midnight)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for at := range schedule.After(spec, from.Add(-1)) {
				if at.Day() != from.Day() || at.Hour()*60+at.Minute() >= 4*60+30 {
					break
				}
				got = append(got, at.Format("15:04Z07")[:5]+strings.Replace(at.Format("Z07"), "+0", "+", 1))
			}
			if text := strings.Join(got, " "); text != want {
				t.Errorf("%s on %s:\n got %s\nwant %s", tt.cron, midnight[:10], text, want)
			}
		}
	}
}

// Samoa went over the date line, and had no 30th of December 2011.
func TestTheDayThatNeverWas(t *testing.T) {
	spec, err := schedule.Definition{Cron: "0 2 * * *", Timezone: "Pacific/Apia"}.Spec()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, at := range schedule.Moments(spec, time.Date(2011, 12, 29, 0, 0, 0, 0, time.UTC), 4) {
		got = append(got, at.Format("02T15:04"))
	}
	if text := strings.Join(got, " "); text != "29T02:00 31T00:00 31T02:00 01T02:00" {
		t.Errorf("around a day that never was: %s", text)
	}
}
