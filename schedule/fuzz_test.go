package schedule_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// FuzzParse: whatever is accepted has a canonical text that is read as the same, can
// be written as JSON, and fires in order.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"every:5m", "every:1h@2026-01-01T00:20:00Z", "@every 90s", "@daily", "@hourly",
		"*/5 * * * *", "0 2 * * MON-FRI", "cron:TZ=Europe/Berlin 30 2 * * *",
		"CRON_TZ=America/Havana 0 0 * * *", "TZ=Pacific/Apia 0 */6 30 12 ?",
		"0 0 L,LW,L-3,15W * FRI#2,7L", "0 0 29 2 */6", "0 0 30 2 *",
		"*/1000000 * * * *", "1-999999999 * * * *", "*/10 0-59/7 1,2,3 1-31/2 JAN-DEC SUN-SAT",
		"solar:sunset@52.52,13.4-15m", "solar:dawn@-90,180", "solar:noon@0,0+24h",
		"clocked:2027-01-01T00:00:00Z", "clocked:9999-12-31T23:59:59.999Z",
	} {
		f.Add(text, int64(1774749600))
	}
	f.Fuzz(func(t *testing.T, text string, from int64) {
		spec, err := schedule.Parse(text)
		if err != nil {
			var wrong *schedule.Error
			if !errors.As(err, &wrong) {
				t.Fatalf("%q: %v is no *schedule.Error", text, err)
			}
			return
		}
		again, err := schedule.Parse(spec.String())
		if err != nil || again.String() != spec.String() || again.Describe() != spec.Describe() {
			t.Fatalf("%q: its canonical text %q is read as %v, %v", text, spec, again, err)
		}
		if words := spec.Describe(); words == "" || len(words) > 4000 {
			t.Fatalf("%q: described in %d bytes", text, len(words))
		}
		definition, _ := schedule.ParseDefinition(text)
		written, err := json.Marshal(definition)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var read schedule.Definition
		if err := json.Unmarshal(written, &read); err != nil {
			t.Fatalf("%q: %s: %v", text, written, err)
		}
		if canonical, err := read.Text(); err != nil || canonical != spec.String() {
			t.Fatalf("%q: by way of %s it is %q, %v", text, written, canonical, err)
		}

		at := time.Unix(from, 0)
		for range 5 {
			next, ok := spec.Next(at)
			if !ok {
				return
			}
			if !next.After(at) || next.Year() > 9999 {
				t.Fatalf("%q: after %v comes %v", text, at, next)
			}
			if back, ok := spec.Next(next.Add(-time.Millisecond)); !ok || !back.Equal(next) {
				t.Fatalf("%q: %v, and from just before it %v", text, next, back)
			}
			schedule.Remark(spec, next)
			at = next
		}
	})
}
