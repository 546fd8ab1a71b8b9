package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Scheduling is what RunSchedules tests: a backend's schedules and locks.
type Scheduling struct {
	Schedules store.Schedules
	Locks     store.Locks
	Broker    broker.Broker // that the schedules fire into (store.FiresInto); nil: none
	Close     func() error  // of the backend
	Check     func() error  // verifies the backend's own consistency after each rule; nil: it cannot
}

// ScheduleOptions describe a backend to RunSchedules. Slack, Virtual, Parallel
// and Seed are as in Options.
type ScheduleOptions struct {
	// Open makes a fresh, empty backend, and closes it with t.Cleanup. It is
	// called once for each rule, from several goroutines.
	Open func(t testing.TB) Scheduling

	// Reopen opens the same store again, as another process would, and closes it
	// with t.Cleanup. Nil: it can be opened once only.
	Reopen func(t testing.TB, s Scheduling) Scheduling

	// TTL is that of a short lock; rules wait for its end. 0: 300 ms.
	TTL time.Duration

	Slack    time.Duration
	Virtual  bool
	Parallel int
	Seed     uint64
}

// RunSchedules runs the suite of schedules and locks: rules L1–L6 and T1–T11,
// and random operations against a model. Each rule is a subtest of its name.
func RunSchedules(t *testing.T, o ScheduleOptions) {
	if o.Open == nil {
		t.Fatal("storetest: ScheduleOptions.Open is missing")
	}
	conform.Run(t, conform.Config{Virtual: o.Virtual, Parallel: o.Parallel}, o.rules())
}

func (o ScheduleOptions) rules() []conform.Rule {
	if o.TTL <= 0 {
		o.TTL = 300 * time.Millisecond
	}
	o.Slack = conform.Slack(o.Slack, o.Virtual)
	var bound []conform.Rule
	for _, r := range scheduleTests {
		bound = append(bound, conform.Rule{Name: r.name, Test: func(t testing.TB) { r.test(newPlanner(t, o)) }})
	}
	return bound
}

var scheduleTests = []struct {
	name string
	test func(p *planner)
}{
	{"L1_tokens_grow", testL1},
	{"L2_the_holder_renews", testL2},
	{"L3_what_another_holds", testL3},
	{"L4_release", testL4},
	{"L5_concurrent_use", testL5},
	{"L6_holder", testL6},
	{"T1_apply_all_or_nothing", testT1},
	{"T2_delete", testT2},
	{"T3_get_and_list", testT3},
	{"T4_due", testT4},
	{"T5_fire_claims", testT5},
	{"T6_fire_into_a_broker", testT6},
	{"T7_pending", testT7},
	{"T8_history", testT8},
	{"T9_wait", testT9},
	{"T10_many", testT10},
	{"T11_closed_cancelled_concurrent", testT11},
	{"Model_random_schedules", testScheduleModel},
}

// planner is one rule's backend with what its test needs.
type planner struct {
	testing.TB
	Scheduling
	o   ScheduleOptions
	ctx context.Context
}

func newPlanner(t testing.TB, o ScheduleOptions) *planner {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	p := &planner{TB: t, Scheduling: o.Open(t), o: o, ctx: ctx}
	t.Cleanup(func() {
		if p.Check == nil {
			return
		}
		if err := p.Check(); err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("after the rule: %v", err)
		}
	})
	return p
}

// other is another process's access to the same store, or this one.
func (p *planner) other() *planner {
	p.Helper()
	if p.o.Reopen == nil {
		return p
	}
	q := *p
	q.Scheduling = p.o.Reopen(p.TB, p.Scheduling)
	return &q
}

