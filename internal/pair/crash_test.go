package pair_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

const (
	lease   = 10 * time.Second
	keepFor = 24 * time.Hour
)

// world is two stores, and the processes that come and go on them.
type world struct {
	testing.TB
	ctx     context.Context
	broker  broker.Broker // as it is, without faults
	results *faultyResults
	lease   time.Duration

	ran map[string]int // executions of handlers, by id
}

// process is one life on the stores.
type process struct {
	*world
	fault *fault
	join  *pair.Joined
	c     broker.Consumer
}

func newWorld(ctx context.Context, t testing.TB, b broker.Broker, r store.Results) *world {
	return &world{
		TB: t, ctx: ctx, broker: b, lease: lease, ran: map[string]int{},
		results: &faultyResults{Results: r, f: &fault{}, ends: &ends{ended: map[string]int{}}},
	}
}

// start begins a process. It dies where arm says.
func (w *world) start() *process {
	w.Helper()
	f := &fault{}
	w.results.f = f
	p := &process{world: w, fault: f, join: pair.Join(&faultyBroker{w.broker, f}, w.results, pair.Options{})}
	var err error
	if p.c, err = p.join.Open(w.ctx, broker.Subscription{Worker: "w", Queues: []string{"*"}, Lease: w.lease}); err != nil {
		w.Fatalf("Open: %v", err)
	}
	return p
}

func envelope(id, queue string) *task.Envelope {
	return &task.Envelope{
		ID: id, Name: "demo", Args: json.RawMessage(`1`), EnqueuedAt: time.Now().UTC().Truncate(time.Millisecond),
		Priority: task.DefaultPriority, MaxRetries: 3, Queue: queue,
	}
}

// publish stores tasks, as often as it takes.
func (p *process) publish(batch ...broker.Publication) error {
	out, err := p.join.Publish(p.ctx, batch)
	if err != nil {
		return err
	}
	for i, o := range out {
		if o.State != broker.Stored && o.State != broker.Exists {
			p.Errorf("Publish of %s: %+v", batch[i].Envelope.ID, o)
		}
	}
	return nil
}

// take receives one task and executes its handler, if it is to be executed.
func (p *process) take() (d broker.Delivery, ok bool, err error) {
	b, err := p.c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1})
	if err != nil || len(b.Deliveries) == 0 {
		return d, false, err
	}
	d = b.Deliveries[0]
	if d.Redelivered {
		errs, err := p.join.Renew(p.ctx, []broker.Renewal{{Receipt: d.Receipt, Start: true, Worker: "w"}})
		if err != nil {
			return d, false, err
		}
		if errors.Is(errs[0], broker.ErrSettled) || errors.Is(errs[0], broker.ErrLeaseLost) {
			return d, false, nil
		}
		if errs[0] != nil {
			return d, false, errs[0]
		}
	}
	p.execute(d)
	return d, true, nil
}

// execute is a handler. No outcome of this attempt may be stored when it runs.
func (w *world) execute(d broker.Delivery) {
	w.Helper()
	w.ran[d.Envelope.ID]++
	found, err := w.results.Results.Get(w.ctx, d.Envelope.ID)
	if err != nil {
		w.Fatal(err)
	}
	s := found[0].Status
	if s.State.Terminal() && s.ReplayCount >= d.Replays || s.State == task.Retried && s.Attempt > d.Attempt {
		w.Errorf("%s is executed though it has %s, attempt %d", d.Receipt, s.State, s.Attempt)
	}
}

func outcome(d broker.Delivery, s task.State) task.Outcome {
	at := time.Now().UTC()
	o := task.Outcome{State: s, Attempt: d.Attempt + 1, Worker: "w", StartedAt: at, EndedAt: at, Keep: keepFor}
	switch s {
	case task.Succeeded:
		o.Result = json.RawMessage(`"ok"`)
	case task.Queued, task.Cancelled:
		o.Attempt, o.Reason = d.Attempt, task.ReasonExpired
	default:
		o.Error = &task.Error{Type: "demo", Message: "boom", At: at, Attempt: d.Attempt}
		o.Reason = task.ReasonPermanent
	}
	return o
}

// settlement is how the handler of a task ends: "parent" asks for a follow-up,
// and releases its claim.
func settlement(d broker.Delivery, s task.State) broker.Settlement {
	v := broker.Settlement{Receipt: d.Receipt, Outcome: outcome(d, s)}
	if d.Envelope.ID == "parent" && s != task.Queued {
		v.Followups = []broker.Publication{{Envelope: envelope("child", "q")}}
		v.Release = []string{"claim"}
	}
	return v
}

