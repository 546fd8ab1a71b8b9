package schedule_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/stemjobs/stem/schedule"
)

// One definition in all the ways in which it can be written down.
var shapes = []struct {
	yaml, json string
	text       string // canonical
}{
	{`"every:5m"`, `"every:5m"`, "every:5m"},
	{`every:5m`, `{"every":"300s"}`, "every:5m"},
	{`{every: 5m, startAt: 2026-01-01T00:02:00Z}`, `{"every":"5m","startAt":"2026-01-01T01:02:00+01:00"}`, "every:5m@2026-01-01T00:02:00Z"},
	{`{cron: "0 2 * * *", timezone: Europe/Berlin}`, `{"cron":"0 2 * * *","timezone":"Europe/Berlin"}`, "cron:TZ=Europe/Berlin 0 2 * * *"},
	{`"0 2 * * *"`, `"@daily"`, ""},
	{`{solar: sunset, latitude: 52.52, longitude: 13.4, offset: -15m}`, `"solar:sunset@52.52,13.4-15m"`, "solar:sunset@52.52,13.4-15m"},
	{`{solar: noon, latitude: 0, longitude: -180}`, `{"solar":"noon","latitude":0,"longitude":-180}`, "solar:noon@0,-180"},
	{`{clocked: 2027-01-01T00:00:00Z}`, `{"clocked":"2027-01-01T00:00:00Z"}`, "clocked:2027-01-01T00:00:00Z"},
}

func TestShapes(t *testing.T) {
	for _, tt := range shapes {
		var fromYAML, fromJSON schedule.Definition
		if err := yaml.Unmarshal([]byte(tt.yaml), &fromYAML); err != nil {
			t.Errorf("%s: %v", tt.yaml, err)
		}
		if err := json.Unmarshal([]byte(tt.json), &fromJSON); err != nil {
			t.Errorf("%s: %v", tt.json, err)
		}
		if tt.text == "" { // two of the same kind
			continue
		}
		for _, d := range []schedule.Definition{fromYAML, fromJSON} {
			if got, err := d.Text(); got != tt.text {
				t.Errorf("%s: %q, %v, want %q", tt.yaml, got, err, tt.text)
			}
			written, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			var back schedule.Definition
			if err := json.Unmarshal(written, &back); err != nil || back != d {
				t.Errorf("%s is read as %+v, %v, want %+v", written, back, err, d)
			}
			written, err = yaml.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			back = schedule.Definition{}
			if err := yaml.Unmarshal(written, &back); err != nil || back != d {
				t.Errorf("%s is read as %+v, %v, want %+v", written, back, err, d)
			}
		}
	}
}

func TestWrongShapes(t *testing.T) {
	for text, field := range map[string]string{
		`5`:                                "spec",
		`null`:                             "spec",
		`["every:5m"]`:                     "spec",
		`{"every":"5m","cronn":"x"}`:       "spec",
		`{"every":300}`:                    "every",
		`{"every":""}`:                     "every",
		`{"every":"0s"}`:                   "every",
		`{"cron":{"minute":0}}`:            "cron",
		`{"cron":"@daily","timezone":7}`:   "timezone",
		`{"solar":"sunset"}`:               "latitude",
		`{"solar":"sunset","latitude":52}`: "longitude",
		`{"solar":"noon","latitude":"52","longitude":1}`:         "latitude",
		`{"solar":"noon","latitude":1e1,"longitude":1}`:          "latitude",
		`{"solar":"noon","latitude":1,"longitude":1,"offset":5}`: "offset",
		`{"clocked":"tomorrow"}`:                                 "clocked",
	} {
		var d schedule.Definition
		err := json.Unmarshal([]byte(text), &d)
		var wrong *schedule.Error
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v, want an error of the field %q", text, err, field)
		}
		if d != (schedule.Definition{}) {
			t.Errorf("%s: refused, and left %+v", text, d)
		}
	}
}

func TestRemark(t *testing.T) {
	for _, tt := range []struct {
		cron, after string
		remarks     []bool
	}{
		{"30 2 * * *", "2026-03-27T12:00:00Z", []bool{false, true, false}},           // the 28th, the gap, the 30th
		{"30 2 * * *", "2026-10-23T12:00:00Z", []bool{false, true, false}},           // the first of two
		{"30 * * * *", "2026-10-24T23:00:00Z", []bool{false, true, true, false}},     // 01:30, 02:30, 02:30, 03:30
		{"0 3 * * *", "2026-10-24T12:00:00Z", []bool{false, false}},                  // comes once
		{"0 2 * * *", "2026-10-24T12:00:00Z", []bool{true, false}},                   // comes twice
		{"0 12 * * *", "2026-03-27T12:00:00Z", []bool{false, false, false, false}},   // far from it
		{"*/30 * * * *", "2026-03-29T00:20:00Z", []bool{false, false, false, false}}, // none is missing
	} {
		spec, err := schedule.Definition{Cron: tt.cron, Timezone: "Europe/Berlin"}.Spec()
		if err != nil {
			t.Fatal(err)
		}
		after, err := time.Parse(time.RFC3339, tt.after)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range schedule.Moments(spec, after, len(tt.remarks)) {
			if remark := schedule.Remark(spec, at); (remark != "") != tt.remarks[i] {
				t.Errorf("%s at %v: %q", tt.cron, at, remark)
			}
		}
	}
}
