package httpapi_test

import (
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
