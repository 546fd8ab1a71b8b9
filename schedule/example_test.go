package schedule_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/stemjobs/stem/schedule"
)

func ExampleParse() {
	spec, err := schedule.Parse("cron:TZ=Europe/Berlin 0 2 * * MON-FRI")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(spec.Describe())
	from := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, at := range schedule.Moments(spec, from, 2) {
		fmt.Println(at.Format(time.RFC1123Z))
	}
	// Output:
	// At 02:00, Monday to Friday, Europe/Berlin
	// Fri, 27 Nov 2026 02:00:00 +0100
	// Mon, 30 Nov 2026 02:00:00 +0100
}

// The clocks of Berlin go forward on the 29th of March 2026, from 02:00 to 03:00.
func ExampleRemark() {
	spec, _ := schedule.Definition{Cron: "30 2 * * *", Timezone: "Europe/Berlin"}.Spec()
	from := time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC)
	for _, at := range schedule.Moments(spec, from, 3) {
		fmt.Println(strings.TrimSpace(at.Format(time.RFC3339) + " " + schedule.Remark(spec, at)))
	}
	// Output:
	// 2026-03-28T02:30:00+01:00
	// 2026-03-29T03:00:00+02:00 the time meant does not exist on this day: the clocks go forward over it
	// 2026-03-30T02:30:00+02:00
}

func ExampleError() {
	_, err := schedule.Parse("0 25 * * *")
	fmt.Println(err)
	// Output:
	// hour "25": want numbers from 0 to 23, ranges, lists or steps
}

func ExampleAfter() {
	spec, _ := schedule.Definition{Every: 90 * time.Minute}.Spec()
	for at := range schedule.After(spec, time.Date(2026, 1, 1, 20, 0, 0, 0, time.UTC)) {
		if at.Day() != 1 {
			break
		}
		fmt.Println(at.Format(time.TimeOnly))
	}
	// Output:
	// 21:00:00
	// 22:30:00
}

func ExampleLatest() {
	spec, _ := schedule.Parse("@hourly")
	stopped := time.Date(2026, 1, 1, 20, 30, 0, 0, time.UTC)
	missed, ok := schedule.Latest(spec, stopped, stopped.AddDate(0, 6, 0))
	fmt.Println(missed, ok)
	// Output:
	// 2026-07-01 20:00:00 +0000 UTC true
}
