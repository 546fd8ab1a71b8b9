package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Auditing is an empty audit.
type Auditing struct {
	Audit store.Audit
	Other store.Audit // the same as another process sees it; nil: there is none
	Close func() error
}

// RunAudit tests the rules U1 to U4, each on an audit of its own that open makes.
func RunAudit(t *testing.T, open func(t testing.TB) Auditing) {
	conform.Run(t, conform.Config{}, auditRules(open))
}

func auditRules(open func(t testing.TB) Auditing) []conform.Rule {
	var rules []conform.Rule
	for _, r := range []struct {
		name string
		test func(e *auditEnv)
	}{
		{"U1_kept_as_given", testU1}, {"U1_repeats", testU1Repeat}, {"U2_pages", testU2}, {"U2_filters", testU2Filters},
		{"U3_until_its_time", testU3}, {"U4_bad_records_and_the_end", testU4},
	} {
		rules = append(rules, conform.Rule{Name: r.name, Test: func(t testing.TB) {
			a := open(t)
			if a.Other == nil {
				a.Other = a.Audit
			}
			closeOnce, last := ending(t, a.Close)
			defer last()
			r.test(&auditEnv{TB: t, a: a.Audit, other: a.Other, close: closeOnce})
		}})
	}
	return rules
}

type auditEnv struct {
	testing.TB
	a, other store.Audit
	close    func() error
}

// auditStart is when the records of these tests begin.
func auditStart() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC) }

// action is the i-th record; three have the same moment.
func action(i int) store.Action {
	return store.Action{
		ID: fmt.Sprintf("id-%04d", i), At: auditStart().Add(time.Duration(i/3) * time.Second),
		Who: fmt.Sprintf("user%d@host", i%2), Via: []string{"cli", "api"}[i%2], What: []string{"dlq replay", "queue pause"}[i%3%2],
		On: fmt.Sprintf("queue=Q%d", i), Count: i,
	}
}

func (e *auditEnv) note(a store.Audit, x store.Action, keep time.Duration) {
	e.Helper()
	if err := a.Note(e.Context(), x, keep); err != nil {
		e.Fatalf("Note %s: %v", x.ID, err)
	}
}

// all lists everything that the query selects, page by page.
func (e *auditEnv) all(a store.Audit, q store.AuditQuery) (list []store.Action) {
	e.Helper()
	for range 1000 {
		page, cursor, err := a.List(e.Context(), q)
		if err != nil {
			e.Fatalf("List %+v: %v", q, err)
		}
		if len(page) > q.Size() {
			e.Errorf("a page of %d, want %d at most", len(page), q.Size())
		}
		if list = append(list, page...); cursor == "" {
			return list
		}
		q.Cursor = cursor
	}
	e.Fatalf("List %+v: the pages do not end", q)
	return nil
}

func (e *auditEnv) want(got, want []store.Action) {
	e.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		e.Errorf("listed (-want +got):\n%s", diff)
	}
}

func testU1(e *auditEnv) {
	x := store.Action{
		ID: "a:1", At: auditStart(), Who: "Zoë <z@host>\x00", Via: "cli", What: "dlq purge", On: "queue=\"a\" 'b'\n",
		Count: 12345678, Reason: strings.Repeat("ü", 2000), Error: "no route\tto host",
	}
	given := x
	given.At = x.At.Add(123 * time.Microsecond).In(time.FixedZone("CET", 3600))
	e.note(e.a, given, time.Hour)
	e.want(e.all(e.other, store.AuditQuery{}), []store.Action{x})
}

func testU1Repeat(e *auditEnv) {
	x := action(1)
	e.note(e.a, x, time.Hour)
	again := x
	again.Count = 99
	e.note(e.other, again, time.Hour)
	e.want(e.all(e.a, store.AuditQuery{}), []store.Action{x})
}

