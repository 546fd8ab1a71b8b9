package brokertest

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// putOff releases a delivery for a slot that a rate limit gave it.
func (e *env) putOff(d broker.Delivery, until time.Time) {
	e.Helper()
	s := settlement(d, task.Queued)
	s.Outcome.NotBefore, s.Outcome.Reserved = until, true
	if err := e.trySettle(s); err != nil {
		e.Fatalf("release of %s for a slot: %v", d.Receipt, err)
	}
}

// marked checks whether the status of id says that a rate limit put it off.
func (e *env) marked(what, id string, state task.State, want bool) {
	e.Helper()
	e.seen(id, state, func(s task.Status) string {
		if got := string(s.Meta[task.MetaRateLimited]) == "true"; got != want || s.Meta[task.MetaUser] == nil {
			return fmt.Sprintf("%s: meta %s, want the mark to be %v beside the user's", what, s.Meta, want)
		}
		return ""
	})
}

// comes checks a delivery's mark, starts and redelivery.
func (e *env) comes(what string, d broker.Delivery, reserved bool, starts int, redelivered bool) {
	e.Helper()
	if d.Reserved != reserved || d.Starts != starts || d.Redelivered != redelivered || d.Attempt != 0 {
		e.Errorf("%s: reserved %v, starts %d, redelivered %v, attempt %d; want %v, %d, %v, 0",
			what, d.Reserved, d.Starts, d.Redelivered, d.Attempt, reserved, starts, redelivered)
	}
}

// testB31: a slot of a rate limit is remembered for one lease.
func testB31(e *env) {
	if !e.has(broker.PowerRates) {
		return
	}
	e.publishIDs("a")
	c := e.open()
	d := c.one()
	e.comes("the first delivery", d, false, 0, false)
	due := now().Add(e.o.Lease)
	e.putOff(d, due)
	e.marked("while it waits for its slot", "a", task.Queued, true)
	d, at := c.later(time.Until(due))
	if at.Before(due.Add(-early)) {
		e.Errorf("its slot is at %s, delivered at %s", due, at)
	}
	e.comes("with its slot", d, true, 0, false)
	if !d.NotBefore.Equal(due) {
		e.Errorf("its slot is at %s, and the delivery says %s", due, d.NotBefore)
	}
	e.putOff(d, time.Time{}) // not started: it keeps its slot
	d = c.one()
	e.comes("given back in its place with its slot", d, true, 0, false)
	e.settle(d, task.Queued)
	e.marked("given back without it", "a", task.Queued, false)
	e.comes("given back without its slot", c.one(), false, 0, false)
	slotsOfOneLease(e)
	slotsKeepStarts(e)
}

// slotsOfOneLease: a slot stays over the closing of who did not start, and is
// gone with a lease that ends, and with an outcome.
func slotsOfOneLease(e *env) {
	e.publish(envelope("b", onQueue("q2")))
	c := e.open("q2")
	e.putOff(c.one(), time.Time{})
	brief := e.open("q2")
	e.comes("before its consumer closes", brief.one(), true, 0, false)
	if err := brief.Close(e.ctx); err != nil {
		e.Fatalf("Close of a consumer: %v", err)
	}
	d := c.one()
	e.comes("after its consumer closed", d, true, 0, false)
	e.putOff(d, time.Time{})
	e.openShort("q2").one()
	d, _ = c.later(e.o.Lease + second)
	e.comes("after its lease ended", d, false, 0, true)
	e.putOff(d, time.Time{})
	d = c.one()
	e.comes("with another slot", d, true, 0, true)
	e.settle(d, task.Retried)
	e.marked("after an attempt", "b", task.Retried, false)
	if d, _ = c.later(second); d.Reserved {
		e.Errorf("a retry comes with the slot of the attempt before")
	}
	e.settle(d, task.Failed)
	e.replay(broker.DeadFilter{IDs: []string{"b"}}, broker.ReplayOptions{})
	if d, _ = c.later(second); d.Reserved {
		e.Errorf("a replay comes with a slot of the run before")
	}
}

// slotsKeepStarts: who takes its worker down is counted, however often it waits
// for a slot in between.
func slotsKeepStarts(e *env) {
	e.publish(envelope("c", onQueue("q3")))
	d := e.openShort("q3").one()
	e.start(d)
	c := e.open("q3")
	d, _ = c.later(e.o.Lease + second)
	e.comes("after a started lease ended", d, false, 1, true)
	due := now().Add(e.o.Lease / 2)
	e.putOff(d, due)
	d, _ = c.later(time.Until(due))
	e.comes("with a slot after a started lease ended", d, true, 1, true)
	s := settlement(d, task.Queued)
	s.Outcome.NotBefore = now().Add(e.o.Lease / 2)
	if err := e.trySettle(s); err != nil {
		e.Fatalf("release for later: %v", err)
	}
	d, _ = c.later(e.o.Lease)
	e.comes("after a release for later that is of no limit", d, false, 0, false)
}