func (p *process) settle(d broker.Delivery, s task.State, byExchange bool) error {
	batch := []broker.Settlement{settlement(d, s)}
	var errs []error
	var err error
	if byExchange {
		var b broker.Batch
		b, err = p.c.Exchange(p.ctx, batch, nil, broker.Want{})
		errs = b.Settled
	} else {
		errs, err = p.join.Settle(p.ctx, batch)
	}
	if err != nil {
		return err
	}
	return errs[0]
}

// finish lets a new process bring everything to its end: it publishes again
// what the old one wanted to, waits out leases and delays, and reconciles.
func (w *world) finish(again ...broker.Publication) {
	w.Helper()
	p := w.start()
	if err := p.publish(again...); err != nil {
		w.Fatalf("publishing again: %v", err)
	}
	idle := 0
	for range 200 {
		d, ok, err := p.take()
		if err != nil {
			w.Fatalf("after the crash: %v", err)
		}
		if ok {
			if err := p.settle(d, task.Succeeded, true); err != nil {
				w.Fatalf("settling %s after the crash: %v", d.Receipt, err)
			}
		}
		if d.Envelope != nil {
			idle = 0
			continue
		}
		if idle++; idle > 3 {
			break
		}
		time.Sleep(w.lease)
	}
	if _, err := p.join.Reconcile(w.ctx, w.lease); err != nil {
		w.Fatalf("Reconcile: %v", err)
	}
	for _, q := range w.queues() {
		if q.Ready+q.Delayed+q.Leased > 0 {
			w.Errorf("at the end queue %+v holds tasks still", q)
		}
	}
	boxes, _, err := w.results.ListOutboxes(w.ctx, time.Now().Add(time.Hour), broker.Page{})
	if err != nil || len(boxes) > 0 {
		w.Errorf("at the end there are outboxes: %+v, error %v", boxes, err)
	}
}

func (w *world) queues() []broker.QueueInfo {
	w.Helper()
	q, err := w.broker.Queues(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return q
}

// status is the status of a task, or a zero one.
func (w *world) status(id string) task.Status {
	w.Helper()
	found, err := w.results.Results.Get(w.ctx, id)
	if err != nil {
		w.Fatal(err)
	}
	return found[0].Status
}

// ended checks that a task has one of these states, and reached it so often.
func (w *world) ended(id string, times int, states ...task.State) {
	w.Helper()
	s := w.status(id)
	for _, want := range states {
		if s.State == want {
			if n := w.results.ended[id]; n != times {
				w.Errorf("%s ended %d times, want %d", id, n, times)
			}
			return
		}
	}
	w.Errorf("%s is %q, reason %q; want %v", id, s.State, s.Reason, states)
}

// TestCrash lets a process die before, and after, each call that it makes to
// either store, in each thing that it may be doing, and looks at what a later
// process makes of it.
func TestCrash(t *testing.T) { everyPoint(t, false) }

// TestStall stops a process there instead, for so long that another one brings
// everything to its end, and then lets it go on.
func TestStall(t *testing.T) { everyPoint(t, true) }

func everyPoint(t *testing.T, stall bool) {
	points := 0
	for _, s := range scenarios() {
		for _, after := range []bool{false, true} {
			for at, met := 1, "first"; met != "" && !t.Failed(); at++ {
				name := fmt.Sprintf("%s/%d", s.name, at)
				if after {
					name += " after"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { met = meet(t, s, at, after, stall) })
				})
				points++
			}
		}
	}
	t.Logf("%d points", points)
}

// meet runs a scenario in which a process meets its fate at one call, and says
// at which; "" if it came to its end before.
func meet(t *testing.T, s scenario, at int, after, stall bool) string {
	b, r := memory.New(), memory.New()
	defer b.Close()
	defer r.Close()
	w := newWorld(t.Context(), t, b.Broker(), r.Results())
	p := w.start()
	if s.before != nil {
		s.before(p)
	}
	p.fault.arm(at, after)
	if stall {
		p.fault.stall = func() { w.finish() }
	}
	err := s.act(p)
	met := p.fault.met()
	if err != nil && met == "" {
		t.Fatalf("without a fault: %v", err)
	}
	w.finish(s.again...)
	s.after(w)
	claim := []broker.Claim{{Key: "claim"}}
	o, err := w.broker.Publish(w.ctx, []broker.Publication{{Envelope: envelope("rival", "q"), Claims: claim}})
	if err != nil || o[0].State != broker.Stored {
		t.Errorf("at the end the claim is %+v, error %v", o, err)
	}
	for name, db := range map[string]*memory.DB{"broker": b, "results": r} {
		if err := db.Check(w.ctx); err != nil {
			t.Errorf("the %s' store: %v", name, err)
		}
	}
	if t.Failed() {
		t.Logf("it was met at %s", met)
	}
	return met
}
