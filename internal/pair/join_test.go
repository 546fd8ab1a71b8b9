package pair_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// within runs a test with one process on two stores in memory, in virtual time.
func within(t *testing.T, test func(p *process)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, r := memory.New(), memory.New()
		defer b.Close()
		defer r.Close()
		test(newWorld(t.Context(), t, b.Broker(), r.Results()).start())
	})
}

// outboxes lists the ids of the outcomes whose outbox is not cleared.
func (w *world) outboxes() (ids []string) {
	w.Helper()
	boxes, _, err := w.results.Results.(store.Outboxes).ListOutboxes(w.ctx, time.Now().Add(time.Hour), broker.Page{})
	if err != nil {
		w.Fatal(err)
	}
	for _, b := range boxes {
		ids = append(ids, b.ID)
	}
	return ids
}

// is checks the state of a task, and that no outbox is left.
func (w *world) is(id string, want task.State) {
	w.Helper()
	if s := w.status(id); s.State != want {
		w.Errorf("%s is %q, reason %q; want %q", id, s.State, s.Reason, want)
	}
	if left := w.outboxes(); len(left) > 0 {
		w.Errorf("outboxes are left: %v", left)
	}
}

// ready checks how many tasks the broker holds, ready and leased.
func (w *world) holds(ready, leased int) {
	w.Helper()
	var r, l int
	for _, q := range w.queues() {
		r, l = r+q.Ready, l+q.Leased
	}
	if r != ready || l != leased {
		w.Errorf("the broker holds %d ready and %d leased, want %d and %d", r, l, ready, leased)
	}
}

func (w *world) lost(what string, err error) {
	w.Helper()
	if !errors.Is(err, broker.ErrLeaseLost) {
		w.Errorf("%s: got error %v, want ErrLeaseLost", what, err)
	}
}

// start reports the start of d by a call of its own.
func (p *process) startOf(d broker.Delivery) error {
	p.Helper()
	errs, err := p.join.Renew(p.ctx, []broker.Renewal{{Receipt: d.Receipt, Start: true, Worker: "w"}})
	if err != nil {
		return err
	}
	return errs[0]
}

func TestOutboxIsCleared(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		p.must(p.settle(p.take1(), task.Succeeded, true))
		p.is("parent", task.Succeeded)
		p.is("child", task.Queued)
		p.holds(1, 0)
		time.Sleep(keepFor + 2*time.Second)
		if s := p.status("parent"); s.ID != "" {
			p.Errorf("the status outlives its retention: %+v", s)
		}
	})
}

// A settlement whose answer got lost is repeated, and finds itself settled.
func TestLostAnswer(t *testing.T) {
	for _, s := range []task.State{task.Succeeded, task.Failed, task.Cancelled} {
		for _, call := range []string{"broker.Exchange", "broker.Settle"} {
			t.Run(fmt.Sprint(s, " by ", call), func(t *testing.T) {
				within(t, func(p *process) {
					p.must(p.publish(parent()))
					d := p.take1()
					p.fault.lose(call, 1)
					if err := p.settle(d, s, call == "broker.Exchange"); !errors.Is(err, errAway) {
						p.Errorf("settling without an answer: %v", err)
					}
					p.lost("settling again", p.settle(d, s, call == "broker.Exchange"))
					p.is("parent", s)
					p.is("child", task.Queued)
				})
			})
		}
	}
}

// What is revoked between the two steps of a settlement has its outcome, and
// gets its follow-up.
func TestRevokedBetween(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		p.fault.fail("broker.Settle", 1)
		if err := p.settle(d, task.Succeeded, false); err == nil {
			p.Fatal("the broker was to be away")
		}
		time.Sleep(lease + time.Second) // nobody holds it any more
		r, _ := broker.As[broker.Revoker](p.join)
		a, err := r.Revoke(p.ctx, []broker.Revocation{{ID: "parent", Keep: keepFor}})
		if err != nil || a[0].State != broker.RevokeTooLate {
			p.Errorf("revoking a task with a stored outcome: %+v, %v; want too late", a, err)
		}
		p.is("parent", task.Succeeded)
		p.is("child", task.Queued)
		p.lost("settling again", p.settle(d, task.Succeeded, false))
		p.is("parent", task.Succeeded)
	})
}

// The same, when the revocation passes by the join, or dies half way.
func TestRevokedBehindItsBack(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		p.fault.fail("broker.Settle", 1)
		if err := p.settle(d, task.Succeeded, false); err == nil {
			p.Fatal("the broker was to be away")
		}
		time.Sleep(lease + time.Second)
		r, _ := broker.As[broker.Revoker](p.broker)
		if _, err := r.Revoke(p.ctx, []broker.Revocation{{ID: "parent"}}); err != nil {
			p.Fatal(err)
		}
		p.lost("settling again", p.settle(d, task.Succeeded, false))
		p.is("parent", task.Succeeded)
		p.is("child", task.Queued)
	})
}

