package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

func TestQueues(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	var none httpapi.QueueList
	if r.must(200, "GET", "/v1/queues", "", &none); none.Queues == nil || len(none.Queues) != 0 {
		t.Errorf("no queues: %+v", none)
	}
	for _, in := range []string{"0s", "0s", "40s", "2h"} {
		r.enqueue(fmt.Sprintf(`{"name":"a","queue":"mail","in":%q}`, in))
	}
	var q httpapi.QueueList
	r.must(200, "GET", "/v1/queues?name=mail,other", "", &q)
	if len(q.Queues) != 2 || q.Queues[0].Name != "mail" || q.Queues[0].Ready != 2 || q.Queues[0].Delayed != 2 || q.Queues[0].Due != 1 {
		t.Errorf("queues: %+v", q)
	}
	var sc httpapi.Scale
	r.must(200, "GET", "/v1/scale?queue=mail", "", &sc)
	if sc.Value != 3 || sc.Ready != 2 || sc.Due != 1 || sc.Delayed != 2 {
		t.Errorf("scale: %+v", sc)
	}
	if got := r.do("POST", "/v1/queues/mail/purge", `{}`); got.problem() != "confirmation-missing" {
		t.Errorf("purge without a word: %d %s", got.status, got.body)
	}
	var c httpapi.Changed
	if r.must(200, "POST", "/v1/queues/mail/purge", `{"dryRun":true,"confirm":true}`, &c); c.Count != 4 || !c.DryRun {
		t.Errorf("dry run: %+v", c)
	}
	if r.must(200, "POST", "/v1/queues/mail/purge", `{"confirm":true}`, &c); c.Count != 4 || c.DryRun {
		t.Errorf("purge: %+v", c)
	}
	if r.must(200, "GET", "/v1/scale?queue=mail", "", &sc); sc.Value+sc.Delayed != 0 {
		t.Errorf("scale after the purge: %+v", sc)
	}
	for _, path := range []string{"/v1/scale", "/v1/scale?queue=a%20b", "/v1/queues?name=a,", "/v1/queues?name=.."} {
		if got := r.do("GET", path, ""); got.problem() != "invalid-argument" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	r.work(stem.NewTask[json.RawMessage, stem.None]("bad").Do(func(context.Context, json.RawMessage) error {
		return stem.Permanent(errors.New("no such address"))
	}))
	for i := range 5 {
		r.enqueue(fmt.Sprintf(`{"name":"bad","id":"d%d","args":{"n":%d}}`, i, i))
	}
	for i := range 5 {
		r.must(200, "GET", fmt.Sprintf("/v1/tasks/d%d/wait", i), "", nil)
	}
	var l httpapi.DeadList
	r.must(200, "GET", "/v1/deadletters?limit=3&reason=permanent&queue=def*&task=bad", "", &l)
	if len(l.DeadLetters) != 3 || l.Cursor == "" || l.DeadLetters[0].Error.Message != "no such address" || l.DeadLetters[0].Envelope != nil {
		t.Errorf("listed: %+v", l)
	}
	var next httpapi.DeadList
	r.must(200, "GET", "/v1/deadletters?limit=3&cursor="+l.Cursor, "", &next)
	if len(next.DeadLetters) != 2 || next.Cursor != "" {
		t.Errorf("next page: %+v", next)
	}
	var d httpapi.DeadLetter
	r.must(200, "GET", "/v1/deadletters/d3", "", &d)
	var e struct{ Args struct{ N int } }
	if err := json.Unmarshal(d.Envelope, &e); err != nil || e.Args.N != 3 {
		t.Errorf("envelope %s: %v", d.Envelope, err)
	}
	if got := r.do("GET", "/v1/deadletters/d9", ""); got.problem() != "not-found" {
		t.Errorf("an unknown one: %d %s", got.status, got.body)
	}
	var c httpapi.Changed
	if r.must(200, "POST", "/v1/deadletters/replay", `{"filter":{},"dryRun":true}`, &c); c.Count != 5 || len(c.IDs) != 5 {
		t.Errorf("dry replay: %+v", c)
	}
	if r.must(200, "POST", "/v1/deadletters/replay", `{"filter":{"ids":["d1"]},"in":"1h"}`, &c); c.Count != 1 || c.IDs[0] != "d1" {
		t.Errorf("replay: %+v", c)
	}
	var s stem.Status
	if r.must(200, "GET", "/v1/tasks/d1", "", &s); s.State != stem.Queued || s.ReplayCount != 1 {
		t.Errorf("after the replay: %s", s.State)
	}
	if got := r.do("POST", "/v1/deadletters/purge", `{"filter":{}}`); got.problem() != "confirmation-missing" {
		t.Errorf("purge without a word: %d %s", got.status, got.body)
	}
	if r.must(200, "POST", "/v1/deadletters/purge", `{"filter":{"task":"bad"},"limit":3,"confirm":true}`, &c); c.Count != 3 {
		t.Errorf("purge: %+v", c)
	}
	if r.must(200, "GET", "/v1/deadletters", "", &l); len(l.DeadLetters) != 1 {
		t.Errorf("left: %+v", l)
	}
	for body, pointer := range map[string]string{
		`{"filter":{"ids":[]},"confirm":true}`:            "/filter/ids",
		`{"filter":{"ids":["a","b c"]},"confirm":true}`:   "/filter/ids/1",
		`{"confirm":true}`:                                "/filter",
		`{"filter":{"quee":"x"},"confirm":true}`:          "/filter/quee",
		`{"filter":{"before":"never"},"confirm":true}`:    "/filter/before",
		`{"filter":{},"confirm":true,"limit":-1}`:         "/limit",
		`{"filter":{},"confirm":true,"limit":1.5}`:        "/limit",
		`{"filter":{},"confirm":"yes"}`:                   "/confirm",
		`{"filter":{},"confirm":true,"confirm":true}`:     "/confirm",
		`{"filter":{},"limit":99999999999999999999}`:      "/limit",
		`{"filter":null,"confirm":true}`:                  "/filter",
		`{"filter":{"task":"a","task":"b"},"limit":null}`: "/filter/task",
	} {
		got := r.do("POST", "/v1/deadletters/purge", body)
		var p httpapi.Problem
		got.into(t, &p)
		if got.status != 400 || p.Pointer != pointer {
			t.Errorf("%s: %d %s, want a pointer to %s", body, got.status, got.body, pointer)
		}
	}
	var left httpapi.DeadList
	if r.must(200, "GET", "/v1/deadletters", "", &left); len(left.DeadLetters) != 1 {
		t.Errorf("bad requests changed something: %+v", left)
	}
	var w httpapi.WorkerList
	eventually(t, "the worker is listed", func() bool {
		r.must(200, "GET", "/v1/workers", "", &w)
		return len(w.Workers) == 1
	})
}
