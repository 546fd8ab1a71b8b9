package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testB25: queues are described as they are.
func testB25(e *env) {
	// An age may be told by an estimate of the store's clock, which is made where
	// the machine may be busy: no more is asked than that it is an age at all.
	const rest, least, about = 20 * poll, 2 * poll, time.Second
	if infos, err := e.Broker.Queues(e.ctx); err != nil || len(infos) != 0 {
		e.Errorf("Queues of an empty broker: got %+v, error %v", infos, err)
	}
	began := time.Now()
	e.publish(envelope("z1", onQueue("z")))
	for i := range 5 {
		e.publish(envelope(fmt.Sprintf("m%d", i), onQueue("m")))
	}
	delayed := 0
	if e.has(broker.PowerDelays) {
		delayed = 3
		soon := broker.DueSoon / 2
		e.publish(envelope("d", onQueue("m"), notBefore(now().Add(long))), envelope("d2", onQueue("only-delayed"), notBefore(now().Add(long))),
			envelope("s1", onQueue("m"), notBefore(now().Add(soon))), envelope("s2", onQueue("m"), notBefore(now().Add(soon))))
	}
	c := e.open("m")
	ds := c.all(3)
	e.settle(ds[0], task.Failed)
	e.settle(ds[1], task.Succeeded)
	time.Sleep(rest)
	infos, err := e.Broker.Queues(e.ctx)
	var names []string
	for _, q := range infos {
		names = append(names, q.Name)
		if most := time.Since(began) + about; q.Ready > 0 && (q.Oldest < least || q.Oldest > most) || q.Ready == 0 && q.Oldest != 0 {
			e.Errorf("queue %s: the oldest of %d ready is %s, want %s to %s", q.Name, q.Ready, q.Oldest, least, most)
		}
		if want := max(q.Delayed-1, 0); q.Due != want {
			e.Errorf("queue %s: of %d delayed %d are due soon, want %d", q.Name, q.Delayed, q.Due, want)
		}
	}
	want := []string{"m", "only-delayed", "z"}
	if delayed == 0 {
		want = []string{"m", "z"}
	}
	if err != nil || !slices.Equal(names, want) {
		e.Errorf("Queues: got %v, error %v; want %v", names, err, want)
	}
	e.counts("m", 2, delayed, 1, 1)
	e.counts("z", 1, 0, 0, 0)
	named, err := e.Broker.Queues(e.ctx, "z", "none", "m")
	if err != nil || len(named) != 3 || named[0].Name != "m" || named[1] != (broker.QueueInfo{Name: "none"}) || named[2].Name != "z" || named[0].Due != max(delayed-1, 0) {
		e.Errorf("Queues of z, none, m: got %+v, error %v; want all three by name", named, err)
	}
	e.settle(ds[2], task.Queued)
	e.settle(c.one(), task.Cancelled)
	e.counts("m", 2, delayed, 0, 1)
	if !e.o.light {
		manyQueues(e)
	}
}

// manyQueues: none is lost however many there are.
func manyQueues(e *env) {
	for at := 0; at < many; at += 400 {
		var batch []*task.Envelope
		for i := range 400 {
			id := fmt.Sprintf("many-%04d", at+i)
			batch = append(batch, envelope(id, onQueue(id)))
		}
		e.publish(batch...)
	}
	infos, err := e.Broker.Queues(e.ctx)
	if err != nil || len(infos) < many {
		e.Errorf("Queues: %d are described, of %d, error %v", len(infos), many, err)
	}
	seen := make(map[string]bool)
	c := e.open("many-*")
	for len(seen) < many {
		ds := c.all(min(300, many-len(seen)))
		for _, d := range ds {
			seen[d.Envelope.ID] = true
		}
		if e.Failed() {
			return
		}
	}
}

