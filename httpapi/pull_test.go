package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/httpapi"
)

func (r *rig) lease(body string) []httpapi.Leased {
	r.t.Helper()
	var a httpapi.LeaseAnswer
	r.must(200, "POST", "/v1/lease", body, &a)
	if a.Tasks == nil {
		r.t.Fatal("tasks is null")
	}
	return a.Tasks
}

// settle settles one task: fields are its JSON beside the receipt.
func (r *rig) settle(receipt, fields string) httpapi.Settled {
	r.t.Helper()
	var a httpapi.SettleAnswer
	r.must(200, "POST", "/v1/settle", fmt.Sprintf(`{"tasks":[{"receipt":%q,%s}]}`, receipt, fields), &a)
	return a.Tasks[0]
}

func (r *rig) status(id string) (s stem.Status) {
	r.t.Helper()
	r.must(200, "GET", "/v1/tasks/"+id, "", &s)
	return s
}

// stores runs a test on a store in memory, on SQLite, and on a pair of stores.
func stores(t *testing.T, run func(t *testing.T, b stem.Backend)) {
	open := func(t *testing.T) stem.Backend {
		db, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "stem.db")})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	for name, make := range map[string]func(t *testing.T) stem.Backend{
		"memory": func(*testing.T) stem.Backend { return memory.New() },
		"sqlite": open,
		"pair":   func(t *testing.T) stem.Backend { return stem.Pair(open(t), memory.New()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := make(t)
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
			run(t, b)
		})
	}
}

func TestPull(t *testing.T) {
	stores(t, func(t *testing.T, b stem.Backend) { testPull(t, newRigOn(t, b, httpapi.Options{})) })
}

