package httpapi_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/store"
)

// TestChangesAreInTheAudit: each change leaves a record of who did what to how
// many; what was refused, what only tried and what only looked leave none.
func TestChangesAreInTheAudit(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: []httpapi.Token{
		httpapi.NewToken("olga", "secret-of-olga-123456", httpapi.Operate), httpapi.NewToken("ed", "secret-of-ed-12345678", httpapi.Enqueue),
	}})
	r.token = "secret-of-olga-123456"
	for _, id := range []string{"one", "two", "three"} {
		r.must(201, "POST", "/v1/tasks", `{"name":"a","queue":"mail","id":"`+id+`"}`, nil)
	}
	r.must(200, "POST", "/v1/tasks/one/revoke", `{"reason":"wrong"}`, nil)
	r.must(200, "POST", "/v1/tasks/one/revoke", `{}`, nil) // too late
	r.must(404, "POST", "/v1/tasks/nobody/revoke", `{}`, nil)
	r.must(200, "POST", "/v1/queues/mail/purge", `{"dryRun":true}`, nil)
	r.must(200, "POST", "/v1/queues/mail/purge", `{"confirm":true}`, nil)
	if got := r.do("POST", "/v1/queues/mail/purge", `{"confirm":true}`, "Authorization", "Bearer secret-of-ed-12345678"); got.status != 403 {
		t.Errorf("purge by who may not: %d", got.status)
	}
	if got := r.do("POST", "/v1/queues/mail/purge", `{"confirm":true}`, "Authorization", "Bearer nobody"); got.status != 401 {
		t.Errorf("purge by nobody: %d", got.status)
	}
	r.must(200, "PUT", "/v1/schedules/tick", `{"task":"a","spec":"every:1h"}`, nil)
	r.must(200, "POST", "/v1/schedules/tick/pause", `{}`, nil)
	r.must(200, "GET", "/v1/queues", "", nil)

	list, _, err := r.client.Audit().List(t.Context(), store.AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	want := []string{
		"POST /v1/tasks/{id}/revoke 1", "POST /v1/queues/{queue}/purge 2", "PUT /v1/schedules/{id} 1", "POST /v1/schedules/{id}/pause 1",
	}
	for i, a := range list {
		got := a.What + " " + string(rune('0'+a.Count))
		if i >= len(want) || got != want[i] || a.Who != "olga" || a.Via != "api" || !strings.HasPrefix(a.Reason, "request ") {
			t.Errorf("record %d: %+v", i, a)
		}
	}
	if len(list) != len(want) || !strings.HasPrefix(list[0].On, `/v1/tasks/one/revoke {"reason":"wrong"}`) {
		t.Errorf("%d records, want %d: %+v", len(list), len(want), list)
	}
}

// TestAuditHasNoPayloads: what a schedule gives its tasks is not in the record of who
// changed it.
func TestAuditHasNoPayloads(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: []httpapi.Token{httpapi.NewToken("olga", "secret-of-olga-123456", httpapi.Operate)}})
	r.token = "secret-of-olga-123456"
	r.must(200, "PUT", "/v1/schedules/tick", `{"task":"a","spec":"every:1h","args":{"password":"hunter2"},"note":"by <me>","options":{"headers":{"k":"hunter2"}}}`, nil)
	list, _, err := r.client.Audit().List(t.Context(), store.AuditQuery{})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	for _, want := range []string{`"args":"…"`, `"headers":"…"`, `"task":"a"`, `"note":"by <me>"`} {
		if !strings.Contains(list[0].On, want) || strings.Contains(list[0].On, "hunter2") {
			t.Errorf("it is on %s, want %s", list[0].On, want)
		}
	}
}

