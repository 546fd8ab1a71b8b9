package httpapi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/store"
)

// exchangeWorkers asks each route of workers, of which one must live, for who
// compares with the document.
func exchangeWorkers(r *rig) {
	var l httpapi.WorkerList
	r.must(200, "GET", "/v1/workers", "", &l)
	r.do("GET", "/v1/workers/"+l.Workers[0].Worker, "")
	r.do("GET", "/v1/workers/nobody", "")
	for _, kind := range []string{"ping", "inspect", "stats"} {
		r.do("GET", "/v1/control/"+kind+"?timeout=60s", "")
		r.do("GET", "/v1/control/"+kind+"?worker=nobody&timeout=1ms", "")
	}
	r.do("POST", "/v1/queues/mail/pause", `{"note":"a look"}`)
	r.do("GET", "/v1/pauses", "")
	r.do("POST", "/v1/queues/mail/resume", `{}`)
	r.do("GET", "/v1/revocations", "")
	r.do("GET", "/v1/audit", "")
	r.do("PUT", "/v1/rates/echo", `{"rate":"10/s","burst":2,"note":"a look","timeout":"60s"}`)
	r.do("GET", "/v1/rates", "")
	r.do("DELETE", "/v1/rates/echo?timeout=60s", "")
	r.do("POST", "/v1/control/scale", `{"worker":"*","concurrency":2,"timeout":"60s"}`)
	r.do("POST", "/v1/control/scale", `{"worker":"nobody","concurrency":2,"timeout":"1ms"}`)
	r.do("POST", "/v1/control/log-level", `{"worker":"*","level":"warn","timeout":"60s"}`)
	r.do("POST", "/v1/control/shutdown", `{"worker":"*"}`)
	r.do("POST", "/v1/control/shutdown", `{"worker":"*","mode":"warm","confirm":true,"timeout":"60s"}`)
}

func operator(t *testing.T, r *rig) *httpapi.Client {
	t.Helper()
	c, err := httpapi.NewClient(r.url, httpapi.ClientOptions{HTTP: r.http})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClientOperatesWorkers: the Go client can do what stem.Client can with
// workers and queues.
func TestClientOperatesWorkers(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, ctx := operator(t, r), t.Context()
	wait := stem.AskOptions{Wait: 50 * time.Second}
	if a, err := c.Ask(ctx, stem.AskOptions{Wait: time.Millisecond}, stem.CommandPing, nil); err != nil || len(a.Replies)+len(a.Silent) != 0 {
		t.Errorf("nobody lives: %+v, %v", a, err)
	}
	r.work(echo())
	var workers []store.Heartbeat
	eventually(t, "a worker is listed", func() bool {
		var err error
		if workers, err = c.Workers(ctx); err != nil {
			t.Fatal(err)
		}
		return len(workers) == 1
	})
	id := workers[0].Worker
	if h, err := c.Worker(ctx, id); err != nil || h.Worker != id || h.Isolates.Total != 4 {
		t.Errorf("worker: %+v, %v", h, err)
	}
	if _, err := c.Worker(ctx, "nobody"); !errors.Is(err, stem.ErrNotFound) {
		t.Errorf("worker nobody: %v", err)
	}
	if a, err := c.Ask(ctx, wait, stem.CommandPing, nil); err != nil || len(a.Replies) != 1 || a.Replies[0].Worker != id || a.Replies[0].Err != "" {
		t.Errorf("ping: %+v, %v", a, err)
	}
	a, err := c.Ask(ctx, wait, stem.CommandScale, stem.ScaleArgs{Concurrency: 7})
	var scaled stem.Scaled
	if err != nil || len(a.Replies) != 1 || a.Replies[0].Decode(&scaled) != nil || scaled != (stem.Scaled{Before: 4, After: 7}) {
		t.Errorf("scale: %+v, %+v, %v", a, scaled, err)
	}
	if _, err := c.Ask(ctx, wait, stem.CommandScale, stem.ScaleArgs{}); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("scale to 0: %v", err)
	}
	if _, err := c.Ask(ctx, wait, stem.CommandScale, 7); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("scale without its arguments: %v", err)
	}
	if a, err := c.Ask(ctx, wait, stem.CommandLogLevel, stem.LogLevelArgs{Level: "debug"}); err != nil || len(a.Replies) != 1 {
		t.Errorf("log level: %+v, %v", a, err)
	}
	a, err = c.Ask(ctx, wait, stem.CommandInspect, nil)
	var in stem.Inspection
	if err != nil || len(a.Replies) != 1 || a.Replies[0].Decode(&in) != nil {
		t.Errorf("inspect: %+v, %v", a, err)
	}
	if a, err := c.Ask(ctx, wait, stem.CommandShutdown, stem.ShutdownArgs{Mode: "warm"}); err != nil || len(a.Replies) != 1 || a.Replies[0].Err != "" {
		t.Errorf("shutdown: %+v, %v", a, err)
	}
}