func testPull(t *testing.T, r *rig) {
	if got := r.lease(`{"queues":["default"]}`); len(got) != 0 {
		t.Fatalf("of nothing: %+v", got)
	}
	for i := range 3 {
		r.enqueue(fmt.Sprintf(`{"name":"py.add","id":"p%d","args":[%d,1],"headers":{"tenant":"acme"},"onSuccess":[{"name":"next","id":"n%d"}]}`, i, i, i))
	}
	got := r.lease(`{"queues":["other","def*"],"count":2,"worker":"py-1","lease":"20s"}`)
	if len(got) != 2 {
		t.Fatalf("leased %d, want 2", len(got))
	}
	a := got[0]
	if a.ID != "p0" || a.Name != "py.add" || string(a.Args) != "[0,1]" || a.Queue != "default" || a.Attempt != 0 || a.Redelivered ||
		a.LeaseMS != 20_000 || time.Until(a.LeasedUntil) > 20*time.Second || a.Headers["tenant"] != "acme" {
		t.Errorf("leased: %+v", a)
	}
	if s := r.status("p0"); s.State != stem.Running || s.Worker != "py-1" || s.Starts != 1 {
		t.Errorf("status: %s of %s, %d starts", s.State, s.Worker, s.Starts)
	}
	var x httpapi.ExtendAnswer
	r.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q,"progress":{"percent":40,"data":{"row":4}}}]}`, a.Receipt), &x)
	if !x.Tasks[0].OK || x.Tasks[0].Revoked || x.Tasks[0].ID != "p0" {
		t.Errorf("extended: %+v", x)
	}
	if s := r.status("p0"); s.Progress == nil || s.Progress.Percent != 40 {
		t.Errorf("progress: %+v", s.Progress)
	}
	if s := r.settle(a.Receipt, `"outcome":"succeeded","result":{"sum":1}`); !s.OK || s.State != "succeeded" || s.Repeated {
		t.Errorf("settled: %+v", s)
	}
	s := r.status("p0")
	if s.State != stem.Succeeded || string(s.Result) != `{"sum":1}` || s.Worker != "py-1" || s.Attempt != 1 || s.StartedAt.IsZero() {
		t.Errorf("status: %+v", s)
	}
	if s := r.status("n0"); s.State != stem.Queued || string(s.Args) != `{"sum":1}` || string(s.Meta["parent"]) != `"p0"` {
		t.Errorf("the linked task: %+v", s)
	}
	// The same again is no error, another outcome is.
	if s := r.settle(a.Receipt, `"outcome":"succeeded","result":{"sum":1}`); !s.OK || !s.Repeated {
		t.Errorf("settled again: %+v", s)
	}
	if s := r.settle(a.Receipt, `"outcome":"failed"`); s.OK || s.Error == nil || s.Error.Type != "/problems/lease-lost" {
		t.Errorf("settled otherwise: %+v", s)
	}
	r.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, a.Receipt), &x)
	if x.Tasks[0].OK || x.Tasks[0].Error.Type != "/problems/lease-lost" {
		t.Errorf("extended after the end: %+v", x)
	}
}

func TestPullOutcomes(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	one := func(id string, body string) httpapi.Leased {
		t.Helper()
		r.enqueue(fmt.Sprintf(`{"name":"a","id":%q,"queue":%q%s}`, id, id, body))
		got := r.lease(fmt.Sprintf(`{"queues":[%q]}`, id))
		if len(got) != 1 || got[0].ID != id {
			t.Fatalf("leased %+v, want %s", got, id)
		}
		return got[0]
	}
	for i, c := range []struct {
		body, outcome string
		state         stem.State
		reason        string
		attempt       int
		kind          string
		later         bool // it is due later
	}{
		{``, `"outcome":"failed","error":{"type":"ValueError","message":"no","stack":"line 1"}`, stem.Retried, "", 1, "ValueError", true},
		{`,"maxRetries":0`, `"outcome":"failed","error":{"message":"no"}`, stem.Failed, "retries-exhausted", 1, "error", false},
		{``, `"outcome":"failed","permanent":true,"error":{"type":"KeyError"}`, stem.Failed, "permanent", 1, "KeyError", false},
		{``, `"outcome":"failed","permanent":true,"reason":"no-account"`, stem.Failed, "no-account", 1, "error", false},
		{``, `"outcome":"retry","in":"1h","error":{"type":"Busy","message":"later"}`, stem.Retried, "", 1, "Busy", true},
		{`,"maxRetries":0`, `"outcome":"retry","in":"1h"`, stem.Failed, "retries-exhausted", 1, "error", false},
		{``, `"outcome":"snooze","in":"1h"`, stem.Queued, "", 0, "", true},
		{`,"ignoreResult":true`, `"outcome":"succeeded","result":5`, stem.Succeeded, "", 1, "", false},
		{``, `"outcome":"succeeded"`, stem.Succeeded, "", 1, "", false},
		{``, `"outcome":"succeeded","result":"` + strings.Repeat("x", 1<<20) + `"`, stem.Failed, "result-too-large", 1, "result-too-large", false},
	} {
		id := fmt.Sprintf("t%d", i)
		l := one(id, c.body)
		if s := r.settle(l.Receipt, c.outcome+`,"worker":"w-9"`); !s.OK || s.State != string(c.state) {
			t.Errorf("%.80s: %+v, want %s", c.outcome, s, c.state)
			continue
		}
		s := r.status(id)
		kind := ""
		if s.Error != nil {
			kind = s.Error.Type
		}
		if s.State != c.state || s.Reason != c.reason || s.Attempt != c.attempt || kind != c.kind || s.NotBefore.After(time.Now()) != c.later {
			t.Errorf("%.80s: %s %s, attempt %d, error %q, due %s", c.outcome, s.State, s.Reason, s.Attempt, kind, s.NotBefore)
		}
	}
	// Released: in its place, uncounted, and delivered again.
	l := one("r", "")
	if s := r.settle(l.Receipt, `"outcome":"release"`); !s.OK || s.State != "queued" {
		t.Errorf("released: %+v", s)
	}
	again := r.lease(`{"queues":["r"]}`)
	if len(again) != 1 || again[0].ID != "r" || again[0].Attempt != 0 || again[0].Receipt == l.Receipt {
		t.Errorf("after the release: %+v", again)
	}
	if s := r.settle(l.Receipt, `"outcome":"succeeded"`); s.OK {
		t.Errorf("a lease that passed on settles: %+v", s)
	}
	// A task that nobody may execute never gets to a puller.
	r.enqueue(`{"name":"a","id":"old","expiresAt":"2001-01-01T00:00:00Z"}`)
	eventually(t, "the expired one is cancelled", func() bool {
		if got := r.lease(`{"queues":["default"]}`); len(got) != 0 {
			t.Fatalf("leased %+v", got)
		}
		return r.status("old").State == stem.Cancelled
	})
}

// TestPullAtAnyServer settles with a server that never saw the lease.
func TestPullAtAnyServer(t *testing.T) {
	stores(t, func(t *testing.T, db stem.Backend) {
		testAnyServer(t, newRigOn(t, db, httpapi.Options{}), newRigOn(t, db, httpapi.Options{}))
	})
}

func testAnyServer(t *testing.T, a, b *rig) {
	a.enqueue(`{"name":"x","id":"1","maxRetries":1,"retention":"forever","onSuccess":[{"name":"next","id":"n"}]}`)
	l := a.lease(`{"queues":["default"],"worker":"w1"}`)[0]
	var x httpapi.ExtendAnswer
	b.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, l.Receipt), &x)
	if !x.Tasks[0].OK {
		t.Errorf("extended: %+v", x)
	}
	if s := b.settle(l.Receipt, `"outcome":"retry","in":"0s"`); !s.OK || s.State != "retried" {
		t.Errorf("settled: %+v", s)
	}
	if s := a.settle(l.Receipt, `"outcome":"retry","in":"0s"`); !s.OK || !s.Repeated {
		t.Errorf("and again at the first: %+v", s)
	}
	l = b.lease(`{"queues":["default"],"worker":"w2","wait":"10s"}`)[0]
	if l.Attempt != 1 {
		t.Errorf("leased: %+v", l)
	}
	if s := a.settle(l.Receipt, `"outcome":"succeeded","result":7`); !s.OK || s.State != "succeeded" {
		t.Errorf("settled: %+v", s)
	}
	if s := a.status("1"); s.Worker != "w2" || !s.ExpiresAt.IsZero() || string(s.Result) != "7" {
		t.Errorf("status: %+v", s)
	}
	if s := a.status("n"); string(s.Args) != "7" {
		t.Errorf("linked: %+v", s)
	}
	// The retry policy holds there too.
	a.enqueue(`{"name":"x","id":"2","maxRetries":1,"queue":"q"}`)
	for _, want := range []string{"retried", "failed"} {
		l := a.lease(`{"queues":["q"],"wait":"10s"}`)[0]
		if s := b.settle(l.Receipt, `"outcome":"failed","error":{"type":"E"}`); s.State != want {
			t.Errorf("settled: %+v, want %s", s, want)
		}
	}
}

// TestPullLongPoll: who waits is woken by an enqueue, each by its own.
func TestPullLongPoll(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	const n = 20
	got := make(chan []httpapi.Leased, n)
	for i := range n {
		go func() {
			var a httpapi.LeaseAnswer
			r.do("POST", "/v1/lease", fmt.Sprintf(`{"queues":["default"],"wait":"20s","worker":"w%d"}`, i)).into(t, &a)
			got <- a.Tasks
		}()
	}
	var ids []string
	for i := range n {
		r.enqueue(fmt.Sprintf(`{"name":"a","id":"t%02d"}`, i))
	}
	for range n {
		tasks := <-got
		if len(tasks) != 1 {
			t.Fatalf("one got %d tasks", len(tasks))
		}
		ids = append(ids, tasks[0].ID)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != n {
		t.Errorf("%v", ids)
	}
	if got := r.lease(`{"queues":["default"],"wait":"20ms"}`); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
	// A delayed one comes at its moment.
	r.enqueue(`{"name":"a","in":"50ms"}`)
	if got := r.lease(`{"queues":["default"],"wait":"20s"}`); len(got) != 1 {
		t.Errorf("delayed: %+v", got)
	}
}

// TestPullClientGone: clients that left take no work with them. One whose
// going the server had not noticed yet may still be given a task, which comes
// back when that lease ends.
func TestPullClientGone(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		req := newRequest(ctx, t, r.url+"/v1/lease", `{"queues":["default"],"wait":"20s","lease":"1s","worker":"gone"}`)
		if resp, err := r.http.Do(req); err == nil {
			resp.Body.Close()
		}
		cancel()
	}
	id := r.enqueue(`{"name":"a"}`)
	got := r.lease(`{"queues":["default"],"wait":"20s","worker":"here"}`)
	if len(got) != 1 || got[0].ID != id {
		s := r.status(id)
		t.Fatalf("leased %+v; the task is %s, worker %q, %d starts", got, s.State, s.Worker, s.Starts)
	}
	if got[0].Redelivered {
		t.Log("one that was gone got it first")
	}
	if s := r.settle(got[0].Receipt, `"outcome":"succeeded"`); !s.OK {
		t.Errorf("settled: %+v", s)
	}
}

func TestPullLeaseEnds(t *testing.T) {
	stores(t, func(t *testing.T, b stem.Backend) {
		testLeaseEnds(t, newRigOn(t, b, httpapi.Options{MaxDeliveries: 2}))
	})
}

func testLeaseEnds(t *testing.T, r *rig) {
	r.enqueue(`{"name":"a","id":"1"}`)
	first := r.lease(`{"queues":["default"],"lease":"1s"}`)[0]
	second := r.lease(`{"queues":["default"],"lease":"1s","wait":"20s"}`)[0]
	if second.ID != "1" || !second.Redelivered || second.Attempt != 0 {
		t.Errorf("after the end of the lease: %+v", second)
	}
	if s := r.settle(first.Receipt, `"outcome":"succeeded"`); s.OK || s.Error.Type != "/problems/lease-lost" {
		t.Errorf("the late one settles: %+v", s)
	}
	// It outlives its second lease too: no third start.
	eventually(t, "a dead letter of a crash loop", func() bool {
		if got := r.lease(`{"queues":["default"],"wait":"100ms"}`); len(got) != 0 {
			t.Fatalf("leased: %+v", got)
		}
		s := r.status("1")
		return s.State == stem.Failed && s.Reason == "crash-loop"
	})
}

// TestPullRevoked: any server tells of a revocation, at once.
func TestPullRevoked(t *testing.T) {
	stores(t, func(t *testing.T, b stem.Backend) {
		testRevoked(t, newRigOn(t, b, httpapi.Options{}), newRigOn(t, b, httpapi.Options{}))
	})
}

func testRevoked(t *testing.T, r, other *rig) {
	r.enqueue(`{"name":"a","id":"0"}`)
	l := r.lease(`{"queues":["default"],"worker":"w1"}`)[0]
	other.must(200, "POST", "/v1/tasks/0/revoke", `{"reason":"no-need"}`, nil)
	var x httpapi.ExtendAnswer
	if other.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, l.Receipt), &x); x.Tasks[0].Revoked {
		t.Errorf("extended, when it may finish: %+v", x)
	}
	if s := other.settle(l.Receipt, `"outcome":"failed"`); !s.OK || s.State != "cancelled" {
		t.Errorf("settled: %+v", s)
	}
	r.enqueue(`{"name":"a","id":"2"}`)
	l = r.lease(`{"queues":["default"],"worker":"w1"}`)[0]
	other.must(200, "POST", "/v1/tasks/2/revoke", `{"terminate":true}`, nil)
	for _, at := range []*rig{other, r} {
		if at.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, l.Receipt), &x); !x.Tasks[0].Revoked || !x.Tasks[0].OK {
			t.Errorf("extended: %+v", x)
		}
	}
	if s := other.settle(l.Receipt, `"outcome":"release"`); !s.OK || s.State != "cancelled" {
		t.Errorf("settled: %+v", s)
	}
	r.enqueue(`{"name":"a","id":"1"}`)
	l = r.lease(`{"queues":["default"],"worker":"w1"}`)[0]
	var rv httpapi.Revoked
	r.must(200, "POST", "/v1/tasks/1/revoke", `{"terminate":true}`, &rv)
	if rv.State != "asked" {
		t.Fatalf("revoked: %+v", rv)
	}
	eventually(t, "the puller is told", func() bool {
		r.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, l.Receipt), &x)
		return x.Tasks[0].Revoked
	})
	if s := r.settle(l.Receipt, `"outcome":"release"`); !s.OK || s.State != "cancelled" {
		t.Errorf("settled: %+v", s)
	}
	if s := r.status("1"); s.State != stem.Cancelled || s.Reason != "revoked" {
		t.Errorf("status: %s %s", s.State, s.Reason)
	}
}

func TestPullRefuses(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	r.enqueue(`{"name":"a"}`)
	receipt := r.lease(`{"queues":["default"]}`)[0].Receipt
	for _, c := range []struct{ path, body, pointer string }{
		{"lease", `{}`, "/queues"},
		{"lease", `{"queues":[]}`, "/queues"},
		{"lease", `{"queues":["a","b c"]}`, "/queues/1"},
		{"lease", `{"queues":"a"}`, "/queues"},
		{"lease", `{"queues":["a"],"count":1001}`, "/count"},
		{"lease", `{"queues":["a"],"count":-1}`, "/count"},
		{"lease", `{"queues":["a"],"wait":"31s"}`, "/wait"},
		{"lease", `{"queues":["a"],"lease":"1ms"}`, "/lease"},
		{"lease", `{"queues":["a"],"lease":"999h"}`, "/lease"},
		{"lease", `{"queues":["a"],"worker":"a b"}`, "/worker"},
		{"lease", `{"queues":["a"],"requestId":"a b"}`, "/requestId"},
		{"extend", `{"tasks":[]}`, "/tasks"},
		{"extend", `{"tasks":[{"receipt":"x"}]}`, "/tasks/0/receipt"},
		{"extend", `{"tasks":[{"receipt":"9.9.9~-1~~x"}]}`, "/tasks/0/receipt"},
		{"extend", `{"tasks":[{"receipt":"1.2.3~1~~x"}]}`, "/tasks/0/receipt"},
		{"extend", `{"tasks":[{"receipt":` + quote(receipt) + `,"progress":{"percent":101}}]}`, "/tasks/0/progress/percent"},
		{"extend", `{"tasks":[{"receipt":` + quote(receipt) + `,"lease":"1ns"}]}`, "/tasks/0/lease"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `}]}`, "/tasks/0/outcome"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"done"}]}`, "/tasks/0/outcome"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"failed","result":1}]}`, "/tasks/0/result"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"succeeded","error":{}}]}`, "/tasks/0/error"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"release","in":"1s"}]}`, "/tasks/0/in"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"failed","reason":"x"}]}`, "/tasks/0/reason"},
		{"settle", `{"tasks":[{"receipt":` + quote(receipt) + `,"outcome":"failed","permanent":true,"reason":"x y"}]}`, "/tasks/0/reason"},
		{"settle", `{"tasks":[{"receipt":"x","outcome":"release"}]}`, "/tasks/0/receipt"},
	} {
		got := r.do("POST", "/v1/"+c.path, c.body)
		var p httpapi.Problem
		if got.into(t, &p); got.status != 400 || p.Pointer != c.pointer {
			t.Errorf("%s %s: %d %s, want a pointer to %s", c.path, c.body, got.status, got.body, c.pointer)
		}
	}
	// A receipt that nobody gave is refused on its own.
	for _, forged := range []string{"0.0.3~1~x~nobody", strings.Replace(receipt, "~", "~9", 1)} {
		if s := r.settle(forged, `"outcome":"succeeded"`); s.OK || s.Error == nil {
			t.Errorf("%s settles: %+v", forged, s)
		}
	}
	if s := r.settle(receipt, `"outcome":"succeeded"`); !s.OK {
		t.Errorf("the real one: %+v", s)
	}
}

func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(raw)
}
