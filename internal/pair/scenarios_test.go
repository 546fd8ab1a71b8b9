package pair_test

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func parent() broker.Publication {
	return broker.Publication{Envelope: envelope("parent", "q"), Claims: []broker.Claim{{Key: "claim"}}}
}

// scenario is one thing that a process does when it dies.
type scenario struct {
	name   string
	before func(p *process)       // what happens before, without a crash
	act    func(p *process) error // where it dies
	again  []broker.Publication   // what is published again after a crash
	after  func(w *world)         // what must be true in the end
}

// take1 is the delivery of the parent, executed.
func (p *process) take1() broker.Delivery {
	p.Helper()
	d, ok, err := p.take()
	if err != nil || !ok || d.Envelope.ID != "parent" {
		p.Fatalf("taking the parent: %+v, %v, %v", d, ok, err)
	}
	return d
}

func (p *process) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func settling(s task.State, byExchange bool, want ...task.State) scenario {
	var d broker.Delivery
	how := "Settle"
	if byExchange {
		how = "Exchange"
	}
	return scenario{
		name:   fmt.Sprintf("%s as %s", how, s),
		before: func(p *process) { p.must(p.publish(parent())); d = p.take1() },
		act:    func(p *process) error { return p.settle(d, s, byExchange) },
		after: func(w *world) {
			w.ended("parent", 1, want...)
			if s != task.Queued || w.ran["child"] > 0 {
				w.ended("child", 1, task.Succeeded)
			}
			if w.ran["child"] > 1 {
				w.Errorf("the follow-up was executed %d times", w.ran["child"])
			}
		},
	}
}

func scenarios() []scenario {
	dies := func(p *process) broker.Delivery {
		p.must(p.publish(parent()))
		d := p.take1()
		p.must(p.settle(d, task.Failed, false))
		return d
	}
	var all []scenario
	for _, byExchange := range []bool{false, true} {
		all = append(all,
			settling(task.Succeeded, byExchange, task.Succeeded),
			settling(task.Retried, byExchange, task.Succeeded),
			settling(task.Failed, byExchange, task.Failed, task.Succeeded),
			settling(task.Cancelled, byExchange, task.Cancelled, task.Succeeded),
			settling(task.Queued, byExchange, task.Succeeded),
		)
	}
	return append(all,
		scenario{
			name: "Publish",
			act: func(p *process) error {
				return p.publish(parent(), broker.Publication{Envelope: envelope("other", "q")})
			},
			again: []broker.Publication{parent(), {Envelope: envelope("other", "q")}},
			after: func(w *world) {
				w.ended("parent", 1, task.Succeeded)
				w.ended("other", 1, task.Succeeded)
				if w.ran["parent"] != 1 || w.ran["other"] != 1 {
					w.Errorf("executed %v, want once each", w.ran)
				}
			},
		},
		scenario{
			name: "replay",
			before: func(p *process) {
				dies(p)
			},
			act: func(p *process) error {
				_, err := p.join.DeadLetters().ReplayDeadLetters(p.ctx, broker.DeadFilter{}, broker.ReplayOptions{})
				return err
			},
			after: func(w *world) {
				s := w.status("parent")
				switch replayed := s.ReplayCount == 1; {
				case replayed:
					w.ended("parent", 2, task.Succeeded)
				default:
					w.ended("parent", 1, task.Failed)
				}
				w.ended("child", 1, task.Succeeded)
				if w.ran["child"] != 1 {
					w.Errorf("the follow-up was executed %d times", w.ran["child"])
				}
			},
		},
		scenario{
			name:   "purge of dead letters",
			before: func(p *process) { dies(p) },
			act: func(p *process) error {
				_, err := p.join.DeadLetters().PurgeDeadLetters(p.ctx, broker.DeadFilter{}, broker.PurgeOptions{})
				return err
			},
			after: func(w *world) {
				if w.ran["parent"] != 1 {
					w.Errorf("the parent was executed %d times", w.ran["parent"])
				}
			},
		},
		scenario{
			name:   "purge of a queue",
			before: func(p *process) { p.must(p.publish(parent())) },
			act: func(p *process) error {
				_, err := p.join.Purge(p.ctx, broker.Purge{Queue: "q", Keep: keepFor})
				return err
			},
			after: func(w *world) {
				w.ended("parent", 1, task.Cancelled, task.Failed, task.Succeeded)
				if s := w.status("parent"); s.State != task.Succeeded && w.ran["parent"] > 0 {
					w.Errorf("the parent was purged and executed: %+v", s)
				}
			},
		},
		revoking("what waits", false, task.Cancelled, task.Succeeded),
		revoking("what is held", true, task.Cancelled),
		scenario{
			name: "start of a stored outcome",
			before: func(p *process) {
				p.must(p.publish(parent()))
				d := p.take1()
				p.fault.arm(2, true) // it dies between the stores
				if err := p.settle(d, task.Succeeded, false); err == nil || p.fault.met() != "results.Record" {
					p.Fatalf("it should have died of Record: %v, %s", err, p.fault.met())
				}
				p.fault.arm(0, false)
				time.Sleep(lease + time.Second)
			},
			act: func(p *process) error {
				q := p.world.start() // a join that knows nothing
				p.fault, q.fault.at, q.fault.after, q.fault.stall = q.fault, p.fault.at, p.fault.after, p.fault.stall
				_, ok, err := q.take()
				if ok {
					p.Errorf("what was stored is executed")
				}
				return err
			},
			after: func(w *world) {
				w.ended("parent", 1, task.Succeeded)
				w.ended("child", 1, task.Succeeded)
				if w.ran["parent"] != 1 || w.ran["child"] != 1 {
					w.Errorf("executed %v, want once each", w.ran)
				}
			},
		},
	)
}

func revoking(name string, held bool, want ...task.State) scenario {
	return scenario{
		name: "revocation of " + name,
		before: func(p *process) {
			p.must(p.publish(parent()))
			if held {
				p.take1()
			}
		},
		act: func(p *process) error {
			r, ok := broker.As[broker.Revoker](p.join)
			if !ok {
				p.Fatal("the join lost the power to revoke")
			}
			a, err := r.Revoke(p.ctx, []broker.Revocation{{ID: "parent", Keep: keepFor}})
			if err == nil && p.fault.met() == "" && held != (a[0].State == broker.RevokeAsked) {
				p.Errorf("revoked: %+v", a)
			}
			if err == nil && held { // and its worker gives it back
				return p.c.Close(p.ctx)
			}
			return err
		},
		after: func(w *world) {
			if !held || w.status("parent").State != task.Succeeded { // it was never asked
				w.ended("parent", 1, want...)
			}
		},
	}
}
