package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/store"
)

// exchangeSchedules asks each route of schedules, for who compares with the
// document.
func exchangeSchedules(r *rig) {
	r.do("PUT", "/v1/schedules/a", `{"task":"echo","spec":{"cron":"0 2 * * *","timezone":"Europe/Berlin"},"args":{"a":1},"jitter":"30s",
		"options":{"queue":"q","priority":7,"retention":"forever","headers":{"a":"b"}},"misfire":{"policy":"all","max":5,"grace":"1h"},"overlap":"skip",
		"startAt":"2026-01-01T00:00:00Z"}`)
	r.do("PUT", "/v1/schedules/a", `{"task":"echo","spec":"sometimes"}`)
	r.do("PUT", "/v1/schedules/a", `{"task":"echo","spec":"every:5m","version":99}`)
	r.do("POST", "/v1/schedules/apply", `{"schedules":[{"id":"a","task":"echo","spec":"every:1h"},{"id":"b","task":"echo","spec":"@daily"}]}`)
	r.do("POST", "/v1/schedules/apply", `{"schedules":[],"prune":true}`)
	r.do("POST", "/v1/schedules/apply", `{"schedules":[{"id":"a","task":"echo","spec":"every:1h"}],"prune":true,"dryRun":true}`)
	r.do("POST", "/v1/schedules/preview", `{"spec":"30 2 * * *","after":"2026-03-28T00:00:00Z"}`)
	for _, path := range []string{"", "?limit=1", "/a", "/no", "/a/history", "/a/next?count=2"} {
		r.do("GET", "/v1/schedules"+path, "")
	}
	r.do("POST", "/v1/schedules/a/pause", `{"note":"a look"}`)
	r.do("POST", "/v1/schedules/a/resume", `{}`)
	r.do("POST", "/v1/schedules/a/disable", `{"version":1}`)
	r.do("POST", "/v1/schedules/a/disable", `{}`)
	r.do("POST", "/v1/schedules/a/enable", `{}`)
	r.do("POST", "/v1/schedules/a/run", `{}`)
	r.do("POST", "/v1/schedules/a/backfill", `{"from":"2026-01-01T00:00:00Z"}`)
	r.do("POST", "/v1/schedules/a/backfill", `{"from":"2026-02-01T00:00:00Z","to":"2026-02-01T03:00:00Z","confirm":true}`)
	r.do("GET", "/v1/schedules/a/history", "")
	r.do("DELETE", "/v1/schedules/a", "")
	r.do("DELETE", "/v1/schedules/a", "")
}

func TestSchedules(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	var v beat.View
	r.must(200, "PUT", "/v1/schedules/tick", `{"task":"echo","spec":"every:1h","args":{"n":12345678901234567890},"options":{"queue":"ticks"}}`, &v)
	if v.ID != "tick" || v.Status != beat.StatusActive || v.Version < 1 || v.Spec != "every:1h" || v.When != "Every hour" || time.Until(v.NextDue) > time.Hour {
		t.Fatalf("%+v", v)
	}
	if want := `{"task":"echo","spec":{"every":"1h"},"args":{"n":12345678901234567890},"options":{"queue":"ticks"}}`; string(v.Definition) != want {
		t.Errorf("definition %s, want %s", v.Definition, want)
	}
	version := v.Version
	v = beat.View{}
	r.must(200, "POST", "/v1/schedules/tick/pause", fmt.Sprintf(`{"note":"the warehouse moves","version":%d}`, version), &v)
	if v.Status != beat.StatusPaused || v.Note != "the warehouse moves" || !v.NextDue.IsZero() || v.Version == version {
		t.Errorf("paused: %+v", v)
	}
	for _, stale := range []reply{
		r.do("POST", "/v1/schedules/tick/resume", fmt.Sprintf(`{"version":%d}`, version)),
		r.do("PUT", "/v1/schedules/tick", fmt.Sprintf(`{"task":"other","spec":"every:5m","version":%d}`, version)),
		r.do("DELETE", fmt.Sprintf("/v1/schedules/tick?version=%d", version), ""),
	} {
		if stale.status != 409 || stale.problem() != "conflict" {
			t.Errorf("a stale version: %d %s", stale.status, stale.body)
		}
	}
	r.must(200, "POST", "/v1/schedules/tick/resume", `{}`, &v)
	if v.Status != beat.StatusActive || v.Task != "echo" {
		t.Errorf("resumed: %+v", v)
	}
	var ran httpapi.ScheduleRan
	r.must(200, "POST", "/v1/schedules/tick/run", `{}`, &ran)
	var s stem.Status
	r.must(200, "GET", "/v1/tasks/"+ran.Task, "", &s)
	if s.Queue != "ticks" || s.Name != "echo" {
		t.Errorf("the run's task: %+v", s)
	}
	var h httpapi.ScheduleHistory
	r.must(200, "GET", "/v1/schedules/tick/history", "", &h)
	if len(h.History) != 1 || h.History[0].Outcome != store.OutcomeManual || h.History[0].Task != ran.Task || h.History[0].Beat != "the API" {
		t.Errorf("history: %+v", h)
	}
	r.must(200, "DELETE", "/v1/schedules/tick", "", &httpapi.Changed{})
	for _, gone := range []reply{
		r.do("GET", "/v1/schedules/tick", ""), r.do("DELETE", "/v1/schedules/tick", ""), r.do("POST", "/v1/schedules/tick/run", `{}`),
		r.do("GET", "/v1/schedules/tick/history", ""), r.do("POST", "/v1/schedules/tick/enable", `{}`),
	} {
		if gone.status != 404 {
			t.Errorf("of what is not there: %d %s", gone.status, gone.body)
		}
	}
}

