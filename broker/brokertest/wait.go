package brokertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// arrival is what a following consumer reports.
type arrival struct {
	delivery broker.Delivery
	at       time.Time
	err      error
}

// follow exchanges and waits, as a worker does, until one delivery is there.
// The channel receives once.
func (c *consumer) follow(ctx context.Context) <-chan arrival {
	got := make(chan arrival, 1)
	go func() {
		for {
			b, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 1})
			if err == nil {
				err = ctx.Err() // in case the broker does not look at it
			}
			if err != nil || len(b.Deliveries) == 1 {
				a := arrival{at: time.Now(), err: err}
				if err == nil {
					a.delivery = b.Deliveries[0]
				}
				got <- a
				return
			}
			atMost := idle
			if b.Next > 0 {
				atMost = min(atMost, b.Next)
			}
			if err := c.Wait(ctx, atMost); err != nil {
				got <- arrival{at: time.Now(), err: err}
				return
			}
		}
	}()
	return got
}

// woken checks that act makes a task ready, and that a consumer which waits is
// woken for it.
func (e *env) woken(what string, c *consumer, act func()) broker.Delivery {
	e.Helper()
	got := c.follow(e.ctx)
	time.Sleep(4 * poll) // it waits by now, most likely; it must work either way
	began := time.Now()
	act()
	a := <-got
	if a.err != nil {
		e.Fatalf("%s: waiting: %v", what, a.err)
	}
	bound := second
	if e.has(broker.PowerPush) {
		bound = second / 10
	}
	if took := a.at.Sub(began); took > bound+e.o.Slack {
		e.Errorf("%s: a waiting consumer had it after %s, want %s", what, took, bound)
	}
	return a.delivery
}

// testB13: whatever makes a task ready wakes somebody who waits for it.
func testB13(e *env) {
	c := e.open()
	began, rounds := time.Now(), 0
	for ; time.Since(began) < e.o.Lease; rounds++ {
		if err := c.Wait(e.ctx, e.o.Lease); err != nil {
			e.Fatalf("Wait: %v", err)
		}
	}
	if rounds > 50 {
		e.Errorf("Wait returned %d times in %s with nothing to do", rounds, e.o.Lease)
	}

	d := e.woken("a publication", c, func() { e.publishIDs("a") })
	holder := e.open()
	e.settle(d, task.Queued)
	d = holder.one()
	d = e.woken("a release", c, func() { e.settle(d, task.Queued) })
	d = e.woken("a retry at once", c, func() { e.settle(d, task.Retried) })
	e.settle(d, task.Failed)
	d = e.woken("a replay", c, func() { e.replay(broker.DeadFilter{}, broker.ReplayOptions{}) })
	if e.has(broker.PowerFollowups) {
		d = e.woken("a follow-up", c, func() {
			s := settlement(d, task.Succeeded)
			s.Followups = []broker.Publication{{Envelope: envelope("b")}}
			if err := e.trySettle(s); err != nil {
				e.Errorf("Settle with a follow-up: %v", err)
			}
		})
	}
	if e.has(broker.PowerDelays) {
		d = e.woken("a publication for the next moment", c, func() {
			soon := envelope("soon")
			soon.NotBefore = now().Add(20 * time.Millisecond)
			e.publish(soon)
		})
	}
	e.settle(d, task.Queued)
	holder.one()
	e.woken("closing the consumer that held it", c, func() {
		if err := holder.Close(e.ctx); err != nil {
			e.Errorf("Consumer.Close: %v", err)
		}
	})

	c.none("nothing is left")
	e.publishIDs("between") // between an exchange and the Wait after it
	waited := time.Now()
	for got := false; !got && e.ctx.Err() == nil; got = len(c.take(1)) > 0 {
		if err := c.Wait(e.ctx, idle); err != nil {
			e.Fatalf("Wait: %v", err)
		}
	}
	if took := time.Since(waited); took > second+e.o.Slack {
		e.Errorf("what was published before Wait came after %s", took)
	}
	manyWaiters(e)
}

// passedOn: a consumer that is woken and leaves takes no call with it.
func passedOn(e *env) {
	for i := range 4 {
		q := fmt.Sprintf("passed-%d", i)
		leaver, stayer := e.open(q), e.open(q)
		ctx, cancel := context.WithCancel(e.ctx)
		left := make(chan error, 1)
		go func() {
			err := leaver.Wait(ctx, idle)
			left <- errors.Join(err, leaver.Close(e.ctx))
		}()
		time.Sleep(poll)
		e.woken("a consumer beside one that leaves when it is woken", stayer, func() {
			if i%2 == 1 {
				cancel() // and one that leaves as the call comes
			}
			e.publish(envelope(q, onQueue(q)))
		})
		cancel()
		if err := <-left; err != nil && !errors.Is(err, context.Canceled) {
			e.Errorf("leaving: %v", err)
		}
	}
}

// manyWaiters: the call for one queue is not lost on those who wait for
// another, nor on one who stopped waiting.
func manyWaiters(e *env) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	elsewhere := e.open("elsewhere").follow(ctx)
	quitter, stop := context.WithCancel(e.ctx)
	gone := e.open("w*").follow(quitter)
	time.Sleep(4 * poll)
	stop()
	if a := <-gone; !errors.Is(a.err, context.Canceled) {
		e.Errorf("a Wait whose context was cancelled: got error %v", a.err)
	}
	e.woken("beside other waiters", e.open("w*"), func() { e.publish(envelope("w", onQueue("w1"))) })
	if e.has(broker.PowerShared) {
		other := e.again()
		e.woken("a publication through another handle", e.open("s"), func() { other.publish(envelope("s", onQueue("s"))) })
	}
	select {
	case a := <-elsewhere:
		e.Errorf("a consumer of an empty queue got %+v", a)
	default:
		cancel()
		<-elsewhere
	}

	passedOn(e)

	// Three wait, three batches: each task finds somebody.
	var waiting []<-chan arrival
	for range 3 {
		waiting = append(waiting, e.open("three").follow(e.ctx))
	}
	time.Sleep(4 * poll)
	for _, id := range []string{"3a", "3b", "3c"} {
		e.publish(envelope(id, onQueue("three")))
	}
	seen := make(map[string]bool)
	for _, w := range waiting {
		a := <-w
		if a.err != nil {
			e.Fatalf("one of three waiters: %v", a.err)
		}
		seen[a.delivery.Envelope.ID] = true
	}
	if len(seen) != 3 {
		e.Errorf("three waiters got %v, want three tasks", seen)
	}
}
