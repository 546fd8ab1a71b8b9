package httpapi_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/httpapi"
)

func TestPullRequestID(t *testing.T) {
	r := newRig(t, httpapi.Options{})
	for i := range 4 {
		r.enqueue(fmt.Sprintf(`{"name":"a","id":"t%d"}`, i))
	}
	ask := `{"queues":["default"],"count":2,"requestId":"r1"}`
	first, second := r.must(200, "POST", "/v1/lease", ask, nil), r.must(200, "POST", "/v1/lease", ask, nil)
	if string(first.body) != string(second.body) || !strings.Contains(string(first.body), `"t1"`) {
		t.Errorf("a repeat got\n%s after\n%s", second.body, first.body)
	}
	if got := r.do("POST", "/v1/lease", `{"queues":["default"],"count":3,"requestId":"r1"}`); got.problem() != "request-id-reused" || got.status != 409 {
		t.Errorf("another request with the id: %d %s", got.status, got.body)
	}
	if got := r.lease(`{"queues":["default"],"count":9,"requestId":"r2"}`); len(got) != 2 {
		t.Errorf("the rest: %+v", got)
	}
	// An empty answer is not remembered.
	if got := r.lease(`{"queues":["late"],"requestId":"r3"}`); len(got) != 0 {
		t.Errorf("leased: %+v", got)
	}
	r.enqueue(`{"name":"a","queue":"late"}`)
	if got := r.lease(`{"queues":["late"],"requestId":"r3"}`); len(got) != 1 {
		t.Errorf("leased: %+v", got)
	}
	var a httpapi.LeaseAnswer
	first.into(t, &a)
	body := fmt.Sprintf(`{"requestId":"s1","tasks":[{"receipt":%q,"outcome":"release"}]}`, a.Tasks[0].Receipt)
	one := r.must(200, "POST", "/v1/settle", body, nil)
	if got := r.lease(`{"queues":["default"]}`); len(got) != 1 || got[0].ID != "t0" {
		t.Fatalf("after the release: %+v", got)
	}
	if two := r.must(200, "POST", "/v1/settle", body, nil); string(two.body) != string(one.body) {
		t.Errorf("settled again: %s after %s", two.body, one.body)
	}
}

// TestPullRequestIDAnywhere: a repeat gets the same answer from any server.
func TestPullRequestIDAnywhere(t *testing.T) {
	stores(t, func(t *testing.T, db stem.Backend) {
		testAnywhere(t, newRigOn(t, db, httpapi.Options{}), newRigOn(t, db, httpapi.Options{}))
	})
}

func testAnywhere(t *testing.T, a, b *rig) {
	for i := range 3 {
		a.enqueue(fmt.Sprintf(`{"name":"a","id":"t%d","args":"<&>"}`, i))
	}
	ask := `{"queues":["default"],"count":2,"requestId":"r1"}`
	first := a.must(200, "POST", "/v1/lease", ask, nil)
	for _, at := range []*rig{b, a, b} {
		if got := at.must(200, "POST", "/v1/lease", ask, nil); string(got.body) != string(first.body) {
			t.Errorf("a repeat got\n%s after\n%s", got.body, first.body)
		}
	}
	if got := b.do("POST", "/v1/lease", `{"queues":["default"],"count":1,"requestId":"r1"}`); got.problem() != "request-id-reused" {
		t.Errorf("another request with the id: %d %s", got.status, got.body)
	}
	var l httpapi.LeaseAnswer
	if first.into(t, &l); len(l.Tasks) != 2 {
		t.Fatalf("leased %+v", l)
	}
	body := fmt.Sprintf(`{"requestId":"s1","tasks":[{"receipt":%q,"outcome":"release"}]}`, l.Tasks[0].Receipt)
	one := a.must(200, "POST", "/v1/settle", body, nil)
	if got := b.lease(`{"queues":["default"],"requestId":"r2"}`); len(got) != 1 || got[0].ID != "t0" {
		t.Fatalf("after the release: %+v", got)
	}
	if two := b.must(200, "POST", "/v1/settle", body, nil); string(two.body) != string(one.body) {
		t.Errorf("settled again: %s after %s", two.body, one.body)
	}
	// Both wait for the same, and the work comes: one takes it, both tell of it.
	if got := b.lease(`{"queues":["default"]}`); len(got) != 1 || got[0].ID != "t2" {
		t.Fatalf("the last: %+v", got)
	}
	wait := `{"queues":["default"],"wait":"10s","requestId":"r3"}`
	answers := make(chan string, 2)
	for _, at := range []*rig{a, b} {
		go func() { answers <- string(at.do("POST", "/v1/lease", wait).body) }()
	}
	a.enqueue(`{"name":"a","id":"u0"}`)
	b.enqueue(`{"name":"a","id":"u1"}`)
	x, y := <-answers, <-answers
	if x != y || !strings.Contains(x, `"id":"u`) {
		t.Errorf("two servers answer\n%s\n%s", x, y)
	}
	rest := b.lease(`{"queues":["default"],"wait":"10s","count":9}`)
	if len(rest) != 1 || rest[0].Attempt != 0 || strings.Contains(x, rest[0].Receipt) {
		t.Errorf("what the slower one gave back: %+v", rest)
	}
}

// moody is a backend whose broker cannot settle one task for a while.
type moody struct {
	stem.Backend
	id   string
	away atomic.Bool
}

func (m *moody) Unwrap() stem.Backend  { return m.Backend }
func (m *moody) Broker() broker.Broker { return moodyBroker{m.Backend.Broker(), m} }

type moodyBroker struct {
	broker.Broker
	m *moody
}

func (b moodyBroker) Unwrap() broker.Broker { return b.Broker }

func (b moodyBroker) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	errs := make([]error, len(batch))
	for i := range batch {
		if errs[i] = broker.ErrUnavailable; batch[i].Receipt.ID != b.m.id || !b.m.away.Load() {
			one, err := b.Broker.Settle(ctx, batch[i:i+1])
			if err != nil {
				return nil, err
			}
			errs[i] = one[0]
		}
	}
	return errs, nil
}

// TestPullRequestIDTriesAgain: what failed for a reason that may pass is tried
// again by a repeat, and what did not fail stands.
func TestPullRequestIDTriesAgain(t *testing.T) {
	db := &moody{Backend: memory.New(), id: "t1"}
	defer db.Close()
	db.away.Store(true)
	r := newRigOn(t, db, httpapi.Options{})
	for i := range 2 {
		r.enqueue(fmt.Sprintf(`{"name":"a","id":"t%d"}`, i))
	}
	l := r.lease(`{"queues":["default"],"count":2}`)
	if len(l) != 2 {
		t.Fatalf("leased %+v", l)
	}
	body := fmt.Sprintf(`{"requestId":"s","tasks":[{"receipt":%q,"outcome":"succeeded"},{"receipt":%q,"outcome":"succeeded"}]}`, l[0].Receipt, l[1].Receipt)
	var a httpapi.SettleAnswer
	r.must(200, "POST", "/v1/settle", body, &a)
	if !a.Tasks[0].OK || a.Tasks[1].OK || a.Tasks[1].Error.Type != "/problems/unavailable" {
		t.Errorf("settled: %+v", a)
	}
	db.away.Store(false)
	for range 2 {
		a = httpapi.SettleAnswer{}
		r.must(200, "POST", "/v1/settle", body, &a)
		if !a.Tasks[0].OK || !a.Tasks[1].OK {
			t.Errorf("settled again: %+v", a)
		}
	}
}
