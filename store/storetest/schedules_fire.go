package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testT5: a firing claims the moment that its entry is due at.
func testT5(p *planner) {
	leaders(p)
	p.lock(store.LeadLock, "beat-1", time.Millisecond)
	time.Sleep(3 * early)
	lead := p.lead()
	at := p.now().Add(-time.Hour)
	s := p.create("a", at)

	f := firing(s, time.Minute)
	f.Jitter = 30 * time.Second
	f.NextAt = f.Next.Add(5 * time.Second)
	r := p.fired(lead, f)[0]
	want := store.FireRecord{
		ID: "a", Due: at, Fired: r.Fired, Outcome: store.OutcomePending, Task: taskOf("a", at),
		Jitter: f.Jitter, Drift: r.Fired.Sub(at.Add(f.Jitter)), Beat: "beat-1",
	}
	if !reflect.DeepEqual(r, want) || p.now().Sub(r.Fired).Abs() > time.Minute {
		p.Errorf("the record of a firing: got %+v, want %+v", r, want)
	}
	got := p.get("a")
	wanted := s
	wanted.LastDue, wanted.NextDue, wanted.NextAt = at, f.Next, f.NextAt
	wanted.LastFired, wanted.Jitter, wanted.Drift, wanted.LastTask = r.Fired, r.Jitter, r.Drift, taskOf("a", at)
	if !reflect.DeepEqual(got, wanted) {
		p.Errorf("after a firing: got %+v, want %+v", got, wanted)
	}
	if h := p.history("a"); len(h) != 1 || !reflect.DeepEqual(h[0], r) {
		p.Errorf("the history of one firing: got %+v, want %+v", h, r)
	}
	p.conflict("the same firing again", p.fire(lead, f)[0].Err, store.ConflictError{ID: "a", Have: s.Version, Want: s.Version})
	if now := p.get("a"); !reflect.DeepEqual(now, got) || len(p.history("a")) != 1 {
		p.Errorf("a firing that is a conflict changed %+v to %+v", got, now)
	}
	firesAlone(p, lead)
	firesInOrder(p, lead)
	passesOver(p, lead)
	notBefore(p, lead)
}

// notBefore: a claim that was made ready ahead waits for the store's clock.
func notBefore(p *planner, lead store.Lock) {
	s := p.create("ahead", p.now().Add(time.Hour))
	f := firing(s, time.Minute)
	f.NotBefore = s.NextDue
	p.is("a firing ahead of its moment", p.fire(lead, f)[0].Err, store.ErrNotDue)
	if got := p.get("ahead"); !reflect.DeepEqual(got, s) || len(p.history("ahead")) > 0 {
		p.Errorf("a firing ahead of its moment changed %+v to %+v", s, got)
	}
	f.Version++
	p.is("a firing ahead of the moment of an entry that changed", p.fire(lead, f)[0].Err, store.ErrConflict)
	f.Version--
	f.NotBefore = p.now()
	if r := p.fired(lead, f)[0]; !r.Due.Equal(s.NextDue) || r.Fired.Before(f.NotBefore) {
		p.Errorf("a firing that may be from %s on: got %+v", f.NotBefore, r)
	}
}

// leaders: only the newest token fires, while its lock lasts.
func leaders(p *planner) {
	s := p.create("led", p.now().Add(-time.Hour))
	refused := func(what string, lead store.Lock) {
		p.Helper()
		answers, err := p.Schedules.Fire(p.ctx, lead, []store.Firing{firing(s, time.Minute)})
		if p.is(what, err, broker.ErrLeaseLost); answers != nil {
			p.Errorf("%s: got answers %+v", what, answers)
		}
		if got := p.get("led"); !reflect.DeepEqual(got, s) || len(p.due(10).Pending) > 0 {
			p.Errorf("%s: it changed %+v to %+v", what, s, got)
		}
	}
	refused("a firing under a lock that nobody ever held", store.Lock{Name: store.LeadLock, Token: 1})
	brief := p.lock(store.LeadLock, "beat-1", time.Millisecond)
	time.Sleep(3 * early)
	refused("a firing under a lock that has ended", brief)
	first := p.lead()
	if err := p.Locks.Release(p.ctx, first); err != nil {
		p.Fatal(err)
	}
	refused("a firing under a lock that was released", first)
	second := p.lock(store.LeadLock, "beat-2", time.Hour)
	refused("a firing under a token that is not the newest", first)
	newer := second
	newer.Token++
	refused("a firing under a token that is not given yet", newer)
	other := p.lock("another", "beat-2", time.Hour)
	other.Token = second.Token + 1
	refused("a firing under a token of another lock", other)
	p.fired(second, firing(s, time.Minute))
	p.finish(second, store.FireRecord{ID: "led", Due: s.NextDue, Outcome: store.OutcomeFired})
	p.apply(store.ScheduleChange{ID: "led", Version: s.Version, Delete: true})
	if err := p.Locks.Release(p.ctx, second); err != nil {
		p.Fatal(err)
	}
}

