package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// modelEntry is what the model knows of one entry.
type modelEntry struct {
	version         int64
	lastDue         time.Time
	nextDue, nextAt time.Time
	fired, misfired int64
	lastTask        string
	history         []modelLine // the newest last
}

type modelLine struct {
	due     time.Time
	outcome store.FireOutcome
}

// scheduleModel plays random operations on schedules and on itself, and
// compares.
type scheduleModel struct {
	*planner
	r        *rand.Rand
	at       time.Time // all moments are around it
	entries  map[string]*modelEntry
	versions map[string]int64 // the highest ever
	tasks    map[string]bool  // that are enqueued
	pending  []store.Pending  // the oldest first
	lead     store.Lock
}

const scheduleSteps = 250

// testScheduleModel plays random operations, comparing after each.
func testScheduleModel(p *planner) {
	seed := p.o.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	p.Logf("random operations: repeat with ScheduleOptions.Seed = %d", seed)
	m := &scheduleModel{
		planner: p, r: rand.New(rand.NewPCG(seed, 3)), at: p.now().Add(-time.Hour),
		entries: map[string]*modelEntry{}, versions: map[string]int64{}, tasks: map[string]bool{}, lead: p.lead(),
	}
	for step := range scheduleSteps {
		what := m.step()
		if m.compare(); m.Failed() {
			m.Fatalf("after step %d, %s", step, what)
		}
	}
	if m.Broker == nil {
		return
	}
	var want []string
	for id := range m.tasks {
		want = append(want, id)
	}
	slices.Sort(want)
	if got := m.planner.tasks(m.Broker); !slices.Equal(got, want) {
		m.Errorf("the firings enqueued %v, the model %v", got, want)
	}
}

func (m *scheduleModel) step() string {
	switch n := m.r.IntN(100); {
	case n < 30:
		return m.applySome()
	case n < 75:
		return m.fireSome()
	case n < 90:
		return m.finishSome()
	default:
		return m.changeLead()
	}
}

func (m *scheduleModel) id() string { return fmt.Sprintf("m%d", m.r.IntN(5)) }

// moment is one of a few, so that entries meet.
func (m *scheduleModel) moment() time.Time { return m.at.Add(time.Duration(m.r.IntN(8)) * time.Minute) }

// applySome applies one to three changes, of which some are stale.
func (m *scheduleModel) applySome() string {
	var changes []store.ScheduleChange
	var want error
	for range 1 + m.r.IntN(3) {
		c := m.change(m.id())
		if slices.ContainsFunc(changes, func(o store.ScheduleChange) bool { return o.ID == c.ID }) {
			continue
		}
		changes = append(changes, c)
		if err := m.refusal(&c); want == nil {
			want = err
		}
	}
	what := fmt.Sprintf("Apply of %+v", changes)
	list, err := m.Schedules.Apply(m.ctx, changes)
	m.is(what, err, want)
	if err != nil || want != nil {
		return what
	}
	for i, c := range changes {
		m.applied(c, list[i])
	}
	return what
}

// change is a change of an entry as it is, or nearly so.
func (m *scheduleModel) change(id string) store.ScheduleChange {
	c := made(id, time.Time{})
	last := time.Time{}
	if e := m.entries[id]; e != nil && m.r.IntN(8) > 0 {
		c.Version, c.LastDue, last = e.version, e.lastDue, e.lastDue
		c.Delete = m.r.IntN(5) == 0
		if m.r.IntN(10) == 0 {
			c.Version++
		}
	}
	if m.r.IntN(5) > 0 {
		c.NextDue = m.moment()
		if !c.NextDue.After(last) {
			c.NextDue = last.Add(time.Minute)
		}
		c.NextAt = c.NextDue.Add(time.Duration(m.r.IntN(3)) * time.Second)
	}
	return c
}

// refusal is why a change does not apply.
func (m *scheduleModel) refusal(c *store.ScheduleChange) error {
	e := m.entries[c.ID]
	switch {
	case e == nil && c.Version == 0 && !c.Delete:
		return nil
	case e == nil:
		return store.ErrNoSchedule
	case e.version != c.Version, !c.Delete && !e.lastDue.Equal(c.LastDue):
		return store.ErrConflict
	}
	return nil
}

