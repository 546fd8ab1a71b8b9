package storetest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testT1: changes apply together, to what they were made from.
func testT1(p *planner) {
	q := p.other()
	at := p.now().Add(time.Hour)
	a := p.create("a", at)
	if a.ID != "a" || a.Version < 1 || !a.NextDue.Equal(at) || !a.NextAt.Equal(at) || string(a.Definition) != string(made("a", at).Definition) {
		p.Errorf("Apply of a new entry: got %+v", a)
	}
	if since := p.now().Sub(a.UpdatedAt); since.Abs() > time.Minute {
		p.Errorf("an entry made just now was updated %s ago", since)
	}
	p.conflicts("Apply of what exists", made("a", at), store.ConflictError{ID: "a", Have: a.Version})

	c := changed(a)
	c.Definition, c.NextDue, c.NextAt = json.RawMessage(`{ "n" : 1.0,"e":[], "big":12345678901234567890 }`), at.Add(time.Hour), at.Add(2*time.Hour)
	b := q.apply(c)[0]
	if b.Version <= a.Version || string(b.Definition) != string(c.Definition) || !b.NextDue.Equal(c.NextDue) || !b.NextAt.Equal(c.NextAt) {
		p.Errorf("Apply of a change: got %+v", b)
	}
	if got := p.get("a"); !reflect.DeepEqual(got, b) {
		p.Errorf("after Apply: got %+v, want %+v", got, b)
	}
	p.conflicts("a stale version", c, store.ConflictError{ID: "a", Have: b.Version, Want: a.Version})
	pause := changed(b)
	pause.NextDue, pause.NextAt = time.Time{}, time.Time{}
	if s := p.apply(pause)[0]; !s.NextDue.IsZero() || !s.NextAt.IsZero() || string(s.Definition) != string(b.Definition) {
		p.Errorf("a change without definition or moment: got %+v", s)
	}

	allOrNothing(p, at)
	firedMeanwhile(p)
	invalidChanges(p, at)
	if list, err := p.Schedules.Apply(p.ctx, nil); err != nil || len(list) != 0 {
		p.Errorf("Apply of nothing: got %v, error %v", list, err)
	}
}

// allOrNothing: one change that does not apply keeps the others from it.
func allOrNothing(p *planner, at time.Time) {
	one, two := p.create("one", at), p.create("two", at)
	stale := changed(two)
	stale.Version += 7
	p.refused("a batch with a stale version", store.ErrConflict, made("new", at), changed(one), stale)
	p.refused("a batch with an unknown id", store.ErrNoSchedule,
		made("new", at), store.ScheduleChange{ID: "one", Version: one.Version, Delete: true}, changed(store.Schedule{ID: "none", Version: 1}))
	p.refused("a batch with what exists", store.ErrConflict, changed(one), made("two", at))
	if _, there := p.find("new"); there {
		p.Errorf("of a batch that was refused one change is stored")
	}
	for _, want := range []store.Schedule{one, two} {
		if got := p.get(want.ID); !reflect.DeepEqual(got, want) {
			p.Errorf("a batch that was refused changed %+v to %+v", want, got)
		}
	}
	list := p.apply(made("new", at), changed(one), store.ScheduleChange{ID: "two", Version: two.Version, Delete: true})
	p.ids("the answer to a batch", list, "new", "one", "two")
}

// firedMeanwhile: a change made from an older last due moment is a conflict,
// but a delete is not.
func firedMeanwhile(p *planner) {
	s := p.create("fires", p.now().Add(-time.Hour))
	f := passed(s, time.Hour, store.OutcomeMisfired)
	p.fired(p.lead(), f)
	p.conflicts("a change of what fired meanwhile", changed(s), store.ConflictError{ID: "fires", Have: s.Version, Want: s.Version})
	moved := p.get("fires")
	if moved.Version != s.Version {
		p.Errorf("a firing made version %d of %d", moved.Version, s.Version)
	}
	p.apply(changed(moved))
	p.apply(store.ScheduleChange{ID: "fires", Version: p.get("fires").Version, Delete: true})
}