// is checks an error.
func (p *planner) is(what string, err, want error) {
	p.Helper()
	if !errors.Is(err, want) {
		p.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// lock acquires a lock that must be free, or the holder's.
func (p *planner) lock(name, holder string, ttl time.Duration) store.Lock {
	p.Helper()
	l, err := p.Locks.Acquire(p.ctx, name, holder, ttl)
	if err != nil {
		p.Fatalf("Acquire of %s by %s: %v", name, holder, err)
	}
	if l.Name != name || l.Holder != holder || l.TTL != ttl {
		p.Fatalf("Acquire of %s by %s for %s: got %+v", name, holder, ttl, l)
	}
	return l
}

// lead is the lock under which a test fires.
func (p *planner) lead() store.Lock {
	p.Helper()
	return p.lock(store.LeadLock, "beat-1", time.Hour)
}

// now is the store's clock, in whole milliseconds.
func (p *planner) now() time.Time {
	p.Helper()
	return p.due(1).Now.Truncate(time.Millisecond).UTC()
}

func (p *planner) due(limit int) store.Due {
	p.Helper()
	d, err := p.Schedules.Due(p.ctx, limit, 0)
	if err != nil {
		p.Fatalf("Due: %v", err)
	}
	return d
}

// made is the change that makes an entry, due at that moment.
func made(id string, due time.Time) store.ScheduleChange {
	return store.ScheduleChange{
		ID: id, Definition: json.RawMessage(fmt.Sprintf(`{"task": "demo.%s"}`, id)), NextDue: due, NextAt: due,
	}
}

// changed is a change made from what the store has.
func changed(s store.Schedule) store.ScheduleChange {
	return store.ScheduleChange{ID: s.ID, Version: s.Version, LastDue: s.LastDue, NextDue: s.NextDue, NextAt: s.NextAt}
}

func (p *planner) apply(changes ...store.ScheduleChange) []store.Schedule {
	p.Helper()
	list, err := p.Schedules.Apply(p.ctx, changes)
	if err != nil || len(list) != len(changes) {
		p.Fatalf("Apply of %d changes: %d entries, error %v", len(changes), len(list), err)
	}
	return list
}

// refused applies changes that must be refused with that error.
func (p *planner) refused(what string, want error, changes ...store.ScheduleChange) {
	p.Helper()
	_, err := p.Schedules.Apply(p.ctx, changes)
	p.is(what, err, want)
}

// conflicts applies a change that must be refused with that conflict.
func (p *planner) conflicts(what string, c store.ScheduleChange, want store.ConflictError) {
	p.Helper()
	_, err := p.Schedules.Apply(p.ctx, []store.ScheduleChange{c})
	p.conflict(what, err, want)
}

// conflict checks what an error says of a conflict.
func (p *planner) conflict(what string, err error, want store.ConflictError) {
	p.Helper()
	var c *store.ConflictError
	if !errors.As(err, &c) || *c != want || !errors.Is(err, store.ErrConflict) {
		p.Errorf("%s: got error %v, want %v", what, err, &want)
	}
}

// create makes one entry.
func (p *planner) create(id string, due time.Time) store.Schedule {
	p.Helper()
	return p.apply(made(id, due))[0]
}

func (p *planner) find(id string) (store.Schedule, bool) {
	p.Helper()
	found, err := p.Schedules.Get(p.ctx, id)
	if err != nil || len(found) != 1 {
		p.Fatalf("Get of %s: %d answers, error %v", id, len(found), err)
	}
	if err := found[0].Err; err != nil && !errors.Is(err, store.ErrNoSchedule) {
		p.Fatalf("Get of %s: %v", id, err)
	}
	return found[0].Schedule, found[0].Err == nil
}

func (p *planner) get(id string) store.Schedule {
	p.Helper()
	s, ok := p.find(id)
	if !ok {
		p.Fatalf("there is no schedule %s", id)
	}
	return s
}

func (p *planner) history(id string) []store.FireRecord {
	p.Helper()
	list, err := p.Schedules.History(p.ctx, id, 0)
	if err != nil {
		p.Fatalf("History of %s: %v", id, err)
	}
	return list
}

func (p *planner) fire(lead store.Lock, batch ...store.Firing) []store.FireAnswer {
	p.Helper()
	answers, err := p.Schedules.Fire(p.ctx, lead, batch)
	if err != nil || len(answers) != len(batch) {
		p.Fatalf("Fire of %d: %d answers, error %v", len(batch), len(answers), err)
	}
	return answers
}

// fired fires what must apply, and returns the records.
func (p *planner) fired(lead store.Lock, batch ...store.Firing) []store.FireRecord {
	p.Helper()
	var list []store.FireRecord
	for i, a := range p.fire(lead, batch...) {
		if a.Err != nil {
			p.Fatalf("firing of %s at %s: %v", batch[i].ID, batch[i].Due, a.Err)
		}
		list = append(list, a.Record)
	}
	return list
}

func (p *planner) finish(lead store.Lock, records ...store.FireRecord) {
	p.Helper()
	if err := p.Schedules.Finish(p.ctx, lead, records); err != nil {
		p.Fatalf("Finish: %v", err)
	}
}

// taskOf is the id of the task of a moment.
func taskOf(id string, due time.Time) string { return fmt.Sprintf("sch:%s:%d", id, due.UnixMilli()) }

// firing claims the next moment of an entry, with a task; the one after it is
// step later.
func firing(s store.Schedule, step time.Duration) store.Firing {
	next := s.NextDue.Add(step)
	return store.Firing{
		ID: s.ID, Version: s.Version, Due: s.NextDue, Next: next, NextAt: next, Beat: "beat-1",
		Publication: &broker.Publication{Envelope: envelope(taskOf(s.ID, s.NextDue))},
	}
}

// passed claims the next moment of an entry without a task.
func passed(s store.Schedule, step time.Duration, o store.FireOutcome) store.Firing {
	f := firing(s, step)
	f.Publication, f.Outcome, f.Missed = nil, o, 1
	return f
}

// later is an entry as a firing leaves it, as far as the next firing matters.
func later(s store.Schedule, f store.Firing) store.Schedule {
	s.LastDue, s.NextDue, s.NextAt = f.Due, f.Next, f.NextAt
	return s
}

func scheduleIDs(list []store.Schedule) []string {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	return ids
}

// ids checks the ids of entries, in order.
func (p *planner) ids(what string, list []store.Schedule, want ...string) {
	p.Helper()
	if got := scheduleIDs(list); !slices.Equal(got, append([]string{}, want...)) {
		p.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// tasks takes all ready tasks out of the broker, and returns their ids in order.
func (p *planner) tasks(b broker.Broker) []string {
	p.Helper()
	c, err := b.Open(p.ctx, broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: time.Hour})
	if err != nil {
		p.Fatalf("open a consumer: %v", err)
	}
	var ids []string
	for {
		x, err := c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1000})
		if err != nil {
			p.Fatalf("receive: %v", err)
		}
		var done []broker.Settlement
		for _, d := range x.Deliveries {
			ids = append(ids, d.Envelope.ID)
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: long}})
		}
		if len(done) == 0 {
			break
		}
		if _, err := b.Settle(p.ctx, done); err != nil {
			p.Fatalf("settle: %v", err)
		}
	}
	if err := c.Close(p.ctx); err != nil {
		p.Fatalf("close the consumer: %v", err)
	}
	slices.Sort(ids)
	return ids
}