func TestRevokedIsNotGivenBack(t *testing.T) {
	for _, how := range []string{"released", "retried", "consumer closed", "told, and consumer closed"} {
		t.Run(how, func(t *testing.T) {
			within(t, func(p *process) {
				p.must(p.publish(parent()))
				b, err := p.c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1})
				p.must(err)
				d := b.Deliveries[0]
				by := p.broker // another process
				if how != "told, and consumer closed" {
					by = p.join
				}
				r, _ := broker.As[broker.Revoker](by)
				a, err := r.Revoke(p.ctx, []broker.Revocation{{ID: "parent", Reason: "mine", Keep: keepFor}})
				if err != nil || a[0].State != broker.RevokeAsked {
					p.Fatalf("Revoke: %+v, %v", a, err)
				}
				switch how {
				case "released":
					p.must(p.settle(d, task.Queued, true))
				case "retried":
					p.must(p.settle(d, task.Retried, true))
				case "consumer closed":
					p.must(p.c.Close(p.ctx))
				default:
					b, err := p.c.Exchange(p.ctx, nil, nil, broker.Want{})
					if err != nil || len(b.Revoked) != 1 || b.Revoked[0].Receipt != d.Receipt {
						p.Errorf("the consumer is told %+v, %v", b.Revoked, err)
					}
					p.must(p.c.Close(p.ctx))
				}
				p.is("parent", task.Cancelled)
				if s := p.status("parent"); s.Reason != "mine" {
					p.Errorf("its reason is %q", s.Reason)
				}
				q := p.world.start()
				time.Sleep(lease + time.Second)
				if d, ok, err := q.take(); ok && d.Envelope.ID == "parent" || err != nil {
					p.Errorf("a revoked task is delivered: %v, %v", ok, err)
				}
			})
		})
	}
}

// A task whose outcome is recorded is not given back as if it had never run.
func TestCloseAfterRecord(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		p.fault.fail("broker.Exchange", 1)
		if err := p.settle(d, task.Succeeded, true); err == nil {
			p.Fatal("the broker was to be away")
		}
		p.fault.fail("broker.Settle", 1)
		if err := p.c.Close(p.ctx); err == nil {
			p.Error("closing while the broker is away: no error")
		}
		p.holds(0, 1)
		p.must(p.c.Close(p.ctx))
		p.is("parent", task.Succeeded)
		p.holds(1, 0) // the child
	})
}

// The same, when it is not known whether it is recorded.
func TestCloseAfterLostRecord(t *testing.T) {
	for _, lose := range []bool{false, true} {
		t.Run(fmt.Sprint("recorded ", lose), func(t *testing.T) {
			within(t, func(p *process) {
				p.must(p.publish(parent()))
				d := p.take1()
				away := p.fault.fail
				if lose {
					away = p.fault.lose
				}
				away("results.Record", 1)
				if err := p.settle(d, task.Succeeded, true); !errors.Is(err, broker.ErrUnavailable) {
					p.Errorf("settling while the result store is away: %v", err)
				}
				away("results.Record", 1)
				if err := p.c.Close(p.ctx); err == nil {
					p.Error("closing while the result store is away: no error")
				}
				p.holds(0, 1)
				p.must(p.c.Close(p.ctx))
				p.is("parent", task.Succeeded)
				p.holds(1, 0) // the child
			})
		})
	}
}

// The first outcome that is stored stands, whatever its worker says later.
func TestOutcomeStands(t *testing.T) {
	for _, later := range []task.State{task.Queued, task.Failed, task.Retried} {
		t.Run(string(later), func(t *testing.T) {
			within(t, func(p *process) {
				p.must(p.publish(parent()))
				d := p.take1()
				p.fault.fail("broker.Settle", 1)
				if err := p.settle(d, task.Succeeded, false); err == nil {
					p.Fatal("the broker was to be away")
				}
				err := p.settle(d, later, false)
				p.lost("settling otherwise", err)
				if !errors.Is(err, broker.ErrSettled) {
					p.Errorf("settling otherwise: %v, want ErrSettled too", err)
				}
				p.is("parent", task.Succeeded)
				p.holds(1, 0) // the child
			})
		})
	}
}

func TestStatusOfARepeatedPublish(t *testing.T) {
	within(t, func(p *process) {
		p.fault.fail("results.Create", 1)
		p.must(p.publish(parent())) // stored, and said so
		if s := p.status("parent"); s.ID != "" {
			p.Fatalf("a status: %+v", s)
		}
		p.must(p.publish(parent()))
		p.is("parent", task.Queued)
		p.holds(1, 0)
	})
}

// picky refuses settlements with a follow-up of a name, for a reason that no
// check beforehand can know.
type picky struct {
	broker.Broker
	refuses string
}

func (b picky) Unwrap() broker.Broker { return b.Broker }