// TestEveryChangingRouteIsInTheAudit walks the table: each call of a changing
// route that changes something leaves one record, under the name of the caller.
func TestEveryChangingRouteIsInTheAudit(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: []httpapi.Token{httpapi.NewToken("olga", "secret-of-olga-123456", httpapi.Operate)}})
	r.token = "secret-of-olga-123456"
	for _, id := range []string{"one", "two"} {
		r.enqueue(`{"name":"a","queue":"mail","id":"` + id + `"}`)
	}
	for _, id := range []string{"dead-1", "dead-2"} {
		r.enqueue(`{"name":"a","queue":"pull","id":"` + id + `"}`)
		r.settle(r.lease(`{"queues":["pull"],"wait":"20s"}`)[0].Receipt, `"outcome":"failed","permanent":true`)
	}
	r.work(echo())
	eventually(t, "a worker is listed", func() bool {
		var l httpapi.WorkerList
		r.must(200, "GET", "/v1/workers", "", &l)
		return len(l.Workers) == 1
	})
	calls := []struct{ method, route, path, body string }{
		{"POST", "/v1/tasks/{id}/revoke", "/v1/tasks/one/revoke", `{}`},
		{"POST", "/v1/queues/{queue}/pause", "/v1/queues/mail/pause", `{"note":"a look"}`},
		{"POST", "/v1/queues/{queue}/resume", "/v1/queues/mail/resume", `{}`},
		{"POST", "/v1/queues/{queue}/purge", "/v1/queues/mail/purge", `{"confirm":true}`},
		{"POST", "/v1/deadletters/replay", "", `{"filter":{"ids":["dead-1"]}}`},
		{"POST", "/v1/deadletters/purge", "", `{"filter":{"ids":["dead-2"]},"confirm":true}`},
		{"PUT", "/v1/schedules/{id}", "/v1/schedules/a", `{"task":"a","spec":"every:1h"}`},
		{"POST", "/v1/schedules/apply", "", `{"schedules":[{"id":"b","task":"a","spec":"every:1h"}]}`},
		{"POST", "/v1/schedules/{id}/pause", "/v1/schedules/a/pause", `{}`},
		{"POST", "/v1/schedules/{id}/resume", "/v1/schedules/a/resume", `{}`},
		{"POST", "/v1/schedules/{id}/disable", "/v1/schedules/a/disable", `{}`},
		{"POST", "/v1/schedules/{id}/enable", "/v1/schedules/a/enable", `{}`},
		{"POST", "/v1/schedules/{id}/run", "/v1/schedules/a/run", `{}`},
		{"PUT", "/v1/schedules/{id}", "/v1/schedules/past", `{"task":"a","spec":"every:5h","startAt":"2026-01-01T00:00:00Z"}`},
		{"POST", "/v1/schedules/{id}/backfill", "/v1/schedules/past/backfill", `{"from":"2026-01-01T04:00:00Z","to":"2026-01-01T06:00:00Z","confirm":true}`},
		{"DELETE", "/v1/schedules/{id}", "/v1/schedules/a", ""},
		{"PUT", "/v1/rates/{task}", "/v1/rates/a", `{"rate":"10/s","timeout":"60s"}`},
		{"DELETE", "/v1/rates/{task}", "/v1/rates/a?timeout=60s", ""},
		{"POST", "/v1/control/scale", "", `{"worker":"*","concurrency":2,"timeout":"60s"}`},
		{"POST", "/v1/control/log-level", "", `{"worker":"*","level":"debug","timeout":"60s"}`},
		{"POST", "/v1/control/shutdown", "", `{"worker":"*","mode":"warm","confirm":true,"timeout":"60s"}`},
	}
	called := map[string]bool{}
	for _, c := range calls {
		called[c.method+" "+c.route] = true
		if c.path == "" {
			c.path = c.route
		}
		before := r.audited("")
		r.must(200, c.method, c.path, c.body, nil)
		list := r.audited("")
		if len(list) != len(before)+1 {
			t.Errorf("%s %s left %d records, want 1", c.method, c.route, len(list)-len(before))
			continue
		}
		if a := list[0]; a.Who != "olga" || a.Via != "api" || a.What != c.method+" "+c.route || !strings.HasPrefix(a.On, c.path) || a.Error != "" {
			t.Errorf("%s %s left %+v", c.method, c.route, a)
		}
		if list[0].Count != 1 && c.route != "/v1/control/log-level" { // which this worker cannot change
			t.Errorf("%s %s changed %d, want 1", c.method, c.route, list[0].Count)
		}
	}
	for _, rt := range httpapi.Table() {
		if rt.Role == httpapi.Operate && rt.Method != "GET" && !called[rt.Method+" "+rt.Path] {
			t.Errorf("%s %s changes something, and is not tried here", rt.Method, rt.Path)
		}
	}
	total := len(r.audited(""))
	// What changes nothing leaves nothing.
	r.must(200, "POST", "/v1/queues/mail/resume", `{}`, nil)
	r.must(200, "POST", "/v1/schedules/apply", `{"schedules":[{"id":"b","task":"a","spec":"every:1h"}]}`, nil)
	r.must(200, "POST", "/v1/deadletters/replay", `{"filter":{},"dryRun":true}`, nil)
	r.must(200, "POST", "/v1/schedules/past/backfill", `{"from":"2026-01-01T04:00:00Z","to":"2026-01-01T06:00:00Z","confirm":true}`, nil)
	r.must(200, "POST", "/v1/schedules/past/backfill", `{"from":"2026-01-01T04:00:00Z","to":"2026-01-02T04:00:00Z","dryRun":true}`, nil)
	r.must(404, "POST", "/v1/schedules/nobody/pause", `{}`, nil)
	r.must(200, "DELETE", "/v1/rates/a", "", nil)
	r.must(400, "PUT", "/v1/rates/a", `{"rate":"fast"}`, nil)
	r.must(409, "POST", "/v1/schedules/b/pause", `{"version":99}`, nil)
	r.must(400, "POST", "/v1/control/scale", `{"worker":"*","concurrency":0}`, nil)
	r.must(400, "POST", "/v1/control/shutdown", `{"worker":"*"}`, nil)
	r.must(404, "POST", "/v1/control/scale", `{"worker":"nobody","concurrency":2,"timeout":"1ms"}`, nil)
	if n := len(r.audited("")); n != total {
		t.Errorf("what changed nothing left %d records", n-total)
	}
	auditFilters(t, r)
}

// audited lists the audit over the API, all in one page.
func (r *rig) audited(query string) []store.Action {
	r.t.Helper()
	var l httpapi.AuditList
	r.must(200, "GET", "/v1/audit?limit=1000"+query, "", &l)
	return l.Actions
}

func auditFilters(t *testing.T, r *rig) {
	t.Helper()
	all := r.audited("")
	for query, want := range map[string]int{
		"&what=POST+/v1/control/*": 3, "&what=POST+/v1/queues/{queue}/purge": 1, "&who=ol*": len(all), "&who=ed": 0, "&via=cli": 0, "&via=api": len(all),
		"&on=a+look": 1, "&since=1h": len(all), "&until=1h": 0,
	} {
		if got := r.audited(query); len(got) != want {
			t.Errorf("%s: %d records, want %d", query, len(got), want)
		}
	}
	for _, query := range []string{"?via=mail", "?since=soon", "?limit=0", "?cursor=nonsense", "?what=a&what=b"} {
		r.must(400, "GET", "/v1/audit"+query, "", nil)
	}
	var paged []store.Action
	for cursor := ""; ; {
		var l httpapi.AuditList
		r.must(200, "GET", "/v1/audit?limit=5&cursor="+url.QueryEscape(cursor), "", &l)
		paged = append(paged, l.Actions...)
		if cursor = l.Cursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("pages of 5 give %d records, and one page %d", len(paged), len(all))
	}
}