// testB26: a purge takes what waits, a page at a time, and nothing else.
func testB26(e *env) {
	e.publishIDs("leased", "dead")
	c := e.open()
	ds := c.wantIDs("not to be purged", "leased", "dead")
	waiting := []string{"w1", "w2", "w3"}
	e.publishIDs(waiting...)
	if e.has(broker.PowerDelays) {
		e.publish(envelope("d1", notBefore(now().Add(long))), envelope("d2", notBefore(now().Add(long))))
		waiting = append(waiting, "d1", "d2")
	}
	e.publish(envelope("other", onQueue("other")))
	e.settle(ds[1], task.Failed)
	var got []string
	for range 10 {
		page, err := e.Broker.Purge(e.ctx, broker.Purge{Queue: "q", Limit: 2, Keep: long})
		if err != nil {
			e.Fatalf("Purge: %v", err)
		}
		if len(page) > 2 {
			e.Errorf("a page of two: got %v", page)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	slices.Sort(got)
	slices.Sort(waiting)
	if !slices.Equal(got, waiting) {
		e.Errorf("purged: got %v, want %v", got, waiting)
	}
	e.counts("q", 0, 0, 1, 1)
	e.counts("other", 1, 0, 0, 0)
	for _, id := range waiting {
		e.seen(id, task.Cancelled, func(s task.Status) string {
			if s.Reason != task.ReasonPurged {
				return "reason is " + s.Reason
			}
			return ""
		})
	}
	c.none("the queue was purged")
	if err := e.trySettle(settlement(ds[0], task.Succeeded)); err != nil {
		e.Errorf("settling a leased task of a purged queue: %v", err)
	}
	e.seen("dead", task.Failed, nil)
	e.publishIDs("new")
	c.wantIDs("after a purge", "new")
}

// testB28: a closed broker says so, everywhere.
func testB28(e *env) {
	e.publishIDs("a")
	c := e.open()
	d := c.one()
	waiting := make(chan error, 1)
	go func() { waiting <- c.Wait(e.ctx, idle) }()
	time.Sleep(4 * poll)
	var other *env
	if e.has(broker.PowerShared) {
		other = e.again()
	}
	began := time.Now()
	if err := e.Broker.Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	if other != nil {
		other.publishIDs("after")
		other.open().wantIDs("another handle, after this one was closed", "after")
	}
	if err := <-waiting; !errors.Is(err, broker.ErrClosed) && err != nil || time.Since(began) > second+e.o.Slack {
		e.Errorf("a Wait during Close: got error %v after %s, want ErrClosed", err, time.Since(began))
	}
	for what, call := range everyCall(e.Backend, c, d) {
		if err := call(e.ctx); !errors.Is(err, broker.ErrClosed) {
			e.Errorf("%s after Close: got error %v, want ErrClosed", what, err)
		}
	}
	if err := e.Broker.Close(); err != nil && !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Close after Close: %v", err)
	}
}

// everyCall has one call of each method that takes a context.
func everyCall(b Backend, c *consumer, d broker.Delivery) map[string]func(context.Context) error {
	dead := b.Broker.DeadLetters()
	calls := map[string]func(context.Context) error{
		"Publish": func(ctx context.Context) error {
			_, err := b.Broker.Publish(ctx, []broker.Publication{{Envelope: envelope("p1")}, {Envelope: envelope("p2")}})
			return err
		},
		"Open": func(ctx context.Context) error {
			opened, err := b.Broker.Open(ctx, broker.Subscription{Worker: "w", Queues: []string{"q"}})
			if err == nil {
				err = opened.Close(context.WithoutCancel(ctx))
				return errors.Join(err, errors.New("it opened a consumer"))
			}
			return err
		},
		"Settle": func(ctx context.Context) error {
			_, err := b.Broker.Settle(ctx, []broker.Settlement{settlement(d, task.Succeeded)})
			return err
		},
		"Renew": func(ctx context.Context) error {
			_, err := b.Broker.Renew(ctx, []broker.Renewal{{Receipt: d.Receipt}})
			return err
		},
		"Queues": func(ctx context.Context) error { _, err := b.Broker.Queues(ctx); return err },
		"Purge": func(ctx context.Context) error {
			_, err := b.Broker.Purge(ctx, broker.Purge{Queue: "none"})
			return err
		},
		"ListDeadLetters": func(ctx context.Context) error {
			_, _, err := dead.ListDeadLetters(ctx, broker.DeadFilter{}, broker.Page{})
			return err
		},
		"ReplayDeadLetters": func(ctx context.Context) error {
			_, err := dead.ReplayDeadLetters(ctx, broker.DeadFilter{}, broker.ReplayOptions{})
			return err
		},
		"PurgeDeadLetters": func(ctx context.Context) error {
			_, err := dead.PurgeDeadLetters(ctx, broker.DeadFilter{}, broker.PurgeOptions{})
			return err
		},
		"Exchange": func(ctx context.Context) error {
			_, err := c.Exchange(ctx, []broker.Settlement{settlement(d, task.Succeeded)}, nil, broker.Want{Count: 1})
			return err
		},
		"Wait": func(ctx context.Context) error { return c.Wait(ctx, idle) },
	}
	if r, ok := broker.As[broker.Revoker](b.Broker); ok {
		calls["Revoke"] = func(ctx context.Context) error {
			_, err := r.Revoke(ctx, []broker.Revocation{{ID: "nobody"}})
			return err
		}
	}
	if p, ok := broker.As[broker.Pauser](b.Broker); ok {
		calls["Pause"] = func(ctx context.Context) error { return p.Pause(ctx, []broker.Pause{{Queue: "idle"}}) }
		calls["Resume"] = func(ctx context.Context) error { _, err := p.Resume(ctx, "idle"); return err }
		calls["Pauses"] = func(ctx context.Context) error { _, err := p.Pauses(ctx); return err }
	}
	if l, ok := broker.As[broker.RevocationLister](b.Broker); ok {
		calls["Revocations"] = func(ctx context.Context) error { _, _, err := l.Revocations(ctx, broker.Page{}); return err }
	}
	if o, ok := broker.As[broker.Owner](b.Broker); ok {
		calls["Holds"] = func(ctx context.Context) error { _, err := o.Holds(ctx, "a"); return err }
	}
	return calls
}

// testB29: a cancelled context ends each call, and what it would have done is
// done whole or not at all.
func testB29(e *env) {
	e.publishIDs("a", "b")
	c := e.openShort()
	d := c.one()
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	for what, call := range everyCall(e.Backend, c, d) {
		if err := call(cancelled); !errors.Is(err, context.Canceled) {
			e.Errorf("%s with a cancelled context: got error %v, want context.Canceled", what, err)
		}
	}
	passed, cancel := context.WithDeadline(e.ctx, time.Now().Add(-second))
	defer cancel()
	if _, err := e.Broker.Publish(passed, []broker.Publication{{Envelope: envelope("late")}}); !errors.Is(err, context.DeadlineExceeded) {
		e.Errorf("Publish past its deadline: got error %v, want context.DeadlineExceeded", err)
	}

	for i := range 20 {
		q := fmt.Sprintf("batch-%d", i)
		var batch []broker.Publication
		for j := range 10 {
			batch = append(batch, broker.Publication{Envelope: envelope(fmt.Sprintf("%s-%d", q, j), onQueue(q))})
		}
		ctx, cancel := context.WithCancel(e.ctx)
		time.AfterFunc(time.Duration(i)*50*time.Microsecond, cancel)
		_, err := e.Broker.Publish(ctx, batch)
		cancel()
		infos, qerr := e.Broker.Queues(e.ctx, q)
		if qerr != nil || len(infos) != 1 {
			e.Fatalf("Queues: %+v, error %v", infos, qerr)
		}
		if n := infos[0].Ready; n != 10 && (err == nil || n != 0) {
			e.Errorf("Publish of ten, cancelled on its way (error %v): %d are stored, want all or none", err, n)
		}
		e.offer(batch...) // repeating it is safe
		e.counts(q, 10, 0, 0, 0)
	}
	everyoneOnce(e)
}

// everyoneOnce: a and b, met by cancelled calls, are both still there or settled.
func everyoneOnce(e *env) {
	c := e.open()
	left := map[string]bool{"a": true, "b": true, "p1": true, "p2": true, "late": true}
	if !e.eventually(e.o.Lease+second, func() bool {
		for _, d := range c.take(10) {
			if !left[d.Envelope.ID] {
				e.Errorf("%s was delivered twice under long leases", d.Envelope.ID)
			}
			delete(left, d.Envelope.ID)
		}
		q, err := e.Broker.Queues(e.ctx, "q")
		return err == nil && len(q) == 1 && q[0].Ready == 0 && !left["b"]
	}) {
		e.Errorf("after cancelled calls, b is lost")
	}
	if left["p1"] != left["p2"] {
		e.Errorf("of a batch whose context was cancelled one was stored and one was not")
	}
}
