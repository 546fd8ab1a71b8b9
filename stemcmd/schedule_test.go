package stemcmd

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

// TestJSONOfSchedulesIsStable compares with golden files, as TestJSONIsStable.
func TestJSONOfSchedulesIsStable(t *testing.T) {
	at := time.Date(2026, 1, 2, 1, 0, 12, 345e6, time.UTC)
	listed := beat.Listed{
		Entry: beat.Entry{ID: "nightly", Task: "report.build", Spec: schedule.Definition{Cron: "0 2 * * *", Timezone: "Europe/Berlin"}, Note: "a look"},
		Record: store.Schedule{
			ID: "nightly", Version: 3, Definition: json.RawMessage(`{"task":"report.build","spec":{"cron":"0 2 * * *","timezone":"Europe/Berlin"},"args":"<a&b>"}`),
			UpdatedAt: at, NextDue: at.Add(24 * time.Hour), NextAt: at.Add(24*time.Hour + 7*time.Second), LastDue: at, LastFired: at.Add(7*time.Second + time.Millisecond),
			LastTask: beat.TaskID("nightly", at), LastError: "the queue is full", Jitter: 7 * time.Second, Drift: 1500 * time.Microsecond, Fired: 12, Misfired: 2,
		},
		Status: beat.StatusActive, When: "At 02:00, Europe/Berlin",
	}
	entry := listed.View()
	records := beat.ViewRecords([]store.FireRecord{
		{ID: "nightly", Due: at, Fired: at.Add(time.Second), Outcome: store.OutcomeFired, Task: "t1", Jitter: time.Second, Drift: time.Millisecond, Beat: "one"},
		{ID: "nightly", Due: at, Fired: at, Outcome: store.OutcomeMisfired, Missed: 4, Error: "4 passed over (policy latest)", Beat: "one"},
	})
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	moments := []beat.Moment{{Due: at.In(berlin), Fires: at.Add(7 * time.Second).In(berlin)}}
	plan := beat.Plan{Changes: []beat.PlannedChange{
		{ID: "new", Action: beat.ActionCreate, NextDue: at, Fields: []beat.Difference{{Field: "task", New: json.RawMessage(`"a"`)}}},
		{ID: "old", Action: beat.ActionDelete}, {ID: "same", Action: beat.ActionKeep},
		{ID: "x", Action: beat.ActionChange, Fields: []beat.Difference{{Field: "args", Old: json.RawMessage(`1`), New: json.RawMessage(`{"a":"<"}`)}}},
	}}
	for name, list := range map[string]func(*session) error{
		"schedules": func(s *session) error { _, err := list(s, scheduleView(), one([]beat.View{entry})); return err },
		"history":   func(s *session) error { _, err := list(s, historyView(), one(records)); return err },
		"moments":   func(s *session) error { _, err := list(s, momentView(), one(moments)); return err },
		"plan":      func(s *session) error { return s.tellPlan(&plan, true) },
		"observed": func(s *session) error {
			_, err := s.object(scheduleReport{Leader: "one", LeaseLeftMS: 2500, Active: 1, WorstDriftMS: 1.5, Failing: 1, TotalFired: 12, TotalMisfired: 2, Schedules: []beat.View{entry}})
			return err
		},
	} {
		golden(t, name+".json", show(t, asJSON, list))
		golden(t, name+".jsonl", show(t, asJSONL, list))
	}
}
