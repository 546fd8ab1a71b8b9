package schedule_test

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// Next of what is common, and of the worst that is accepted. Nothing may allocate.
func BenchmarkNext(b *testing.B) {
	texts := []struct{ name, text string }{
		{"every", "every:5m"},
		{"minutes-utc", "*/5 * * * *"},
		{"minutes", "cron:TZ=America/New_York */5 * * * *"},
		{"hourly", "cron:TZ=Europe/Berlin @hourly"},
		{"daily-utc", "0 2 * * *"},
		{"daily", "cron:TZ=Europe/Berlin 0 2 * * *"},
		{"weekdays", "cron:TZ=Europe/Berlin 30 9 * * MON-FRI"},
		{"last-friday", "cron:TZ=Europe/Berlin 0 9 * * FRIL"},
		{"yearly", "cron:TZ=Europe/Berlin @yearly"},
		{"worst-leap-weekend", "cron:TZ=America/Santiago 0 0 29 2 */6"},
		{"worst-leap-minutes", "cron:TZ=Africa/Casablanca * * 29 2 */6"},
		{"worst-all-days", "cron:TZ=Africa/Casablanca 59 23 31W,30W,29W,L-30,LW 2 0#5,1#5,2#5,3#5,4#5,5#5,6#5"},
		{"never", "0 0 30 2 *"},
		{"noon", "solar:noon@52.52,13.4"},
		{"sunset", "solar:sunset@52.52,13.4"},
		{"worst-polar", "solar:sunset@89.4,0"},
	}
	for _, bb := range texts {
		b.Run(bb.name, func(b *testing.B) {
			spec, err := schedule.Parse(bb.text)
			if err != nil {
				b.Fatal(err)
			}
			start := time.Date(2026, 11, 24, 22, 0, 0, 0, time.UTC)
			at := start
			for b.Loop() {
				next, ok := spec.Next(at)
				if at = next; !ok || at.Year() > 2100 {
					at = start
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, text := range []string{"every:5m", "0 2 * * MON-FRI", "0 0 30 2 *", "cron:TZ=Europe/Berlin 0 2 * * *"} {
		b.Run(text, func(b *testing.B) {
			loader := new(schedule.Loader)
			for b.Loop() {
				if _, err := loader.Parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