func TestClientOperatesQueuesAndAudit(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, ctx := operator(t, r), t.Context()
	if err := c.PauseQueue(ctx, "mail", "a look"); err != nil {
		t.Fatal(err)
	}
	if l, err := c.PausedQueues(ctx); err != nil || len(l) != 1 || l[0].Queue != "mail" || l[0].Note != "a look" || l[0].Since.IsZero() {
		t.Errorf("paused: %+v, %v", l, err)
	}
	id := r.enqueue(`{"name":"a","queue":"mail"}`)
	var none httpapi.LeaseAnswer
	if r.must(http.StatusOK, "POST", "/v1/lease", `{"queues":["mail"]}`, &none); len(none.Tasks) != 0 {
		t.Errorf("a paused queue is leased: %+v", none)
	}
	for _, want := range []bool{true, false} {
		if was, err := c.ResumeQueue(ctx, "mail"); err != nil || was != want {
			t.Errorf("resumed: %v, %v; want %v", was, err, want)
		}
	}
	if err := c.PauseQueue(ctx, "a b", ""); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("pause of no queue: %v", err)
	}
	r.lease(`{"queues":["mail"],"wait":"20s"}`)
	if a, err := c.Revoke(ctx, id, httpapi.RevokeRequest{Terminate: true, Reason: "wrong"}); err != nil || a.State != "asked" {
		t.Errorf("revoke: %+v, %v", a, err)
	}
	if _, err := c.Revoke(ctx, "nobody", httpapi.RevokeRequest{}); !errors.Is(err, stem.ErrNotFound) {
		t.Errorf("revoke nobody: %v", err)
	}
	if l, _, err := c.PendingRevocations(ctx, broker.Page{}); err != nil || len(l) != 1 || l[0].ID != id || !l[0].Terminate || l[0].Reason != "wrong" {
		t.Errorf("pending: %+v, %v", l, err)
	}
	l, next, err := c.Audit(ctx, store.AuditQuery{Limit: 2, Since: time.Now().Add(-time.Hour)})
	if err != nil || len(l) != 2 || next == "" || l[0].What != "POST /v1/tasks/{id}/revoke" || l[1].What != "POST /v1/queues/{queue}/resume" {
		t.Fatalf("audit: %+v, %q, %v", l, next, err)
	}
	if l, next, err = c.Audit(ctx, store.AuditQuery{Limit: 2, Cursor: next}); err != nil || len(l) != 1 || next != "" || l[0].What != "POST /v1/queues/{queue}/pause" {
		t.Errorf("audit, second page: %+v, %q, %v", l, next, err)
	}
}