// firesAlone: what does not apply keeps nobody from it.
func firesAlone(p *planner, lead store.Lock) {
	at := p.now().Add(-time.Minute)
	p.apply(made("good-1", at), made("good-2", at), made("stale", at), made("moved", at), made("bad", at))
	batch := []store.Firing{
		firing(p.get("good-1"), time.Hour), firing(store.Schedule{ID: "none", Version: 1, NextDue: at}, time.Hour),
		firing(p.get("stale"), time.Hour), firing(p.get("moved"), time.Hour), firing(p.get("bad"), time.Hour),
		firing(p.get("bad"), time.Hour), firing(p.get("bad"), time.Hour), firing(p.get("bad"), time.Hour), firing(p.get("good-2"), time.Hour),
	}
	batch[2].Version++
	batch[3].Due = at.Add(-time.Second)
	batch[4].Next, batch[4].NextAt = at, at // it would fire again
	batch[5].NextAt = time.Time{}
	batch[6].Publication = nil // and no outcome that says why
	batch[7].Publication, batch[7].Outcome, batch[7].Missed = nil, store.OutcomeMisfired, -1
	answers := p.fire(lead, batch...)
	for i, want := range []error{
		nil, store.ErrNoSchedule, store.ErrConflict, store.ErrConflict, task.ErrInvalid, task.ErrInvalid, task.ErrInvalid, task.ErrInvalid, nil,
	} {
		p.is(fmt.Sprintf("firing %d, of %s", i, batch[i].ID), answers[i].Err, want)
		if want != nil && !reflect.DeepEqual(answers[i].Record, store.FireRecord{}) {
			p.Errorf("firing %d failed, and its record is %+v", i, answers[i].Record)
		}
	}
	for _, id := range []string{"stale", "moved", "bad"} {
		if s := p.get(id); !s.LastDue.IsZero() || len(p.history(id)) != 0 {
			p.Errorf("a firing of %s failed, and it has %+v", id, s)
		}
	}
	for _, id := range []string{"good-1", "good-2"} {
		if s := p.get(id); !s.LastDue.Equal(at) {
			p.Errorf("%s did not fire beside those that failed: %+v", id, s)
		}
	}
	if a := p.fire(lead); len(a) != 0 {
		p.Errorf("a Fire of nothing: got %+v", a)
	}
}

// firesInOrder: several moments of one entry in one batch; the last ends it.
func firesInOrder(p *planner, lead store.Lock) {
	s := p.create("order", p.now().Add(-time.Hour))
	first := s.NextDue
	var batch []store.Firing
	for range 4 {
		f := firing(s, time.Minute)
		batch = append(batch, f)
		s = later(s, f)
	}
	batch[3].Next, batch[3].NextAt = time.Time{}, time.Time{}
	p.fired(lead, batch...)
	got := p.get("order")
	if !got.LastDue.Equal(first.Add(3*time.Minute)) || !got.NextDue.IsZero() || !got.NextAt.IsZero() {
		p.Errorf("after four firings, of which the last was the last: got %+v", got)
	}
	for i, r := range p.history("order") {
		if want := first.Add(time.Duration(3-i) * time.Minute); !r.Due.Equal(want) {
			p.Errorf("line %d of the history is of %s, want %s", i, r.Due, want)
		}
	}
	if slices.Contains(scheduleIDs(p.due(0).Entries), "order") {
		p.Errorf("an entry that never fires again is due")
	}
}

// passesOver: moments without a task.
func passesOver(p *planner, lead store.Lock) {
	s := p.create("over", p.now().Add(-time.Hour))
	misfired := passed(s, 10*time.Minute, store.OutcomeMisfired)
	misfired.Missed = 10
	s1 := later(s, misfired)
	failed := passed(s1, time.Minute, store.OutcomeFailed)
	failed.Missed, failed.Error = 0, "no such task"+strings.Repeat("!", 3000)
	s2 := later(s1, failed)
	overlap := passed(s2, time.Minute, store.OutcomeOverlap)
	overlap.Error = "the task before it runs"
	records := p.fired(lead, misfired, failed, overlap)
	for i, want := range []store.FireRecord{
		{Outcome: store.OutcomeMisfired, Missed: 10}, {Outcome: store.OutcomeFailed}, {Outcome: store.OutcomeOverlap, Missed: 1},
	} {
		if r := records[i]; r.Outcome != want.Outcome || r.Missed != want.Missed || r.Task != "" {
			p.Errorf("a moment that was passed over: got %+v, want %+v", r, want)
		}
	}
	if e := records[1].Error; !strings.HasPrefix(e, "no such task!") || len(e) > 1100 {
		p.Errorf("of an error of 3 kB %d bytes are kept: %.30s", len(e), e)
	}
	got := p.get("over")
	if got.Misfired != 11 || got.Fired != 0 || got.LastTask != "" || !strings.HasPrefix(got.LastError, "no such task") || !got.LastDue.Equal(overlap.Due) {
		p.Errorf("after moments that were passed over: got %+v", got)
	}
	for _, w := range p.due(0).Pending {
		if w.Record.ID == "over" {
			p.Errorf("a moment that was passed over is pending: %+v", w)
		}
	}
}

