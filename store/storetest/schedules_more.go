package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testT8: an entry's newest records.
func testT8(p *planner) {
	_, err := p.Schedules.History(p.ctx, "none", 0)
	p.is("History of what is not there", err, store.ErrNoSchedule)
	s := p.create("a", p.now().Add(-24*time.Hour))
	p.create("b", p.now())
	if h := p.history("a"); len(h) != 0 {
		p.Errorf("it never fired, and its history is %+v", h)
	}
	first, lead := s.NextDue, p.lead()
	const firings = 2*store.MaxHistory + 30
	for range firings / 10 {
		var batch []store.Firing
		for range 10 {
			f := passed(s, time.Minute, store.OutcomeOverlap)
			batch = append(batch, f)
			s = later(s, f)
		}
		p.fired(lead, batch...)
	}
	h := p.history("a")
	if len(h) != store.MaxHistory {
		p.Fatalf("after %d firings the history has %d lines", firings, len(h))
	}
	for i, r := range h {
		if want := first.Add(time.Duration(firings-1-i) * time.Minute); !r.Due.Equal(want) || r.ID != "a" {
			p.Fatalf("line %d of the history is %+v, want one due at %s", i, r, want)
		}
	}
	for limit, want := range map[int]int{1: 1, 7: 7, 1000: store.MaxHistory} {
		list, err := p.Schedules.History(p.ctx, "a", limit)
		if err != nil || len(list) != want || list[0].Due != h[0].Due {
			p.Errorf("History, limit %d: got %d lines, error %v", limit, len(list), err)
		}
	}
	if h := p.history("b"); len(h) != 0 {
		p.Errorf("another one fired, and the history is %+v", h)
	}
	byHand(p)
}

// byHand: a change may bring a record of its own.
func byHand(p *planner) {
	before := p.get("a")
	c := changed(before)
	c.Record = &store.FireRecord{Due: p.now(), Outcome: store.OutcomeManual, Task: "by-hand", Beat: "someone"}
	p.apply(c)
	r := p.history("a")[0]
	if r.ID != "a" || r.Outcome != store.OutcomeManual || r.Task != "by-hand" || r.Beat != "someone" || !r.Due.Equal(c.Record.Due) || p.now().Sub(r.Fired).Abs() > time.Minute {
		p.Errorf("the record of a run by hand: got %+v", r)
	}
	if s := p.get("a"); s.Fired != before.Fired || s.LastTask != before.LastTask || !s.LastDue.Equal(before.LastDue) {
		p.Errorf("a run by hand moved a mark: %+v, before %+v", s, before)
	}
	p.refused("a run by hand of a stale version", store.ErrConflict, c)
	again := changed(p.get("a"))
	again.Record = &store.FireRecord{Outcome: store.OutcomeManual, Task: "again"}
	p.apply(again)
	if r := p.history("a")[0]; r.Task != "again" || r.Fired.Sub(r.Due) < 0 || r.Fired.Sub(r.Due) > second || r.Drift != r.Fired.Sub(r.Due) {
		p.Errorf("the record of a run by hand that says no moment: got %+v", r)
	}
	if h := p.history("a"); h[2].Outcome == store.OutcomeManual {
		p.Errorf("a change that was refused left its record: %+v", h[2])
	}
}

