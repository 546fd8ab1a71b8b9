package storetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// population creates statuses of every kind, several of them enqueued in the
// same millisecond, and returns them as they are listed without a filter.
func population(e *env) []task.Status {
	base := now().Add(-time.Hour)
	var batch []task.Status
	for i := range 40 {
		v := envelope(fmt.Sprintf("t%02d", (i*7)%40))
		v.Name = []string{"email.send", "email.fetch", "image.resize"}[i%3]
		v.Queue = []string{"default", "mail", "mass-mail", "m"}[i%4]
		v.EnqueuedAt = base.Add(time.Duration(i/3) * time.Minute)
		v.Args = []byte(fmt.Sprintf(`{"n":%d,"user":{"id":%d,"name":"u-%d"}}`, i, i%3, i%7))
		v.Meta = map[string]json.RawMessage{task.MetaUser: fmt.Appendf(nil, `{"tenant":"t-%d","n":%d}`, i%5, i)}
		batch = append(batch, task.NewStatus(v))
	}
	e.createAll(batch)
	for i, s := range batch {
		u := startOf(s.ID, 1)
		r := outcomeOf(s.ID, 1, task.Failed)
		switch i % 6 {
		case 0:
			continue
		case 1:
			r.Outcome.State, r.Outcome.Reason, r.Outcome.Error = task.Succeeded, "", nil
		case 2:
			r.Outcome.Error.Type, r.Outcome.Error.Message = "*net.OpError", "dial tcp: Timed OUT"
		case 3:
			r = outcomeOf(s.ID, 1, task.Retried)
		case 4:
			r = outcomeOf(s.ID, 1, task.Cancelled)
		}
		u.Worker = fmt.Sprintf("worker-%d", i%2)
		r.Outcome.Worker = u.Worker
		e.start(u)
		if i%6 < 5 {
			e.record(r)
			e.clear(s.ID, 1)
		}
	}
	for i := range batch {
		batch[i] = e.get(batch[i].ID)
	}
	slices.SortFunc(batch, newestFirst)
	return batch
}

func newestFirst(a, b task.Status) int {
	if c := b.EnqueuedAt.Compare(a.EnqueuedAt); c != 0 {
		return c
	}
	return strings.Compare(b.ID, a.ID)
}

func statusIDs(list []task.Status) []string {
	ids := make([]string, 0, len(list))
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids
}

// pages follows the cursors to the end, and calls between after each page.
func (e *env) pages(q store.Query, between func()) (ids []string) {
	e.Helper()
	for n := 0; ; n++ {
		l, err := e.Results.List(e.ctx, q)
		if err != nil || len(l.Statuses) > q.Size() {
			e.Fatalf("List %+v: %d statuses, error %v", q, len(l.Statuses), err)
		}
		if l.Looked < len(l.Statuses) || l.Truncated && l.Cursor == "" {
			e.Errorf("List %+v: looked at %d, truncated %v, cursor %q", q, l.Looked, l.Truncated, l.Cursor)
		}
		ids = append(ids, statusIDs(l.Statuses)...)
		if l.Cursor == "" {
			return ids
		}
		if n > 1000 {
			e.Fatalf("List %+v does not end", q)
		}
		q.Cursor = l.Cursor
		between()
	}
}