func (b picky) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	errs := make([]error, len(batch))
	for i, s := range batch {
		for _, f := range s.Followups {
			if f.Envelope.ID == b.refuses {
				errs[i] = errors.New("not today")
			}
		}
		if errs[i] == nil {
			e, err := b.Broker.Settle(ctx, batch[i:i+1])
			if err != nil {
				return nil, err
			}
			errs[i] = e[0]
		}
	}
	return errs, nil
}

func (b picky) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	out, err := b.Broker.Publish(ctx, batch)
	for i := range out {
		if batch[i].Envelope.ID == b.refuses {
			out[i] = broker.Outcome{State: broker.Full}
		}
	}
	return out, err
}

func TestRefusedFollowup(t *testing.T) {
	within(t, func(p *process) {
		b := picky{p.broker, "bad"}
		join := pair.Join(b, p.results, pair.Options{})
		p.must(p.publish(parent()))
		d := p.take1()
		s := settlement(d, task.Succeeded)
		s.Followups = append(s.Followups, broker.Publication{Envelope: envelope("bad", "nowhere")})
		errs, err := join.Settle(p.ctx, []broker.Settlement{s})
		if err != nil || errs[0] != nil {
			p.Errorf("settling with a follow-up that is refused: %v, %v", errs, err)
		}
		p.is("parent", task.Succeeded)
		p.is("child", task.Queued)
		if held, err := p.results.Results.Get(p.ctx, "bad"); err != nil || !errors.Is(held[0].Err, store.ErrNotFound) {
			p.Errorf("a refused follow-up has a status: %+v", held)
		}
	})
}

func TestPowers(t *testing.T) {
	db := memory.New()
	defer db.Close()
	j := pair.Join(struct{ broker.Broker }{db.Broker()}, db.Results(), pair.Options{})
	if _, ok := broker.As[broker.Revoker](j); ok {
		t.Error("the join of a broker that cannot revoke can")
	}
	if _, ok := broker.As[broker.DeadImporter](j); ok {
		t.Error("the join of a broker that takes no dead letters back does")
	}
	if _, err := j.Reconcile(t.Context(), lease); !errors.Is(err, broker.ErrUnsupported) {
		t.Errorf("reconciling without an owner: %v, want ErrUnsupported", err)
	}
	j = pair.Join(db.Broker(), memory.New().Results(), pair.Options{})
	if a, ok := broker.As[broker.Owner](j); !ok || a == nil {
		t.Error("the join hides a power of its broker")
	}
	if !broker.CapabilitiesOf(j).Has(broker.PowerRevoke) {
		t.Error("the join hides what its broker declares")
	}
}

// What was given back is nobody's: an outcome for it is not recorded.
func TestSettleAfterClose(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		p.must(p.c.Close(p.ctx))
		p.lost("settling what was given back", p.settle(d, task.Succeeded, false))
		p.is("parent", task.Queued)
		p.holds(1, 0)
	})
}

// What the broker would refuse is refused before it is recorded.
func TestRefusedOutcome(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		late := settlement(d, task.Retried)
		late.Outcome.NotBefore = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
		running, strange := settlement(d, task.Running), settlement(d, "strange")
		bad := settlement(d, task.Succeeded)
		bad.Followups[0].Envelope.Queue = "../x"
		none := settlement(d, task.Succeeded)
		none.Followups[0].Envelope = nil
		large := settlement(d, task.Succeeded)
		large.Followups[0].Envelope.Args = json.RawMessage(`"` + strings.Repeat("x", task.DefaultMaxSize) + `"`)
		limited := settlement(d, task.Succeeded)
		limited.Followups[0].Limits = []string{"l"}
		for what, s := range map[string]broker.Settlement{
			"in the year 10000": late, "as running": running, "as strange": strange,
			"with a bad follow-up": bad, "with none": none, "with a large one": large, "with a limited one": limited,
		} {
			errs, err := p.join.Settle(p.ctx, []broker.Settlement{s})
			if err != nil || !errors.Is(errs[0], task.ErrInvalid) && !errors.Is(errs[0], task.ErrTooLarge) && !errors.Is(errs[0], broker.ErrUnsupported) {
				p.Errorf("settling %s: %v, %v", what, errs, err)
			}
		}
		p.is("parent", task.Queued)
		p.must(p.settle(d, task.Succeeded, false))
	})
}

// A caller that goes away after the step that counts does not leave what
// follows undone.
func TestCallerGoesAway(t *testing.T) {
	within(t, func(p *process) {
		ctx, cancel := context.WithCancel(p.ctx)
		p.fault.arm(2, true)
		p.fault.stall = cancel
		_, err := p.join.Publish(ctx, []broker.Publication{parent()})
		if err != nil || p.fault.met() != "broker.Publish" {
			p.Fatalf("Publish: %v; cancelled at %s", err, p.fault.met())
		}
		p.is("parent", task.Queued)
	})
}