func TestApplySchedules(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	apply := func(status int, body string) (p beat.PlanView) {
		t.Helper()
		r.must(status, "POST", "/v1/schedules/apply", body, &p)
		return p
	}
	const two = `"schedules":[{"id":"a","task":"t","spec":"every:1m"},{"id":"b","task":"t","spec":"every:1m"}]`
	if p := apply(200, `{`+two+`,"dryRun":true}`); len(p.Created) != 2 || !p.DryRun {
		t.Errorf("dry run: %+v", p)
	}
	var l httpapi.ScheduleList
	if r.must(200, "GET", "/v1/schedules", "", &l); len(l.Schedules) != 0 {
		t.Errorf("after a dry run: %+v", l)
	}
	apply(200, `{`+two+`}`)
	if p := apply(200, `{`+two+`}`); p.Kept != 2 || len(p.Created)+len(p.Changed)+len(p.Deleted) > 0 {
		t.Errorf("again: %+v", p)
	}
	const one = `"schedules":[{"id":"a","task":"t","spec":"every:2m"}],"prune":true`
	if got := r.do("POST", "/v1/schedules/apply", `{`+one+`}`); got.problem() != "confirmation-missing" {
		t.Errorf("prune without confirm: %s", got.body)
	}
	p := apply(200, `{`+one+`,"confirm":true}`)
	if len(p.Changed) != 1 || len(p.Deleted) != 1 || len(p.Changed[0].Fields) != 1 || string(p.Changed[0].Fields[0].New) != `"every:2m"` {
		t.Errorf("prune: %+v", p)
	}
	// All or nothing.
	got := r.do("POST", "/v1/schedules/apply", `{"schedules":[{"id":"c","task":"t","spec":"every:1m"},{"id":"a","task":"t","spec":"every:3m","version":77}]}`)
	if got.problem() != "conflict" {
		t.Errorf("a stale version among others: %s", got.body)
	}
	if r.must(200, "GET", "/v1/schedules", "", &l); len(l.Schedules) != 1 || l.Schedules[0].Spec != "every:2m" {
		t.Errorf("at last: %+v", l)
	}
	if r.must(200, "GET", "/v1/schedules?limit=1", "", &l); len(l.Schedules) != 1 {
		t.Errorf("a page: %+v", l)
	}
}

func TestWrongSchedules(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	for body, pointer := range map[string]string{
		`{"task":"t","spec":"sometimes"}`:                                                                "/spec",
		`{"task":"t","spec":{"solar":"sunset","latitude":91,"longitude":1}}`:                             "/spec",
		`{"task":"t","spec":{"cron":"0 2 * * *","timezone":"Mars/Base"}}`:                                "/spec",
		`{"task":"a b","spec":"every:1m"}`:                                                               "/task",
		`{"task":"t","spec":"every:1m","options":{"priority":12}}`:                                       "/options/priority",
		`{"task":"t","spec":"every:1m","options":{"expiresIn":"soon"}}`:                                  "/options/expiresIn",
		`{"task":"t","spec":"every:1m","misfire":{"policy":"some"}}`:                                     "/misfire/policy",
		`{"task":"t","spec":"every:1m","id":"other"}`:                                                    "/id",
		`{"task":"t","spec":"every:1m","version":-1}`:                                                    "/version",
		`{"task":"t","spec":"every:1m","startAt":"2026-01-02T00:00:00Z","endAt":"2026-01-01T00:00:00Z"}`: "/endAt",
	} {
		got := r.do("PUT", "/v1/schedules/x", body)
		var p httpapi.Problem
		got.into(t, &p)
		if got.status != 400 || p.Pointer != pointer {
			t.Errorf("%s: %d %s", body, got.status, got.body)
		}
	}
	if got := r.do("PUT", "/v1/schedules/x", `{"task":"t","spec":"every:1m","jiter":"1s"}`); got.problem() != "unknown-field" {
		t.Errorf("an unknown field: %s", got.body)
	}
	if got := r.do("PUT", "/v1/schedules/"+strings.Repeat("x", 129), `{"task":"t","spec":"every:1m"}`); got.status != 400 {
		t.Errorf("a long id: %s", got.body)
	}
	var m httpapi.ScheduleMoments
	r.must(200, "POST", "/v1/schedules/preview", `{"spec":{"cron":"30 2 * * *","timezone":"Europe/Berlin"},"after":"2026-03-28T12:00:00Z","count":2}`, &m)
	if len(m.Moments) != 2 || m.Moments[0].Due.Format(time.RFC3339) != "2026-03-29T03:00:00+02:00" || m.Moments[0].Zone != "Europe/Berlin" {
		t.Errorf("in the night of the gap: %+v", m)
	}
}

// TestNoSchedules: a server whose store keeps none says so.
func TestNoSchedules(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	bare := serve(t, r.client, httpapi.Options{})
	if got := bare.do("GET", "/v1/schedules", ""); got.problem() != "unsupported" {
		t.Errorf("%d %s", got.status, got.body)
	}
}