func (m *scheduleModel) applied(c store.ScheduleChange, s store.Schedule) {
	e := m.entries[c.ID]
	if c.Delete {
		delete(m.entries, c.ID)
		return
	}
	if e == nil {
		e = &modelEntry{}
		m.entries[c.ID] = e
	}
	if s.Version <= m.versions[c.ID] {
		m.Errorf("version %d of %s follows %d", s.Version, c.ID, m.versions[c.ID])
	}
	e.version, e.nextDue, e.nextAt = s.Version, c.NextDue, c.NextAt
	m.versions[c.ID] = s.Version
}

// fireSome fires up to four moments, of which some are stale.
func (m *scheduleModel) fireSome() string {
	var batch []store.Firing
	for range 1 + m.r.IntN(4) {
		batch = append(batch, m.firing(m.id()))
	}
	what := fmt.Sprintf("Fire of %+v", batch)
	answers := m.fire(m.lead, batch...)
	for i := range batch {
		m.claimed(&batch[i], answers[i])
	}
	return what
}

func (m *scheduleModel) firing(id string) store.Firing {
	s := store.Schedule{ID: id, Version: 1, NextDue: m.moment()}
	if e := m.entries[id]; e != nil && !e.nextDue.IsZero() {
		s.Version, s.NextDue = e.version, e.nextDue
	}
	f := firing(s, time.Duration(1+m.r.IntN(2))*time.Minute)
	switch m.r.IntN(10) {
	case 0:
		f.Version++
	case 1:
		f.Due = f.Due.Add(-time.Second)
	case 2:
		f.Next, f.NextAt = time.Time{}, time.Time{}
	case 3, 4:
		f.Publication, f.Outcome, f.Missed = nil, store.OutcomeMisfired, 1+m.r.IntN(3)
	}
	f.Atomic = m.Broker != nil && m.r.IntN(2) == 0
	return f
}

// claimed does in the model what a firing has done.
func (m *scheduleModel) claimed(f *store.Firing, a store.FireAnswer) {
	e := m.entries[f.ID]
	switch {
	case e == nil:
		m.is("a firing of nothing", a.Err, store.ErrNoSchedule)
		return
	case e.version != f.Version, !e.nextDue.Equal(f.Due):
		m.is("a firing of another moment", a.Err, store.ErrConflict)
		return
	}
	m.is("a firing", a.Err, nil)
	want := f.Outcome
	switch {
	case f.Publication != nil && !f.Atomic:
		want = store.OutcomePending
		e.lastTask = f.Publication.Envelope.ID
		m.unwait(f.ID, f.Due)
		m.pending = append(m.pending, store.Pending{Record: a.Record, Publication: *f.Publication})
	case f.Publication != nil:
		id := f.Publication.Envelope.ID
		if want = store.OutcomeFired; m.tasks[id] {
			want = store.OutcomeDuplicate
		} else {
			e.fired++
		}
		m.tasks[id], e.lastTask = true, id
	}
	if a.Record.Outcome != want || !a.Record.Due.Equal(f.Due) {
		m.Errorf("a firing came to %+v, want %s", a.Record, want)
	}
	e.lastDue, e.nextDue, e.nextAt = f.Due, f.Next, f.NextAt
	e.misfired += int64(f.Missed)
	e.history = append(e.history, modelLine{f.Due, want})
}

func (m *scheduleModel) unwait(id string, due time.Time) (found bool) {
	n := len(m.pending)
	m.pending = slices.DeleteFunc(m.pending, func(w store.Pending) bool { return w.Record.ID == id && w.Record.Due.Equal(due) })
	return len(m.pending) < n
}