// testT6: where schedules fire into a broker, the task comes with the claim.
func testT6(p *planner) {
	into, _ := p.Schedules.(store.FiresInto)
	at := p.now().Add(-time.Hour)
	if into != nil && (into.FiresInto(nil) || into.FiresInto(wrapped{p.Broker})) {
		p.Errorf("FiresInto is true of no broker, or of what wraps one")
	}
	if p.Broker == nil {
		f := firing(p.create("a", at), time.Minute)
		f.Atomic = true
		p.is("an atomic firing into no broker", p.fire(p.lead(), f)[0].Err, broker.ErrUnsupported)
		return
	}
	if into == nil || !into.FiresInto(p.Broker) {
		p.Fatalf("%T: FiresInto is not true of its broker", p.Schedules)
	}
	elsewhere := p.o.Open(p.TB)
	if into.FiresInto(elsewhere.Broker) {
		p.Errorf("FiresInto is true of a broker on another store")
	}
	p.firesElsewhere(elsewhere.Broker, at)
	p.atomically(at)
	p.wakesConsumers(at)
	p.refusedByBroker(at)
}

// wrapped is a broker that wraps another.
type wrapped struct{ broker.Broker }

func (w wrapped) Unwrap() broker.Broker { return w.Broker }

// firesElsewhere goes the way of a beat whose broker is on another store: what
// is claimed is published there, twice, and finished.
func (p *planner) firesElsewhere(b broker.Broker, at time.Time) {
	lead := p.lead()
	p.apply(made("else-1", at), made("else-2", at))
	p.fired(lead, firing(p.get("else-1"), time.Minute), firing(p.get("else-2"), time.Minute))
	for _, want := range []store.FireOutcome{store.OutcomeFired, store.OutcomeDuplicate} {
		var done []store.FireRecord
		for _, w := range p.due(10).Pending {
			out, err := b.Publish(p.ctx, []broker.Publication{w.Publication})
			if err != nil {
				p.Fatalf("publish elsewhere: %v", err)
			}
			if w.Record.Settle(out[0]); w.Record.Outcome != want {
				p.Errorf("published elsewhere: got %+v, want %s", w.Record, want)
			}
			done = append(done, w.Record)
		}
		if len(done) != 2 {
			p.Fatalf("%d firings are pending, want 2", len(done))
		}
		if want == store.OutcomeDuplicate {
			p.finish(lead, done...)
		}
	}
	if len(p.due(10).Pending) > 0 || p.get("else-1").LastTask != taskOf("else-1", at) {
		p.Errorf("after Finish: pending is %+v, the entry %+v", p.due(10).Pending, p.get("else-1"))
	}
	if got := p.tasks(b); !slices.Equal(got, []string{taskOf("else-1", at), taskOf("else-2", at)}) {
		p.Errorf("enqueued elsewhere are %v", got)
	}
	if got := p.tasks(p.Broker); len(got) > 0 {
		p.Errorf("enqueued here are %v, which were for elsewhere", got)
	}
}

func (p *planner) atomically(at time.Time) {
	lead := p.lead()
	s := p.create("a", at)
	var batch []store.Firing
	var want []string
	for range 3 {
		f := firing(s, time.Minute)
		f.Atomic = true
		want = append(want, f.Publication.Envelope.ID)
		batch = append(batch, f)
		s = later(s, f)
	}
	conflict := batch[2]
	conflict.Publication = &broker.Publication{Envelope: envelope("never")}
	answers := p.fire(lead, append(batch, conflict)...)
	for i, a := range answers[:3] {
		if a.Err != nil || a.Record.Outcome != store.OutcomeFired || a.Record.Task != want[i] || a.Record.Error != "" {
			p.Errorf("an atomic firing: got %+v, error %v", a.Record, a.Err)
		}
	}
	p.is("an atomic firing of a moment that was claimed", answers[3].Err, store.ErrConflict)
	if got := p.get("a"); got.Fired != 3 || got.LastTask != want[2] || got.LastError != "" {
		p.Errorf("after three firings: got %+v", got)
	}
	if d := p.due(10); len(d.Pending) != 0 {
		p.Errorf("an atomic firing is pending: %+v", d.Pending)
	}
	if _, err := p.Schedules.Fire(p.ctx, store.Lock{Name: store.LeadLock, Token: lead.Token - 1}, batch); !errors.Is(err, broker.ErrLeaseLost) {
		p.Errorf("an atomic firing under an older token: %v", err)
	}
	if got := p.tasks(p.Broker); !slices.Equal(got, want) {
		p.Errorf("three firings enqueued %v, want %v", got, want)
	}
}

