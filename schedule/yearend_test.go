package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// TestYearEnds: past a zone's last listed change the clock goes by a rule, and
// what time.ZoneBounds says of the last hours of a year must not keep Next.
func TestYearEnds(t *testing.T) {
	for zone := range strings.Lines(zoneNames) {
		zone = strings.TrimSpace(zone)
		spec, err := schedule.Parse("cron:TZ=" + zone + " @hourly")
		if err != nil {
			t.Fatal(err)
		}
		for year := 2026; year < 2050; year++ {
			at := time.Date(year, 12, 31, 6, 30, 0, 0, time.UTC)
			for end := at.Add(36 * time.Hour); at.Before(end); {
				next, ok := spec.Next(at)
				if d := next.Sub(at); !ok || d <= 0 || d > 90*time.Minute {
					t.Fatalf("%s: after %s comes %s, %t", zone, at, next, ok)
				}
				at = next
			}
		}
	}
}