// finishSome finishes what is pending, or something that is not.
func (m *scheduleModel) finishSome() string {
	r := store.FireRecord{ID: m.id(), Due: m.moment()}
	if len(m.pending) > 0 && m.r.IntN(5) > 0 {
		r = m.pending[m.r.IntN(len(m.pending))].Record
	}
	r.Outcome = []store.FireOutcome{store.OutcomeFired, store.OutcomeDuplicate, store.OutcomeFailed, store.OutcomeUnknown}[m.r.IntN(4)]
	claimed := taskOf(r.ID, r.Due)
	if r.Task = claimed; m.r.IntN(3) == 0 {
		r.Task = "another"
	}
	m.finish(m.lead, r)
	what := fmt.Sprintf("Finish of %+v", r)
	found := m.unwait(r.ID, r.Due)
	e := m.entries[r.ID]
	if !found || e == nil || r.Due.After(e.lastDue) {
		return what
	}
	if r.Outcome == store.OutcomeFired {
		e.fired++
	}
	if e.lastTask == claimed && r.Outcome != store.OutcomeUnknown {
		e.lastTask = r.Task
	}
	for i := range e.history {
		if l := &e.history[i]; l.due.Equal(r.Due) && l.outcome == store.OutcomePending {
			l.outcome = r.Outcome
		}
	}
	return what
}

// changeLead gives the lead to another, under whose newer token the old one is
// worth nothing.
func (m *scheduleModel) changeLead() string {
	old := m.lead
	if err := m.Locks.Release(m.ctx, old); err != nil {
		m.Fatalf("Release: %v", err)
	}
	m.lead = m.lock(store.LeadLock, fmt.Sprintf("beat-%d", m.r.IntN(3)), time.Hour)
	if m.lead.Token <= old.Token {
		m.Errorf("token %d follows %d", m.lead.Token, old.Token)
	}
	_, err := m.Schedules.Fire(m.ctx, old, []store.Firing{m.firing(m.id())})
	m.is("Fire under an old token", err, broker.ErrLeaseLost)
	m.is("Finish under an old token", m.Schedules.Finish(m.ctx, old, nil), broker.ErrLeaseLost)
	return "a new lead"
}

// compare checks all that shows against the model.
func (m *scheduleModel) compare() {
	list, _, err := m.Schedules.List(m.ctx, broker.Page{})
	if err != nil || len(list) != len(m.entries) {
		m.Errorf("List: %v, error %v; the model has %d", scheduleIDs(list), err, len(m.entries))
		return
	}
	var due []store.Schedule
	for _, s := range list {
		e := m.entries[s.ID]
		if e == nil {
			m.Errorf("%s is there, and the model has deleted it", s.ID)
			continue
		}
		got := modelEntry{s.Version, s.LastDue, s.NextDue, s.NextAt, s.Fired, s.Misfired, s.LastTask, nil}
		for _, r := range slices.Backward(m.history(s.ID)) {
			got.history = append(got.history, modelLine{r.Due, r.Outcome})
		}
		want := *e
		want.history = want.history[max(0, len(want.history)-store.MaxHistory):]
		if !reflect.DeepEqual(got, want) {
			m.Errorf("%s is %+v, the model has %+v", s.ID, got, want)
		}
		if !s.NextAt.IsZero() {
			due = append(due, s)
		}
	}
	slices.SortFunc(due, func(a, b store.Schedule) int {
		return cmp.Or(a.NextAt.Compare(b.NextAt), strings.Compare(a.ID, b.ID))
	})
	m.compareDue(due)
}

func (m *scheduleModel) compareDue(due []store.Schedule) {
	d := m.due(100)
	for len(due) > 0 && due[len(due)-1].NextAt.After(d.Now) {
		due = due[:len(due)-1]
	}
	if !slices.Equal(scheduleIDs(d.Entries), scheduleIDs(due)) {
		m.Errorf("due are %v, the model has %v", scheduleIDs(d.Entries), scheduleIDs(due))
	}
	if len(d.Pending) != len(m.pending) {
		m.Errorf("%d firings are pending, the model has %d", len(d.Pending), len(m.pending))
		return
	}
	for i, w := range d.Pending {
		if !reflect.DeepEqual(w.Record, m.pending[i].Record) || !equalJSON(w.Publication, m.pending[i].Publication) {
			m.Errorf("pending firing %d is %+v, the model has %+v", i, w.Record, m.pending[i].Record)
		}
	}
}
