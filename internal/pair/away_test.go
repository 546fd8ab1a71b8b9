package pair_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// While the result store is away a start must wait, and is counted once.
func TestStartWhileResultsAreAway(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		b, err := p.c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1})
		p.must(err)
		d := b.Deliveries[0]
		p.fault.fail("results.Update", 3)
		for range 3 {
			if err := p.startOf(d); !errors.Is(err, broker.ErrUnavailable) {
				p.Errorf("a start that nobody noted: %v, want ErrUnavailable", err)
			}
		}
		p.must(p.startOf(d))
		p.is("parent", task.Running)
		time.Sleep(lease + time.Second)
		b, err = p.c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1})
		p.must(err)
		if n := b.Deliveries[0].Starts; n != 1 {
			p.Errorf("%d starts are counted, want 1", n)
		}
	})
}

// A start of what runs already is reported late, with whatever comes next.
func TestLateStart(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		live := []broker.Renewal{{Receipt: d.Receipt, Start: true, Worker: "w"}}
		p.fault.fail("results.Update", 1)
		b, err := p.c.Exchange(p.ctx, nil, live, broker.Want{})
		if err != nil || b.Renewed[0] != nil {
			p.Fatalf("renewing while the result store is away: %v, %v", b.Renewed, err)
		}
		p.is("parent", task.Queued)
		live[0].Start = false
		b, err = p.c.Exchange(p.ctx, nil, live, broker.Want{})
		if err != nil || b.Renewed[0] != nil {
			p.Fatalf("renewing: %v, %v", b.Renewed, err)
		}
		p.is("parent", task.Running)
		if s := p.status("parent"); s.Worker != "w" || s.Starts != 1 {
			p.Errorf("the status says worker %q, %d starts", s.Worker, s.Starts)
		}
	})
}

// While the result store is away leases are kept, and nothing new is taken.
func TestResultsAway(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent(), broker.Publication{Envelope: envelope("next", "q")}))
		done := p.take1()
		p.must(p.publish(broker.Publication{Envelope: envelope("third", "q")}))
		running, _, err := p.take()
		p.must(err)
		for range 5 {
			time.Sleep(lease / 2)
			p.fault.fail("results.Record", 1)
			b, err := p.c.Exchange(p.ctx, []broker.Settlement{settlement(done, task.Succeeded)},
				[]broker.Renewal{{Receipt: running.Receipt}}, broker.Want{Count: 1})
			if err != nil {
				p.Fatal(err)
			}
			if !errors.Is(b.Settled[0], broker.ErrUnavailable) || len(b.Renewed) != 1 || b.Renewed[0] != nil || len(b.Deliveries) != 0 {
				p.Errorf("settled %v, renewed %v, %d deliveries; want unavailable, nil, none", b.Settled, b.Renewed, len(b.Deliveries))
			}
		}
		p.holds(1, 2)
		p.must(p.settle(done, task.Succeeded, true))
		p.must(p.settle(running, task.Succeeded, true))
		p.is("parent", task.Succeeded)
		p.is("next", task.Succeeded)
	})
}

// What is only for show is written when the result store is back.
func TestCatchUp(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		p.must(p.settle(p.take1(), task.Failed, true))
		p.fault.fail("results.Requeue", 1)
		r, err := p.join.DeadLetters().ReplayDeadLetters(p.ctx, broker.DeadFilter{}, broker.ReplayOptions{})
		if err != nil || r.Count != 1 {
			p.Fatalf("replay: %+v, %v", r, err)
		}
		p.is("parent", task.Failed) // so far
		time.Sleep(2 * time.Second)
		p.must(p.publish())
		p.is("parent", task.Queued)

		p.fault.fail("results.Get", 1)
		_, err = p.join.Purge(p.ctx, broker.Purge{Queue: "q", Keep: keepFor})
		p.must(err)
		time.Sleep(2 * time.Second)
		p.must(p.publish())
		p.is("parent", task.Cancelled)
	})
}

// A task that ends, with nothing to keep, before its publisher came to create
// its status leaves none.
func TestKeepNothing(t *testing.T) {
	within(t, func(p *process) {
		p.fault.arm(3, false)
		p.fault.stall = func() {
			q := p.world.start()
			d := q.take1()
			s := settlement(d, task.Succeeded)
			s.Outcome.Keep, s.Followups = 0, nil
			errs, err := q.join.Settle(p.ctx, []broker.Settlement{s})
			if err != nil || errs[0] != nil {
				p.Fatal(errs, err)
			}
		}
		p.must(p.publish(parent()))
		if p.fault.met() != "results.Create" {
			p.Fatalf("stopped at %s", p.fault.met())
		}
		time.Sleep(2 * time.Second)
		if s := p.status("parent"); s.ID != "" {
			p.Errorf("a status is kept: %+v", s)
		}
		hidden := envelope("hidden", "q")
		hidden.Meta = map[string]json.RawMessage{task.MetaRetention: json.RawMessage("0")}
		p.must(p.publish(broker.Publication{Envelope: hidden}))
		if s := p.status("hidden"); s.ID != "" {
			p.Errorf("a task that keeps no status has one: %+v", s)
		}
		d, _, err := p.take()
		p.must(err)
		s := settlement(d, task.Succeeded)
		s.Outcome.Keep = 0
		errs, err := p.join.Settle(p.ctx, []broker.Settlement{s})
		if err != nil || errs[0] != nil {
			p.Fatal(errs, err)
		}
		if s := p.status("hidden"); s.ID != "" {
			p.Errorf("a task that keeps no status has one after its end: %+v", s)
		}
	})
}
