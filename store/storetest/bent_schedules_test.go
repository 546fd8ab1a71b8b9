package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// bentPlan is correct schedules but for what a fake replaces.
type bentPlan struct {
	store.Schedules
	locks store.Locks
	bend  planBend
}

// planBend says what is bent. Hooks with "b" may look at the correct store.
type planBend struct {
	apply    func(b *bentPlan, c []store.ScheduleChange) []store.ScheduleChange
	applied  func(b *bentPlan, c []store.ScheduleChange, list []store.Schedule, err error) ([]store.Schedule, error)
	entry    func(s *store.Schedule)
	got      func(found []store.FoundSchedule)
	page     func(p broker.Page) broker.Page
	listed   func(list []store.Schedule, cursor string) string
	history  func(b *bentPlan, id string, list []store.FireRecord, err error) ([]store.FireRecord, error)
	limit    func(limit int) int
	ahead    func(d time.Duration) time.Duration
	due      func(d *store.Due)
	lead     func(b *bentPlan, l store.Lock) store.Lock
	firing   func(b *bentPlan, f *store.Firing)
	one      bool // fires one after the other, and stops at the first that fails
	fired    func(b *bentPlan, lead store.Lock, answers []store.FireAnswer)
	finish   func(b *bentPlan, lead store.Lock, list []store.FireRecord) []store.FireRecord
	wait     func(b *bentPlan, ctx context.Context, since int64, atMost time.Duration) error
	into     func(b broker.Broker) bool
	ctx      func(ctx context.Context) context.Context
	end      func() error
	unplug   bool // shows no broker, and says nothing of firing into one
	acquire  func(b store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration)
	acquired func(l store.Lock, err error) (store.Lock, error)
	release  func(b store.Locks, l store.Lock) store.Lock
	holder   func(b store.Locks, l store.Lock) store.Lock
}

func (b *bentPlan) context(ctx context.Context) context.Context {
	if b.bend.ctx != nil {
		return b.bend.ctx(ctx)
	}
	return ctx
}

func (b *bentPlan) ahead(d time.Duration) time.Duration {
	if b.bend.ahead != nil {
		return b.bend.ahead(d)
	}
	return d
}

func (b *bentPlan) shown(list []store.Schedule) {
	for i := range list {
		if b.bend.entry != nil {
			b.bend.entry(&list[i])
		}
	}
}

func (b *bentPlan) Apply(ctx context.Context, changes []store.ScheduleChange) ([]store.Schedule, error) {
	asked := changes
	if b.bend.apply != nil {
		changes = b.bend.apply(b, append([]store.ScheduleChange{}, changes...))
	}
	list, err := b.Schedules.Apply(b.context(ctx), changes)
	if b.bend.applied != nil {
		list, err = b.bend.applied(b, asked, list, err)
	}
	b.shown(list)
	return list, err
}

func (b *bentPlan) Get(ctx context.Context, ids ...string) ([]store.FoundSchedule, error) {
	found, err := b.Schedules.Get(b.context(ctx), ids...)
	for i := range found {
		if b.bend.entry != nil && found[i].Err == nil {
			b.bend.entry(&found[i].Schedule)
		}
	}
	if b.bend.got != nil {
		b.bend.got(found)
	}
	return found, err
}

func (b *bentPlan) List(ctx context.Context, p broker.Page) ([]store.Schedule, string, error) {
	if b.bend.page != nil {
		p = b.bend.page(p)
	}
	list, cursor, err := b.Schedules.List(b.context(ctx), p)
	if b.bend.listed != nil {
		cursor = b.bend.listed(list, cursor)
	}
	b.shown(list)
	return list, cursor, err
}

func (b *bentPlan) History(ctx context.Context, id string, limit int) ([]store.FireRecord, error) {
	list, err := b.Schedules.History(b.context(ctx), id, limit)
	if b.bend.history != nil {
		list, err = b.bend.history(b, id, list, err)
	}
	return list, err
}

func (b *bentPlan) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	if b.bend.limit != nil {
		limit = b.bend.limit(limit)
	}
	d, err := b.Schedules.Due(b.context(ctx), limit, b.ahead(ahead))
	if b.bend.due != nil && err == nil {
		b.bend.due(&d)
	}
	b.shown(d.Entries)
	return d, err
}

