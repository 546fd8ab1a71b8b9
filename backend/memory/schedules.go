package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// schedules is the schedule store of a DB.
type schedules struct{ db *DB }

// Schedules returns the scheduler's entries of this DB, which fire into the
// DB's own brokers in the step that claims (store.FiresInto).
func (db *DB) Schedules() store.Schedules { return &schedules{db: db} }

// FiresInto implements store.FiresInto.
func (s *schedules) FiresInto(b broker.Broker) bool {
	t, ok := b.(*tasks)
	return ok && t.db == s.db
}

func (s *schedules) enter(ctx context.Context, doing string) (time.Time, error) {
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	return now, err
}

// Apply creates, changes and deletes entries; see store.Schedules.
func (s *schedules) Apply(ctx context.Context, changes []store.ScheduleChange) ([]store.Schedule, error) {
	if err := store.CheckChanges(changes); err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	now, err := s.enter(ctx, "apply schedules")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	p := &s.db.plans
	for i := range changes {
		if err := changes[i].Conflict(p.entry(changes[i].ID)); err != nil {
			return nil, fmt.Errorf("apply schedules: %w", err)
		}
	}
	list := make([]store.Schedule, len(changes))
	for i := range changes {
		list[i] = p.apply(&changes[i], now)
	}
	if len(changes) > 0 {
		p.changes++
		p.stir()
	}
	return list, nil
}

// entry is the entry of that id, nil if there is none.
func (p *plans) entry(id string) *store.Schedule {
	if e := p.entries[id]; e != nil {
		return &e.Schedule
	}
	return nil
}

// apply applies a change that nothing conflicts with.
func (p *plans) apply(c *store.ScheduleChange, now time.Time) store.Schedule {
	e := p.entries[c.ID]
	if c.Delete {
		p.remove(e)
		return shown(e)
	}
	if e == nil {
		e = &plan{Schedule: store.Schedule{ID: c.ID, Version: p.floor}}
		p.add(e)
	}
	e.Change(c, now)
	e.Version++
	p.move(e)
	if c.Record != nil {
		e.record(c.Record.ByHand(e.ID, now))
	}
	return shown(e)
}

// shown is the entry as its readers get it.
func shown(e *plan) store.Schedule {
	s := e.Schedule
	s.Definition = bytes.Clone(s.Definition)
	return s
}

// Get returns entries; see store.Schedules.
func (s *schedules) Get(ctx context.Context, ids ...string) ([]store.FoundSchedule, error) {
	if _, err := s.enter(ctx, "get schedules"); err != nil {
		return nil, err
	}
	defer s.db.leave()
	found := make([]store.FoundSchedule, len(ids))
	for i, id := range ids {
		if e := s.db.plans.entries[id]; e != nil {
			found[i].Schedule = shown(e)
		} else {
			found[i].Err = store.ErrNoSchedule
		}
	}
	return found, nil
}

// List returns a page of entries; see store.Schedules.
func (s *schedules) List(ctx context.Context, page broker.Page) ([]store.Schedule, string, error) {
	if _, err := s.enter(ctx, "list schedules"); err != nil {
		return nil, "", err
	}
	defer s.db.leave()
	ids := s.db.plans.sorted()
	from, found := slices.BinarySearch(ids, page.Cursor)
	if found {
		from++
	}
	end := min(from+page.Size(), len(ids))
	var list []store.Schedule
	for _, id := range ids[from:end] {
		list = append(list, shown(s.db.plans.entries[id]))
	}
	if end == len(ids) {
		return list, "", nil
	}
	return list, ids[end-1], nil
}

// History returns an entry's newest records; see store.Schedules.
func (s *schedules) History(ctx context.Context, id string, limit int) ([]store.FireRecord, error) {
	if _, err := s.enter(ctx, "read the history of a schedule"); err != nil {
		return nil, err
	}
	defer s.db.leave()
	e := s.db.plans.entries[id]
	if e == nil {
		return nil, fmt.Errorf("history of schedule %s: %w", id, store.ErrNoSchedule)
	}
	if limit <= 0 {
		limit = store.MaxHistory
	}
	return e.newest(limit), nil
}

// Due says what is to be fired; see store.Schedules.
func (s *schedules) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	now, err := s.enter(ctx, "look for due schedules")
	if err != nil {
		return store.Due{}, err
	}
	defer s.db.leave()
	if limit <= 0 {
		limit = store.DueLimit
	}
	p := &s.db.plans
	d := store.Due{Now: now.UTC(), Changes: p.changes}
	until := now.Add(ahead)
	p.due.walk(func(e *plan) bool {
		if isDue := !e.NextAt.After(until); !isDue || len(d.Entries) == limit {
			d.More, d.Next = isDue, max(e.NextAt.Sub(now), 1)
			return false
		}
		d.Entries = append(d.Entries, shown(e))
		return true
	})
	for w := p.pending.Front(); w != nil && len(d.Pending) < limit; w = w.Next() {
		d.Pending = append(d.Pending, w.Value.(store.Pending))
	}
	return d, nil
}

// Wait waits for a change of the entries; see store.Schedules.
func (s *schedules) Wait(ctx context.Context, since int64, atMost time.Duration) error {
	if _, err := s.enter(ctx, "wait for schedules"); err != nil {
		return err
	}
	p := &s.db.plans
	if p.changes != since || atMost <= 0 {
		s.db.leave()
		return nil
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	changed := p.changed
	s.db.leave()
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-changed:
		_, err := s.enter(ctx, "wait for schedules")
		if err == nil {
			s.db.leave()
		}
		return err
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for schedules: %w", ctx.Err())
	}
}