func invalidChanges(p *planner, at time.Time) {
	with := func(change func(c *store.ScheduleChange)) store.ScheduleChange {
		c := made("x", at)
		change(&c)
		return c
	}
	for what, c := range map[string]store.ScheduleChange{
		"a bad id":                 with(func(c *store.ScheduleChange) { c.ID = "no/id" }),
		"no id":                    with(func(c *store.ScheduleChange) { c.ID = "" }),
		"no definition":            with(func(c *store.ScheduleChange) { c.Definition = nil }),
		"a definition of no JSON":  with(func(c *store.ScheduleChange) { c.Definition = json.RawMessage("{") }),
		"a definition too large":   with(func(c *store.ScheduleChange) { c.Definition = largeDefinition(store.MaxDefinition + 1) }),
		"due and never looked at":  with(func(c *store.ScheduleChange) { c.NextAt = time.Time{} }),
		"looked at and never due":  with(func(c *store.ScheduleChange) { c.NextDue = time.Time{} }),
		"due not after last":       with(func(c *store.ScheduleChange) { c.Version, c.LastDue = 1, at }),
		"a new one with last":      with(func(c *store.ScheduleChange) { c.LastDue = at.Add(-time.Hour) }),
		"due before 1970":          with(func(c *store.ScheduleChange) { c.NextDue = time.Unix(-5, 0) }),
		"a version below 0":        with(func(c *store.ScheduleChange) { c.Version = -1 }),
		"looked at in year 12,000": with(func(c *store.ScheduleChange) { c.NextAt = time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC) }),
	} {
		p.refused(what, task.ErrInvalid, made("y", at), c)
	}
	p.refused("an id that is there twice", task.ErrInvalid, made("y", at), made("z", at), made("y", at))
	if _, there := p.find("y"); there {
		p.Errorf("of a batch with an invalid change another one is stored")
	}
	large := made("large", at)
	large.Definition = largeDefinition(store.MaxDefinition)
	p.apply(large)
	if got := p.get("large").Definition; string(got) != string(large.Definition) {
		p.Errorf("a definition of %d bytes came back with %d", len(large.Definition), len(got))
	}
}