// testT9: a change wakes who waits.
func testT9(p *planner) {
	q := p.other()
	wait := func(since store.Due) <-chan error {
		woken := make(chan error, 1)
		go func() { woken <- p.Schedules.Wait(p.ctx, since.Changes, time.Hour) }()
		return woken
	}
	soon := func(what string, woken <-chan error) {
		p.Helper()
		select {
		case err := <-woken:
			p.is("Wait", err, nil)
		case <-time.After(second + p.o.Slack):
			p.Errorf("%s: who waits was not woken", what)
		}
	}
	at := p.now().Add(time.Hour)
	for i, by := range []*planner{p, q} {
		id := fmt.Sprintf("s%d", i)
		woken := wait(p.due(1))
		time.Sleep(10 * poll)
		by.create(id, at)
		soon("a new entry", woken)
		woken = wait(p.due(1))
		by.apply(changed(by.get(id))) // at once: before or after Wait has begun
		soon("a change", woken)
		before := p.due(1)
		by.apply(store.ScheduleChange{ID: id, Version: by.get(id).Version, Delete: true})
		soon("a delete between Due and Wait", wait(before))
		p.due(1) // of another who uses these schedules
		soon("a change that another has seen, and who waits has not", wait(before))
	}
	d := p.due(1)
	for {
		began := time.Now()
		p.is("Wait", p.Schedules.Wait(p.ctx, d.Changes, 10*poll), nil)
		if took := time.Since(began); took > 10*poll+second+p.o.Slack {
			p.Errorf("Wait for %s at most: it took %s", 10*poll, took)
		} else if took >= 10*poll-early {
			break // it may return early, but not for ever
		}
		d = p.due(1)
	}
	p.is("Wait for no time", p.Schedules.Wait(p.ctx, d.Changes, 0), nil)

	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan error, 1)
	go func() { ended <- waitUntil(ctx, p.Schedules) }()
	time.Sleep(10 * poll)
	cancel()
	select {
	case err := <-ended:
		p.is("Wait, when its context ends", err, context.Canceled)
	case <-time.After(second + p.o.Slack):
		p.Errorf("Wait goes on though its context has ended")
	}
	woken := wait(p.due(1))
	p.create("last", at)
	soon("after a Wait was ended", woken)
}

// waitUntil waits until that is an error.
func waitUntil(ctx context.Context, s store.Schedules) error {
	for {
		d, err := s.Due(ctx, 1, 0)
		if err == nil {
			err = s.Wait(ctx, d.Changes, time.Hour)
		}
		if err != nil {
			return err
		}
	}
}

// testT10: many are due at once, and many more are not.
func testT10(p *planner) {
	const due, idle, batch = 600, 400, 250
	now := p.now()
	var changes []store.ScheduleChange
	for i := range due {
		changes = append(changes, made(fmt.Sprintf("due-%04d", i), now.Add(-time.Minute)))
	}
	for i := range idle {
		changes = append(changes, made(fmt.Sprintf("idle-%04d", i), now.Add(1000*time.Hour)))
	}
	for part := range slices.Chunk(changes, 500) {
		p.apply(part...)
	}
	lead := p.lead()
	var fired []string
	for more := true; more; {
		d := p.due(batch)
		if len(d.Entries) > batch || len(fired) > due {
			p.Fatalf("%d due in a batch of %d, after %d", len(d.Entries), batch, len(fired))
		}
		var firings []store.Firing
		for _, s := range d.Entries {
			f := firing(s, 2000*time.Hour)
			f.Atomic = p.Broker != nil
			firings = append(firings, f)
		}
		for _, r := range p.fired(lead, firings...) {
			fired = append(fired, r.ID)
		}
		more = d.More
	}
	if len(fired) != due || !slices.IsSorted(fired) || len(slices.Compact(fired)) != due {
		p.Errorf("of %d due %d fired", due, len(fired))
	}
	if d := p.due(1); len(d.Entries) != 0 || d.Next <= 999*time.Hour {
		p.Errorf("all have fired, and Due says %+v", d)
	}
	if p.Broker == nil {
		return
	}
	if got := p.tasks(p.Broker); len(got) != due || len(slices.Compact(got)) != due {
		p.Errorf("%d firings enqueued %d tasks", due, len(got))
	}
}

// testT11: many at once, contexts that end, and the end of the backend.
func testT11(p *planner) {
	oneClaims(p)
	cancelled, cancel := context.WithCancel(p.ctx)
	cancel()
	p.create("a", p.now())
	lead := p.lead()
	for what, call := range scheduleCalls(p.Scheduling, lead) {
		p.is(what+" with a cancelled context", call(cancelled), context.Canceled)
	}
	if _, there := p.find("x"); there {
		p.Errorf("an Apply whose context was cancelled is stored")
	}
	ended := make(chan error, 1)
	go func() { ended <- waitUntil(p.ctx, p.Schedules) }()
	time.Sleep(10 * poll)
	if err := p.Close(); err != nil {
		p.Fatalf("Close: %v", err)
	}
	select {
	case err := <-ended:
		p.is("Wait, when the backend closes", err, broker.ErrClosed)
	case <-time.After(second + p.o.Slack):
		p.Errorf("Wait goes on though the backend is closed")
	}
	for what, call := range scheduleCalls(p.Scheduling, lead) {
		p.is(what+" after Close", call(p.ctx), broker.ErrClosed)
	}
}