func (b *bentPlan) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	given := lead
	if b.bend.lead != nil {
		lead = b.bend.lead(b, lead)
	}
	batch = append([]store.Firing{}, batch...)
	for i := range batch {
		if b.bend.firing != nil {
			b.bend.firing(b, &batch[i])
		}
	}
	var answers []store.FireAnswer
	var err error
	if b.bend.one {
		answers, err = b.fireOneByOne(ctx, lead, batch)
	} else {
		answers, err = b.Schedules.Fire(b.context(ctx), lead, batch)
	}
	if b.bend.fired != nil && err == nil {
		b.bend.fired(b, given, answers)
	}
	return answers, err
}

func (b *bentPlan) fireOneByOne(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	answers := make([]store.FireAnswer, len(batch))
	for i := range batch {
		a, err := b.Schedules.Fire(ctx, lead, batch[i:i+1])
		if err != nil {
			return nil, err
		}
		if answers[i] = a[0]; a[0].Err == nil {
			continue
		}
		for k := range answers[i:] {
			answers[i+k].Err = a[0].Err
		}
		break
	}
	return answers, nil
}

func (b *bentPlan) Finish(ctx context.Context, lead store.Lock, batch []store.FireRecord) error {
	if b.bend.finish != nil {
		batch = b.bend.finish(b, lead, append([]store.FireRecord{}, batch...))
	}
	if b.bend.lead != nil {
		lead = b.bend.lead(b, lead)
	}
	return b.Schedules.Finish(b.context(ctx), lead, batch)
}

func (b *bentPlan) Wait(ctx context.Context, since int64, atMost time.Duration) error {
	if b.bend.wait != nil {
		return b.bend.wait(b, ctx, since, atMost)
	}
	return b.Schedules.Wait(b.context(ctx), since, atMost)
}

// into adds FiresInto, which not every fake has.
type intoPlan struct{ *bentPlan }

func (b intoPlan) FiresInto(x broker.Broker) bool {
	if b.bend.into != nil {
		return b.bend.into(x)
	}
	return b.Schedules.(store.FiresInto).FiresInto(x)
}

// bentLocks is correct locks but for what a fake replaces.
type bentLocks struct {
	store.Locks
	bend planBend
}

func (b bentLocks) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lock, error) {
	asked := ttl
	if b.bend.acquire != nil {
		name, holder, ttl = b.bend.acquire(b.Locks, name, holder, ttl)
	}
	l, err := b.Locks.Acquire(ctx, name, holder, ttl)
	if err == nil {
		l.TTL = asked
	}
	if b.bend.acquired != nil {
		l, err = b.bend.acquired(l, err)
	}
	return l, err
}

func (b bentLocks) Release(ctx context.Context, l store.Lock) error {
	if b.bend.release != nil {
		l = b.bend.release(b.Locks, l)
	}
	return b.Locks.Release(ctx, l)
}

func (b bentLocks) Holder(ctx context.Context, name string) (store.Lock, error) {
	l, err := b.Locks.Holder(ctx, name)
	if b.bend.holder != nil {
		l = b.bend.holder(b.Locks, l)
	}
	return l, err
}

// openBentPlan opens correct schedules and locks, and bends them.
func openBentPlan(d planBend) func(t testing.TB) Scheduling {
	return func(t testing.TB) Scheduling {
		db := memory.New()
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Errorf("closing the store: %v", err)
			}
		})
		plan := &bentPlan{Schedules: db.Schedules(), locks: db.Locks(), bend: d}
		s := Scheduling{Schedules: intoPlan{plan}, Locks: bentLocks{db.Locks(), d}, Broker: db.Broker(), Close: db.Close}
		if d.unplug {
			s.Schedules, s.Broker = plan, nil
		}
		if d.end != nil {
			s.Close = d.end
		}
		return s
	}
}

// now is the entry as the correct store has it.
func (b *bentPlan) now(id string) (store.Schedule, bool) {
	found, err := b.Schedules.Get(context.Background(), id)
	if err != nil || found[0].Err != nil {
		return store.Schedule{}, false
	}
	return found[0].Schedule, true
}
