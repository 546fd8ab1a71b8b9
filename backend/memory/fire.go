package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Fire claims due moments; see store.Schedules.
func (s *schedules) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	now, err := s.enter(ctx, "fire schedules")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	if err := s.db.leads(lead, now, true); err != nil {
		return nil, fmt.Errorf("fire schedules: %w", err)
	}
	answers := make([]store.FireAnswer, len(batch))
	for i := range batch {
		answers[i] = s.db.fire(&batch[i], now)
	}
	return answers, nil
}

// fire claims one moment, with its task or leaving that pending.
func (db *DB) fire(f *store.Firing, now time.Time) store.FireAnswer {
	if err := f.Check(); err != nil {
		return store.FireAnswer{Err: err}
	}
	p := &db.plans
	if err := f.Conflict(p.entry(f.ID), now); err != nil {
		return store.FireAnswer{Err: err}
	}
	r := f.Record(now)
	if r.Outcome == store.OutcomePending {
		if f.Atomic {
			r.Settle(db.publishFired(f.Publication, now))
		} else {
			p.wait(store.Pending{Record: r, Publication: *f.Publication})
		}
	}
	e := p.entries[f.ID]
	e.Claim(f, &r)
	e.record(r)
	p.move(e)
	return store.FireAnswer{Record: r}
}

// publishFired stores a task as Publish does.
func (db *DB) publishFired(p *broker.Publication, now time.Time) broker.Outcome {
	size, err := inspect(p)
	if err != nil {
		return broker.Outcome{State: broker.Refused, Err: err}
	}
	return db.publish(p, newRecord(p.Envelope, size), now)
}

// wait keeps a pending firing. One of the same moment, of an entry that was
// there before, has the same task: the newer one stands for both.
func (p *plans) wait(w store.Pending) {
	p.unwait(&w.Record)
	w.Publication.Claims = slices.Clone(w.Publication.Claims)
	p.waiting[momentFor(&w.Record)] = p.pending.PushBack(w)
}

// unwait takes out the pending firing of that moment, if there is one.
func (p *plans) unwait(r *store.FireRecord) (w store.Pending, found bool) {
	at := p.waiting[momentFor(r)]
	if at == nil {
		return w, false
	}
	delete(p.waiting, momentFor(r))
	return p.pending.Remove(at).(store.Pending), true
}

// Finish says what became of pending firings; see store.Schedules.
func (s *schedules) Finish(ctx context.Context, lead store.Lock, batch []store.FireRecord) error {
	if err := store.CheckFinish(batch); err != nil {
		return err
	}
	now, err := s.enter(ctx, "finish firings")
	if err != nil {
		return err
	}
	defer s.db.leave()
	if err := s.db.leads(lead, now, false); err != nil {
		return fmt.Errorf("finish firings: %w", err)
	}
	for i := range batch {
		s.db.plans.finish(&batch[i])
	}
	return nil
}

func (p *plans) finish(r *store.FireRecord) {
	w, found := p.unwait(r)
	if !found {
		return
	}
	done := w.Record
	e := p.entries[r.ID]
	if e == nil {
		return
	}
	e.Finish(&done, r)
	for i := range e.history {
		if h := &e.history[i]; h.Outcome == store.OutcomePending && momentFor(h) == momentFor(&done) {
			*h = done
		}
	}
}