func largeDefinition(n int) json.RawMessage {
	return json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`)
}

// testT2: a delete leaves nothing of an entry.
func testT2(p *planner) {
	lead := p.lead()
	at := p.now().Add(-time.Hour)
	s := p.create("a", at)
	f := firing(s, time.Minute)
	p.fired(lead, f)
	p.refused("a delete at a stale version", store.ErrConflict, store.ScheduleChange{ID: "a", Version: s.Version + 1, Delete: true})
	p.refused("a delete at version 0", store.ErrConflict, store.ScheduleChange{ID: "a", Delete: true})
	was := p.apply(store.ScheduleChange{ID: "a", Version: s.Version, Delete: true})[0]
	if was.ID != "a" || was.Version != s.Version || !was.LastDue.Equal(at) {
		p.Errorf("the answer to a delete: got %+v", was)
	}
	if _, there := p.find("a"); there {
		p.Errorf("what was deleted is there")
	}
	for what, c := range map[string]store.ScheduleChange{
		"a delete of what is not there":              {ID: "a", Version: s.Version, Delete: true},
		"a delete, at version 0, of what is not":     {ID: "a", Delete: true},
		"a delete of what never was":                 {ID: "never", Version: 1, Delete: true},
		"a change of what is not there":              changed(was),
		"a change of what never was, at any version": changed(store.Schedule{ID: "never", Version: 3}),
	} {
		p.refused(what, store.ErrNoSchedule, c)
	}
	if a := p.fire(lead, firing(later(s, f), time.Minute))[0]; a.Err == nil {
		p.Errorf("what was deleted fired")
	}
	d := p.due(10)
	if p.ids("due, after a delete", d.Entries); len(d.Pending) != 1 || d.Pending[0].Record.Task != taskOf("a", at) {
		p.Fatalf("after a delete of what had fired: pending is %+v", d.Pending)
	}
	again := p.create("a", at)
	if again.Version <= was.Version {
		p.Errorf("made again: version %d follows %d", again.Version, was.Version)
	}
	if !again.LastDue.IsZero() || again.LastTask != "" || again.Misfired != 0 || len(p.history("a")) != 0 {
		p.Errorf("made again: it has something of what was deleted: %+v, %v", again, p.history("a"))
	}
	done := d.Pending[0].Record
	done.Outcome = store.OutcomeFired
	p.finish(lead, done) // of the entry before
	if got := p.get("a"); !reflect.DeepEqual(got, again) || len(p.due(10).Pending) != 0 {
		p.Errorf("a firing of the entry before was finished: %+v became %+v", again, got)
	}
	for range 3 { // versions grow from life to life
		p.apply(store.ScheduleChange{ID: "a", Version: again.Version, Delete: true})
		next := p.create("a", at)
		if next.Version <= again.Version {
			p.Errorf("made again: version %d follows %d", next.Version, again.Version)
		}
		again = next
	}
}

// testT3: entries are found and listed.
func testT3(p *planner) {
	if found, err := p.Schedules.Get(p.ctx); err != nil || len(found) != 0 {
		p.Errorf("Get of nothing: got %+v, error %v", found, err)
	}
	if list, cursor, err := p.Schedules.List(p.ctx, broker.Page{}); err != nil || len(list) != 0 || cursor != "" {
		p.Errorf("List of nothing: got %v, cursor %q, error %v", list, cursor, err)
	}
	want := []string{"a", "B", "a.b", "a-b", "a:b", "a_b", "0", "10", "9", "Z", "z", strings.Repeat("x", 128)}
	var batch []store.ScheduleChange
	for i := range 60 {
		want = append(want, fmt.Sprintf("many-%d", i))
	}
	for i, id := range want {
		c := made(id, p.now().Add(time.Duration(i)*time.Hour))
		if i%3 == 0 {
			c.NextDue, c.NextAt = time.Time{}, time.Time{}
		}
		batch = append(batch, c)
	}
	p.apply(batch...)
	slices.Sort(want)
	for _, limit := range []int{0, 1, 7, len(want), 1000} {
		p.listed(limit, want, func(int) {})
	}
	q := p.other()
	rest := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return id == "many-3" || id == "many-40" })
	p.listed(20, rest, func(page int) { // what changes meanwhile keeps nobody from the others
		switch page {
		case 0:
			q.apply(store.ScheduleChange{ID: "many-3", Version: q.get("many-3").Version, Delete: true})
			q.apply(store.ScheduleChange{ID: "many-40", Version: q.get("many-40").Version, Delete: true})
		case 1:
			q.apply(changed(q.get("a")))
		}
	}, "many-3", "many-40")

	ids := []string{"z", "none", "a", "z", "many-1", "no/id", ""}
	found, err := p.Schedules.Get(p.ctx, ids...)
	if err != nil || len(found) != len(ids) {
		p.Fatalf("Get of %v: %d answers, error %v", ids, len(found), err)
	}
	for i, f := range found {
		if i == 1 || i > 4 {
			p.is("Get of "+ids[i], f.Err, store.ErrNoSchedule)
		} else if f.Err != nil || f.Schedule.ID != ids[i] {
			p.Errorf("answer %d, for %s: got %s, error %v", i, ids[i], f.Schedule.ID, f.Err)
		}
	}
	if found[0].Err == nil {
		found[0].Schedule.Definition[2] = '!' // what is answered is the caller's
	}
	if got := p.get("z"); string(got.Definition) != string(made("z", time.Time{}).Definition) {
		p.Errorf("who changes what Get answered changes the store: %s", got.Definition)
	}
}

// listed goes through List, page by page, and compares. between is called after
// each page; those of may can be there or not.
func (p *planner) listed(limit int, want []string, between func(page int), may ...string) {
	p.Helper()
	var got []string
	cursor := ""
	for page := 0; page <= len(want)+1; page++ {
		list, next, err := p.Schedules.List(p.ctx, broker.Page{Limit: limit, Cursor: cursor})
		if err != nil || len(list) > (broker.Page{Limit: limit}).Size() {
			p.Fatalf("List, limit %d: %d entries, error %v", limit, len(list), err)
		}
		got = append(got, scheduleIDs(list)...)
		if cursor = next; next == "" {
			break
		}
		between(page)
	}
	kept := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return slices.Contains(may, id) })
	if !slices.Equal(kept, want) || !slices.IsSorted(got) {
		p.Errorf("List in pages of %d: got %v, want %v", limit, got, want)
	}
}

// testT4: what is due, and when the next is.
func testT4(p *planner) {
	if d := p.due(10); len(d.Entries) != 0 || d.More || d.Next != 0 || len(d.Pending) != 0 {
		p.Errorf("nothing is stored, and due is %+v", d)
	}
	now := p.now()
	never := made("never", now)
	never.NextDue, never.NextAt = time.Time{}, time.Time{}
	jittered := made("jittered", now.Add(-3*time.Hour))
	jittered.NextAt = now.Add(-time.Hour)
	waits := made("waits", now.Add(-time.Hour))
	waits.NextAt = now.Add(20 * time.Hour)
	p.apply(never, made("c", now.Add(-2*time.Hour)), made("b", now.Add(-2*time.Hour)), jittered, waits,
		made("first", now.Add(-4*time.Hour)), made("far", now.Add(30*time.Hour)))
	q := p.other()
	for range 2 { // it changes nothing
		d := q.due(10)
		p.ids("due", d.Entries, "first", "b", "c", "jittered")
		if d.More || d.Next > 20*time.Hour || d.Next < 20*time.Hour-time.Minute {
			p.Errorf("the next is in 20 h: got %s, more %v", d.Next, d.More)
		}
		for _, s := range d.Entries {
			if got := p.get(s.ID); !reflect.DeepEqual(got, s) {
				p.Errorf("Due says %+v, Get %+v", s, got)
			}
		}
	}
	d := p.due(2)
	if p.ids("due, two at most", d.Entries, "first", "b"); !d.More {
		p.Errorf("of four that are due two were asked for, and nothing says that there are more")
	}
	d = p.due(4)
	if p.ids("due, four at most", d.Entries, "first", "b", "c", "jittered"); d.More {
		p.Errorf("of four that are due four were asked for, and it says that there are more")
	}
	p.ids("due, without a limit", p.due(0).Entries, "first", "b", "c", "jittered")
	d, err := p.Schedules.Due(p.ctx, 0, 21*time.Hour)
	if err != nil || d.More || d.Next > 30*time.Hour || d.Next < 30*time.Hour-time.Minute {
		p.Errorf("due 21 h ahead, the next is in 30 h: got %s, more %v, error %v", d.Next, d.More, err)
	}
	p.ids("due 21 h ahead", d.Entries, "first", "b", "c", "jittered", "waits")
	if d, err = p.Schedules.Due(p.ctx, 4, 21*time.Hour); err != nil || !d.More || len(d.Entries) != 4 {
		p.Errorf("due 21 h ahead, four of five: got %v, more %v, error %v", scheduleIDs(d.Entries), d.More, err)
	}
	comesDue(p)
}

// comesDue: an entry is due at its moment, and not before.
func comesDue(p *planner) {
	for _, s := range p.due(0).Entries {
		p.apply(store.ScheduleChange{ID: s.ID, Version: s.Version, Delete: true})
	}
	at := p.now().Add(p.o.TTL)
	p.create("soon", at)
	for {
		d := p.due(10)
		if len(d.Entries) > 0 {
			if d.Now.Before(at) {
				p.Errorf("due at %s, by the store's clock, and returned at %s", at, d.Now)
			}
			return
		}
		left := at.Sub(d.Now)
		if left <= 0 {
			p.Fatalf("due at %s, by the store's clock, and not returned at %s", at, d.Now)
		}
		if (d.Next-left).Abs() > early || d.Next <= 0 {
			p.Fatalf("due in %s: Next is %s", left, d.Next)
		}
		time.Sleep(min(d.Next, 10*poll))
	}
}