func testU2(e *auditEnv) {
	const n = 25
	var want []store.Action
	for i := range n {
		want = append(want, action(n-1-i))
	}
	for i := range n { // in an order of their own
		a := e.a
		if i%2 == 1 {
			a = e.other
		}
		e.note(a, action(i*7%n), time.Hour)
	}
	for _, limit := range []int{1, 2, 5, 25, 0} {
		e.want(e.all(e.other, store.AuditQuery{Limit: limit}), want)
	}
	page, cursor, err := e.a.List(e.Context(), store.AuditQuery{Limit: n})
	if err != nil || len(page) != n || cursor != "" {
		e.Errorf("the whole in a page: %d records, cursor %q, error %v", len(page), cursor, err)
	}
}

func testU2Filters(e *auditEnv) {
	const n = 30
	for i := range n {
		e.note(e.a, action(i), time.Hour)
	}
	at := func(s int) time.Time { return auditStart().Add(time.Duration(s) * time.Second) }
	for _, q := range []store.AuditQuery{
		{Who: "user1@host"}, {Who: "user*"}, {Who: "*@other"}, {Via: "api"}, {What: "queue *"}, {What: "dlq replay"},
		{On: "q1"}, {On: "Q29"}, {Since: at(3)}, {Until: at(3)}, {Since: at(2), Until: at(5)},
		{Since: at(3).Add(time.Microsecond)}, {Until: at(3).Add(time.Microsecond)},
		{Who: "user1@host", What: "dlq *", Since: at(1), Limit: 2},
	} {
		var want []store.Action
		for i := n - 1; i >= 0; i-- {
			if x := action(i); q.Match(&x) {
				want = append(want, x)
			}
		}
		e.want(e.all(e.other, q), want)
	}
}

func testU3(e *auditEnv) {
	const keep = 150 * time.Millisecond
	began := time.Now()
	e.note(e.a, action(2), time.Hour)
	e.note(e.a, action(1), keep)
	for {
		asked := time.Now()
		n := len(e.all(e.other, store.AuditQuery{}))
		if n == 1 {
			if passed := time.Since(began); passed < keep-early {
				e.Errorf("a record of %s was gone after %s", keep, passed)
			}
			break
		}
		if passed := asked.Sub(began); n != 2 || passed > 20*time.Second {
			e.Fatalf("%d records after %s, of which one is kept for %s", n, passed, keep)
		}
		time.Sleep(poll)
	}
	e.note(e.a, action(3), time.Hour)
	e.want(e.all(e.a, store.AuditQuery{}), []store.Action{action(3), action(2)})
}

func testU4(e *auditEnv) {
	ctx := e.Context()
	for name, bad := range map[string]func(*store.Action){
		"id": func(x *store.Action) { x.ID = "a b" }, "no id": func(x *store.Action) { x.ID = "" },
		"moment": func(x *store.Action) { x.At = time.Time{} }, "who": func(x *store.Action) { x.Who = "" },
		"via": func(x *store.Action) { x.Via = "" }, "what": func(x *store.Action) { x.What = "" },
		"long": func(x *store.Action) { x.Reason = strings.Repeat("x", 1<<16) },
	} {
		x := action(1)
		bad(&x)
		if err := e.a.Note(ctx, x, time.Hour); !errors.Is(err, task.ErrInvalid) {
			e.Errorf("Note with a bad %s: %v", name, err)
		}
	}
	if err := e.a.Note(ctx, action(1), 0); !errors.Is(err, task.ErrInvalid) {
		e.Errorf("Note for no time: %v", err)
	}
	if _, _, err := e.a.List(ctx, store.AuditQuery{Cursor: "x"}); !errors.Is(err, task.ErrInvalid) {
		e.Errorf("List with a bad cursor: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := e.a.Note(gone, action(1), time.Hour); !errors.Is(err, context.Canceled) {
		e.Errorf("Note without time: %v", err)
	}
	if _, _, err := e.a.List(gone, store.AuditQuery{}); !errors.Is(err, context.Canceled) {
		e.Errorf("List without time: %v", err)
	}
	e.want(e.all(e.other, store.AuditQuery{}), nil)
	if err := e.close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	if err := e.a.Note(ctx, action(1), time.Hour); !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Note after Close: %v", err)
	}
	if _, _, err := e.a.List(ctx, store.AuditQuery{}); !errors.Is(err, broker.ErrClosed) {
		e.Errorf("List after Close: %v", err)
	}
}
