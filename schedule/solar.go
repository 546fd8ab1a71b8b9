package schedule

import "strconv"

func wantDegrees(field string) string {
	limit := 90
	if field == "longitude" {
		limit = 180
	}
	return "degrees from -" + strconv.Itoa(limit) + " to " + strconv.Itoa(limit)
}

func newSolar(d Definition) (Spec, error) {
	return nil, wrong("solar", d.Solar, "dawn, sunrise, noon, sunset or dusk")
}