// testS9: listings agree with Query.Match, in pages.
func testS9(e *env) {
	all := population(e)
	base := all[len(all)-1].EnqueuedAt
	nothing := func() {}
	queries := map[string]store.Query{
		"all":           {},
		"one state":     {States: []task.State{task.Failed}},
		"two states":    {States: []task.State{task.Queued, task.Retried}},
		"a name":        {Name: "email.send"},
		"names":         {Name: "email.*"},
		"queues":        {Queue: "m*mail"},
		"a worker":      {Worker: "worker-1"},
		"a reason":      {Reason: task.ReasonExpired},
		"an error":      {Error: "timed out"},
		"a type":        {Error: "*NET.operror"},
		"args":          {Args: `"n":7`},
		"a field":       {Fields: map[string]string{"user.id": "2"}},
		"more fields":   {Fields: map[string]string{"n": "13", "user.name": "u-*"}},
		"meta":          {Meta: map[string]string{"tenant": "t-3"}},
		"more meta":     {Meta: map[string]string{"tenant": "t-*", "n": "13"}},
		"a span":        {Since: base.Add(2 * time.Minute), Until: base.Add(9 * time.Minute)},
		"a combination": {States: []task.State{task.Failed, task.Succeeded}, Name: "email.*", Queue: "*mail", Since: base.Add(time.Minute)},
		"none":          {Name: "nothing.*"},
	}
	for what, q := range queries {
		for _, limit := range []int{0, 1, 4, 1000} {
			q.Limit = limit
			var want []string
			for _, s := range all {
				if q.Match(&s) {
					want = append(want, s.ID)
				}
			}
			if got := e.pages(q, nothing); !slices.Equal(got, want) {
				e.Errorf("%s in pages of %d: got %v, want %v", what, limit, got, want)
			}
			if (what != "none") != (len(want) > 0) {
				e.Fatalf("the query %q tests nothing", what)
			}
		}
	}
	randomQueries(e, all)
	changingPages(e, all)
	if _, err := e.Results.List(e.ctx, store.Query{Cursor: "no cursor"}); err == nil {
		e.Errorf("List with a broken cursor gave no error")
	} else {
		e.is("List with a broken cursor", err, task.ErrInvalid)
	}
	if e.o.Fill {
		boundedScan(e)
	}
}

// randomQueries compares many small combinations with Query.Match.
func randomQueries(e *env, all []task.Status) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	for range 60 {
		q := store.Query{
			Name: pick("", "", "email.*", "*.resize"), Queue: pick("", "", "m", "*mail"), Worker: pick("", "", "worker-0"),
			Error: pick("", "", "", "boom"), Limit: 1 + r.IntN(50),
		}
		for _, s := range task.States() {
			if r.IntN(3) == 0 {
				q.States = append(q.States, s)
			}
		}
		if r.IntN(3) == 0 {
			q.Until = all[r.IntN(len(all))].EnqueuedAt
		}
		var want []string
		for _, s := range all {
			if q.Match(&s) {
				want = append(want, s.ID)
			}
		}
		if got := e.pages(q, func() {}); !slices.Equal(got, want) {
			e.Errorf("List %+v: got %v, want %v", q, got, want)
		}
	}
}

// changingPages: what does not change is listed once, whatever else happens.
func changingPages(e *env, all []task.Status) {
	still := make(map[string]int)
	var finished []string
	for _, s := range all {
		if s.State == task.Succeeded {
			finished = append(finished, s.ID)
			continue
		}
		still[s.ID] = 0
	}
	n := 0
	got := e.pages(store.Query{Limit: 6}, func() {
		n++
		e.create(fmt.Sprintf("new-%d", n))
		if n <= len(finished) {
			if errs, err := e.Results.Delete(e.ctx, finished[n-1]); err != nil || errs[0] != nil {
				e.Fatalf("Delete: %v, %v", errs, err)
			}
		}
	})
	for _, id := range got {
		if _, counts := still[id]; counts {
			still[id]++
		}
	}
	for id, times := range still {
		if times != 1 {
			e.Errorf("%s did not change, and was listed %d times", id, times)
		}
	}
}

// boundedScan: a filter that matches little says when it has looked enough.
func boundedScan(e *env) {
	const page = 1000
	base := now().Add(-24 * time.Hour)
	for n := 0; n <= store.ScanLimit; n += page {
		batch := make([]task.Status, page)
		for i := range batch {
			v := envelope(fmt.Sprintf("fill-%06d", n+i))
			v.EnqueuedAt = base.Add(time.Duration(n+i) * time.Millisecond)
			batch[i] = task.NewStatus(v)
		}
		e.createAll(batch)
	}
	q := store.Query{Args: "in no record at all", Queue: "q*", Limit: 10}
	looked := 0
	for range 5 {
		l, err := e.Results.List(e.ctx, q)
		if err != nil || len(l.Statuses) != 0 || l.Looked > store.ScanLimit || l.Truncated != (l.Cursor != "") {
			e.Fatalf("a scan of more than %d: %d found, looked at %d, truncated %v, cursor %q, error %v",
				store.ScanLimit, len(l.Statuses), l.Looked, l.Truncated, l.Cursor, err)
		}
		looked += l.Looked
		if q.Cursor = l.Cursor; l.Cursor == "" {
			break
		}
	}
	if q.Cursor != "" || looked < store.ScanLimit {
		e.Errorf("a scan of more than %d looked at %d in all, and has cursor %q", store.ScanLimit, looked, q.Cursor)
	}
}