// TestClientChangesRates: a rate that is changed over the API is told to workers,
// listed, and removed.
func TestClientChangesRates(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, ctx := operator(t, r), t.Context()
	const wait = 50 * time.Second
	rated := func(a httpapi.RateChanged, err error) (got stem.Rated) {
		t.Helper()
		if err != nil || !a.Changed || a.Task != "echo" || len(a.Replies) != 1 || len(a.Silent) != 0 || !a.Replies[0].OK {
			t.Fatalf("%+v, %v", a, err)
		}
		if err := json.Unmarshal(a.Replies[0].Data, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if a, err := c.ChangeRate(ctx, stem.RateChange{Task: "echo", Rate: "5/m"}, time.Millisecond); err != nil || !a.Changed || len(a.Replies)+len(a.Silent) != 0 {
		t.Errorf("nobody lives: %+v, %v", a, err)
	}
	r.work(echo())
	eventually(t, "a worker listens", func() bool {
		a, err := c.Ask(ctx, stem.AskOptions{Wait: time.Second}, stem.CommandPing, nil)
		return err == nil && len(a.Replies) == 1
	})
	if got := rated(c.ChangeRate(ctx, stem.RateChange{Task: "echo", Rate: "10/s", Burst: 3, Note: "a look"}, wait)); got != (stem.Rated{Known: true, Before: "5/m", After: "10/s"}) {
		t.Errorf("changed: %+v", got)
	}
	l, err := c.RateChanges(ctx)
	if err != nil || len(l) != 1 || l[0].Task != "echo" || l[0].Rate != "10/s" || l[0].Burst != 3 || l[0].Note != "a look" || l[0].Since.IsZero() {
		t.Errorf("listed: %+v, %v", l, err)
	}
	if got := rated(c.ResetRate(ctx, "echo", wait)); got != (stem.Rated{Known: true, Before: "10/s", After: stem.NoRate}) {
		t.Errorf("reset: %+v", got)
	}
	if a, err := c.ResetRate(ctx, "echo", wait); err != nil || a.Changed {
		t.Errorf("reset again: %+v, %v", a, err)
	}
	if _, err := c.ChangeRate(ctx, stem.RateChange{Task: "echo", Rate: "fast"}, wait); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("no rate: %v", err)
	}
	for path, body := range map[string]string{
		"/v1/rates/a%20b": `{"rate":"1/s"}`, "/v1/rates/a": `{"rate":"1/s","burst":-1}`, "/v1/rates/b": `{"rate":"none","burst":2}`,
		"/v1/rates/c": `{"rate":"1/s","timeout":"61s"}`, "/v1/rates/d": `{}`, "/v1/rates/e": `{"rate":"1/s","note":"` + strings.Repeat("x", 1025) + `"}`,
	} {
		r.must(400, "PUT", path, body, nil)
	}
	if l, err := c.RateChanges(ctx); err != nil || len(l) != 0 {
		t.Errorf("after refusals: %+v, %v", l, err)
	}
}

func TestClientOperatesSchedules(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	c, ctx := operator(t, r), t.Context()
	v, err := c.PutSchedule(ctx, httpapi.ScheduleEntry{ID: "tick", Task: "a", Spec: []byte(`"every:1h"`)})
	if err != nil || v.ID != "tick" || v.NextDue.IsZero() {
		t.Fatalf("put: %+v, %v", v, err)
	}
	past := httpapi.ScheduleEntry{ID: "past", Task: "a", Spec: []byte(`"every:5h"`), StartAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := c.PutSchedule(ctx, past); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutSchedule(ctx, httpapi.ScheduleEntry{ID: "tick", Task: "a", Spec: []byte(`"sometimes"`)}); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("put of a broken one: %v", err)
	}
	if _, err := c.PauseSchedule(ctx, "tick", httpapi.ScheduleChange{Version: v.Version + 7}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("pause of another version: %v", err)
	}
	if _, err := c.PauseSchedule(ctx, "tick", httpapi.ScheduleChange{Note: "a look", Version: v.Version}); err != nil {
		t.Error(err)
	}
	if v, err := c.Schedule(ctx, "tick"); err != nil || v.Status != "paused" || v.Note != "a look" {
		t.Errorf("paused: %+v, %v", v, err)
	}
	for what, change := range map[string]error{
		"resume":  errOf(c.ResumeSchedule(ctx, "tick", httpapi.ScheduleChange{})),
		"disable": errOf(c.DisableSchedule(ctx, "tick", httpapi.ScheduleChange{})),
		"enable":  errOf(c.EnableSchedule(ctx, "tick", httpapi.ScheduleChange{})),
	} {
		if change != nil {
			t.Errorf("%s: %v", what, change)
		}
	}
	id, err := c.RunSchedule(ctx, "tick")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Get(ctx, id); err != nil || s.Name != "a" {
		t.Errorf("the task of a run: %+v, %v", s, err)
	}
	for _, want := range []string{"enqueued", "known"} {
		at := time.Date(2026, 1, 1, 5, 0, 0, 0, time.UTC)
		m, err := c.BackfillSchedule(ctx, "past", httpapi.ScheduleBackfill{From: at, To: at, Confirm: true})
		if err != nil || len(m.Moments) != 1 || m.Moments[0].State != want || !m.Moments[0].Due.Equal(at) {
			t.Errorf("backfill: %+v, %v; want it %s", m, err, want)
		}
	}
	if _, err := c.BackfillSchedule(ctx, "past", httpapi.ScheduleBackfill{Confirm: true}); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("backfill from nowhere: %v", err)
	}
	if h, err := c.ScheduleHistory(ctx, "tick", 5); err != nil || len(h.History) != 1 {
		t.Errorf("history: %+v, %v", h, err)
	}
	if m, err := c.ScheduleNext(ctx, "tick", 3); err != nil || len(m.Moments) != 3 {
		t.Errorf("next: %+v, %v", m, err)
	}
	plan, err := c.ApplySchedules(ctx, httpapi.ScheduleApply{Schedules: []httpapi.ScheduleEntry{{ID: "tock", Task: "a", Spec: []byte(`"@daily"`)}}})
	if err != nil || plan.DryRun {
		t.Errorf("apply: %+v, %v", plan, err)
	}
	if l, err := c.Schedules(ctx, broker.Page{Limit: 1}); err != nil || len(l.Schedules) != 1 || l.Cursor == "" {
		t.Errorf("list: %+v, %v", l, err)
	}
	if err := c.DeleteSchedule(ctx, "tick", 999); !errors.Is(err, store.ErrConflict) {
		t.Errorf("delete of another version: %v", err)
	}
	if err := c.DeleteSchedule(ctx, "tick", 0); err != nil {
		t.Error(err)
	}
	if _, err := c.Schedule(ctx, "tick"); !errors.Is(err, stem.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

func errOf[T any](_ T, err error) error { return err }