func scheduleCalls(s Scheduling, lead store.Lock) map[string]func(context.Context) error {
	due := time.Now().Add(time.Hour)
	calls := map[string]func(context.Context) error{
		"Apply": func(ctx context.Context) error {
			_, err := s.Schedules.Apply(ctx, []store.ScheduleChange{made("x", due)})
			return err
		},
		"Get":     func(ctx context.Context) error { _, err := s.Schedules.Get(ctx, "a"); return err },
		"List":    func(ctx context.Context) error { _, _, err := s.Schedules.List(ctx, broker.Page{}); return err },
		"History": func(ctx context.Context) error { _, err := s.Schedules.History(ctx, "a", 1); return err },
		"Due":     func(ctx context.Context) error { _, err := s.Schedules.Due(ctx, 1, 0); return err },
		"Fire": func(ctx context.Context) error {
			f := firing(store.Schedule{ID: "a", Version: 1, NextDue: due}, time.Hour)
			_, err := s.Schedules.Fire(ctx, lead, []store.Firing{f})
			return err
		},
		"Finish": func(ctx context.Context) error {
			return s.Schedules.Finish(ctx, lead, []store.FireRecord{{ID: "a", Due: due, Outcome: store.OutcomeFired}})
		},
		"Wait": func(ctx context.Context) error { return s.Schedules.Wait(ctx, 0, time.Hour) },
	}
	for what, call := range lockCalls(s) {
		calls[what] = call
	}
	return calls
}

// oneClaims: of many who fire the same moments, each is claimed by one; the
// changes beside them are applied or refused.
func oneClaims(p *planner) {
	const moments, beats = 20, 4
	lead := p.lead()
	s := p.create("shared", p.now().Add(-time.Hour))
	q := p.other()
	var mu sync.Mutex
	claimed := make(map[time.Time]int)
	var wg sync.WaitGroup
	for b := range beats {
		by := p
		if b%2 == 1 {
			by = q
		}
		wg.Go(func() {
			s := s
			for range moments {
				f := firing(s, time.Minute)
				f.Version = by.version("shared")
				a := by.tryFire(lead, f)
				switch {
				case a.Err == nil:
					mu.Lock()
					claimed[f.Due]++
					mu.Unlock()
				case !errors.Is(a.Err, store.ErrConflict):
					p.Errorf("Fire beside others: %v", a.Err)
				}
				if now := by.version("shared"); now != f.Version {
					continue // it was changed meanwhile: the same moment again
				}
				s = later(s, f)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			found, err := p.Schedules.Get(p.ctx, "shared")
			if err != nil {
				p.Errorf("Get beside others: %v", err)
				return
			}
			_, err = p.Schedules.Apply(p.ctx, []store.ScheduleChange{changed(found[0].Schedule)})
			if err != nil && !errors.Is(err, store.ErrConflict) {
				p.Errorf("Apply beside others: %v", err)
			}
		}
	})
	wg.Wait()
	for due, n := range claimed {
		if n != 1 {
			p.Errorf("the moment %s was claimed %d times", due, n)
		}
	}
	if h := p.history("shared"); len(h) != len(claimed) || len(claimed) == 0 {
		p.Errorf("%d moments were claimed, and the history has %d", len(claimed), len(h))
	}
}

func (p *planner) version(id string) int64 {
	found, err := p.Schedules.Get(p.ctx, id)
	if err != nil || found[0].Err != nil {
		p.Errorf("Get beside others: %+v, %v", found, err)
		return 0
	}
	return found[0].Schedule.Version
}

func (p *planner) tryFire(lead store.Lock, f store.Firing) store.FireAnswer {
	answers, err := p.Schedules.Fire(p.ctx, lead, []store.Firing{f})
	if err != nil || len(answers) != 1 {
		return store.FireAnswer{Err: fmt.Errorf("%w: %w", task.ErrInvalid, err)}
	}
	return answers[0]
}