// wakesConsumers: who waits for work learns of a firing as of a Publish.
func (p *planner) wakesConsumers(at time.Time) {
	b := p.other().Broker
	c, err := b.Open(p.ctx, broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: time.Hour})
	if err != nil {
		p.Fatal(err)
	}
	if x, err := c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1}); err != nil || len(x.Deliveries) != 0 {
		p.Fatalf("an exchange of an empty queue: %+v, %v", x, err)
	}
	woken := make(chan error, 1)
	go func() { woken <- c.Wait(p.ctx, time.Hour) }()
	time.Sleep(10 * poll)
	f := firing(p.create("wakes", at), time.Minute)
	f.Atomic = true
	p.fired(p.lead(), f)
	select {
	case err := <-woken:
		p.is("Wait", err, nil)
	case <-time.After(second + p.o.Slack):
		p.Errorf("a consumer that waits was not woken by a firing")
	}
	if err := c.Close(p.ctx); err != nil {
		p.Fatal(err)
	}
	if got := p.tasks(p.Broker); !slices.Equal(got, []string{taskOf("wakes", at)}) {
		p.Errorf("the firing enqueued %v", got)
	}
}

// refusedByBroker: the entry moves on, and its record says why.
func (p *planner) refusedByBroker(at time.Time) {
	lead := p.lead()
	publish := func(pub broker.Publication) {
		p.Helper()
		out, err := p.Broker.Publish(p.ctx, []broker.Publication{pub})
		if err != nil || out[0].State != broker.Stored {
			p.Fatalf("Publish: %+v, %v", out, err)
		}
	}
	publish(broker.Publication{Envelope: envelope(taskOf("known", at))})
	publish(broker.Publication{Envelope: envelope("holder"), Claims: []broker.Claim{{Key: "k", For: time.Hour}}})
	p.apply(made("known", at), made("claimed", at), made("bad", at), made("empty", at), made("good", at))
	var batch []store.Firing
	for _, id := range []string{"known", "claimed", "bad", "empty", "good"} {
		f := firing(p.get(id), time.Minute)
		f.Atomic = true
		batch = append(batch, f)
	}
	batch[1].Publication.Claims = []broker.Claim{{Key: "k", For: time.Hour}}
	batch[2].Publication.Envelope.Name = "no name"
	batch[3].Publication.Envelope = nil
	batch[4].Publication.Claims = []broker.Claim{{Key: "free", For: time.Hour}}
	records := p.fired(lead, batch...)
	for i, want := range []store.FireRecord{
		{Outcome: store.OutcomeDuplicate, Task: taskOf("known", at)}, {Outcome: store.OutcomeDuplicate, Task: "holder"},
		{Outcome: store.OutcomeFailed}, {Outcome: store.OutcomeFailed}, {Outcome: store.OutcomeFired, Task: taskOf("good", at)},
	} {
		r, s := records[i], p.get(batch[i].ID)
		failed := want.Outcome == store.OutcomeFailed
		if r.Outcome != want.Outcome || r.Task != want.Task || (r.Error != "") != failed {
			p.Errorf("the firing of %s: got %+v, want %+v", batch[i].ID, r, want)
		}
		if !s.LastDue.Equal(at) || !s.NextDue.Equal(batch[i].Next) || s.LastTask != want.Task || s.LastError != r.Error {
			p.Errorf("the entry moves on whatever became of its task: got %+v", s)
		}
		if (s.Fired > 0) != (want.Outcome == store.OutcomeFired) {
			p.Errorf("the firing of %s enqueued nothing, and is counted, or the reverse: %+v", batch[i].ID, s)
		}
	}
	want := []string{"holder", taskOf("good", at), taskOf("known", at)}
	if got := p.tasks(p.Broker); !slices.Equal(got, want) {
		p.Errorf("enqueued are %v, want %v", got, want)
	}
	out, err := p.Broker.Publish(p.ctx, []broker.Publication{{Envelope: envelope("late"), Claims: []broker.Claim{{Key: "free"}}}})
	if err != nil || out[0].State != broker.Duplicate || out[0].ExistingID != taskOf("good", at) {
		p.Errorf("a claim that a firing took: got %+v, error %v", out, err)
	}
}
