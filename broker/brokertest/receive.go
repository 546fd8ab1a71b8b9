package brokertest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testB6: count and bytes bound an exchange; an empty queue ends it at once.
func testB6(e *env) {
	c := e.open()
	began := time.Now()
	c.none("an empty queue")
	if took := time.Since(began); took > e.o.Slack {
		e.Errorf("an exchange on an empty queue took %s", took)
	}
	var ids []string
	for i := range 6 {
		id := fmt.Sprintf("t%d", i)
		ids = append(ids, id)
		e.publish(envelope(id, func(v *task.Envelope) {
			v.Args = json.RawMessage(`"` + strings.Repeat("x", 10_000) + `"`)
		}))
	}
	var got []string
	for _, want := range []struct{ count, bytes, deliveries int }{
		{0, 0, 0}, {2, 0, 2}, {5, 1, 1}, {5, 25_000, 2}, {5, 0, 1},
	} {
		ds := c.exchange(nil, nil, broker.Want{Count: want.count, Bytes: want.bytes}).Deliveries
		if len(ds) != want.deliveries {
			e.Errorf("count %d and %d bytes of tasks of 10 kB: got %d deliveries, want %d",
				want.count, want.bytes, len(ds), want.deliveries)
		}
		got = append(got, idsOf(ds)...)
	}
	if !e.inOrder(got, ids) {
		e.Errorf("in all: got %v, want %v", got, ids)
	}
}

// testB7: a lease is exclusive while it lasts, and its epoch the highest yet.
func testB7(e *env) {
	var ids []string
	for i := range 10 {
		ids = append(ids, fmt.Sprintf("t%d", i))
	}
	e.publishIDs(ids...)
	one, two := e.open(), e.open()
	got := append(idsOf(one.take(6)), idsOf(two.take(6))...)
	if !e.inOrder(got, ids) {
		e.Errorf("two consumers got %v, want each of %v once", got, ids)
	}
	one.none("all is leased")
	if e.has(broker.PowerShared) {
		e.again().open().none("all is leased through another handle")
	}

	e.publish(envelope("x", onQueue("x")))
	short, other := e.openShort("x"), e.open("x")
	began := time.Now()
	short.one()
	_, at := other.later(e.o.Lease + second)
	if held := at.Sub(began); held < e.o.Lease-early {
		e.Errorf("a lease of %s passed to another consumer after %s", e.o.Lease, held)
	}
	epochsRise(e)
}

func epochsRise(e *env) {
	e.publish(envelope("y", onQueue("y")))
	last := int64(-1)
	rise := func(what string, epoch int64) {
		e.Helper()
		if epoch <= last {
			e.Errorf("the epoch %s is %d, and was %d before", what, epoch, last)
		}
		last = epoch
	}
	short, c := e.openShort("y"), e.open("y")
	rise("of the first lease", short.one().Receipt.Epoch)
	d, _ := c.later(e.o.Lease + second)
	rise("after a lease ended", d.Receipt.Epoch)
	e.settle(d, task.Queued)
	d = c.one()
	rise("after a release", d.Receipt.Epoch)
	e.settle(d, task.Retried)
	d, _ = c.later(second)
	rise("after a retry", d.Receipt.Epoch)
	s := settlement(d, task.Queued)
	s.Outcome.NotBefore = now().Add(20 * time.Millisecond)
	if err := e.trySettle(s); err != nil {
		e.Fatalf("release for later: %v", err)
	}
	d, _ = c.later(second)
	rise("after a release for later", d.Receipt.Epoch)
	e.settle(d, task.Failed)
	r := e.replay(broker.DeadFilter{}, broker.ReplayOptions{})
	if len(r.Entries) != 1 {
		e.Fatalf("replay of one: got %+v", r)
	}
	rise("of the replay", r.Entries[0].Epoch)
	d = c.one()
	rise("after a replay", d.Receipt.Epoch)
	if err := c.Close(e.ctx); err != nil {
		e.Fatalf("Consumer.Close: %v", err)
	}
	rise("after its consumer was closed", e.open("y").one().Receipt.Epoch)
}

// testB8: a lease that ends gives the task to whoever looks, in its old place.
func testB8(e *env) {
	e.publishIDs("a", "b", "c")
	began := time.Now()
	e.openShort().wantIDs("first", "a", "b", "c")
	e.publishIDs("d")
	other, limit := e.open(), e.o.Lease+second+e.o.Slack
	first := make(map[string]broker.Delivery)
	for {
		ds := other.take(10)
		for _, d := range ds {
			if _, seen := first[d.Envelope.ID]; !seen {
				first[d.Envelope.ID] = d
			}
		}
		took := time.Since(began)
		if len(first) > 1 && took < e.o.Lease-early {
			e.Fatalf("leases of %s ended after %s", e.o.Lease, took)
		}
		if len(ds) == 4 {
			if got := idsOf(ds); !e.inOrder(got, []string{"a", "b", "c", "d"}) {
				e.Errorf("after the leases of a, b, c ended: got %v", got)
			}
			break
		}
		if took > limit {
			e.Fatalf("leases of %s: after %s only %v are delivered", e.o.Lease, took, idsOf(ds))
		}
		for _, d := range ds {
			e.settle(d, task.Queued)
		}
		time.Sleep(poll)
	}
	for id, d := range first {
		if d.Redelivered != (id != "d") || d.Attempt != 0 || d.Starts != 0 {
			e.Errorf("%s: redelivered %v, attempt %d, starts %d; want %v, 0, 0",
				id, d.Redelivered, d.Attempt, d.Starts, id != "d")
		}
	}
}

// testB9: a delayed task comes at its moment.
func testB9(e *env) {
	due := now().Add(e.o.Lease)
	late := broker.Publication{Envelope: envelope("late", notBefore(due))}
	if !e.has(broker.PowerDelays) {
		e.refused("a delay", late)
		return
	}
	e.publish(late.Envelope, envelope("much-later", notBefore(now().Add(long))),
		envelope("past", notBefore(now().Add(-time.Hour))), envelope("soon"))
	e.seen("late", task.Queued, func(s task.Status) string {
		if !s.NotBefore.Equal(due) && time.Now().Before(due.Add(-early)) {
			return fmt.Sprintf("notBefore is %s, want %s", s.NotBefore, due)
		}
		return ""
	})
	c := e.open()
	ds := c.take(10)
	got := idsOf(ds)
	if time.Now().Before(due) && len(got) != 2 || !slices.Contains(got, "past") || !slices.Contains(got, "soon") {
		e.Errorf("of two due and two delayed tasks: got %v", got)
	}
	if slices.Contains(got, "late") { // the machine was slow: it may have been due
		return
	}
	d, at := c.later(time.Until(due))
	if at.Before(due.Add(-early)) {
		e.Errorf("due at %s, delivered at %s", due, at)
	}
	if d.Envelope.ID != "late" || !d.NotBefore.Equal(due) {
		e.Errorf("got %s with NotBefore %s, want late with %s", d.Envelope.ID, d.NotBefore, due)
	}
}

// testB10: strict priorities, then the order of publishing, also after a
// release.
func testB10(e *env) {
	for i, p := range []int{5, 0, 9, 5, 9, 1} {
		e.publish(envelope(fmt.Sprintf("p%d-%d", p, i), onQueue("p"), priority(p)))
	}
	if e.has(broker.PowerPriorities) {
		want := []string{"p9-2", "p9-4", "p5-0", "p5-3", "p1-5", "p0-1"}
		c := e.open("p")
		ds := c.wantIDs("by priority", want...)
		for _, i := range []int{4, 0, 2} { // gives back p1, the first p9, the first p5
			e.settle(ds[i], task.Queued)
		}
		c.wantIDs("by priority, after a release", want[0], want[2], want[4])
	}
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprintf("f%d", i))
	}
	e.publishIDs(ids[0])
	e.publishIDs(ids[1:5]...)
	e.publishIDs(ids[5:]...)
	c := e.open()
	ds := c.all(4)
	if got := idsOf(ds); !e.begins(got, ids) {
		e.Fatalf("first published first: got %v of %v", got, ids)
	}
	for _, i := range []int{2, 0, 3, 1} {
		e.settle(ds[i], task.Queued)
	}
	c.wantIDs("all four given back, out of order", ids...)
}

// testB11: queues in the order wanted this time, and patterns.
func testB11(e *env) {
	queues := []string{"a", "tenant-*", "b"}
	c := e.open(queues...)
	queues[0] = "x" // the caller's slice is the caller's
	for _, q := range []string{"b", "tenant-1", "a", "x"} {
		e.publish(envelope(q+"1", onQueue(q), priority(5)), envelope(q+"2", onQueue(q), priority(9)))
	}
	byPriority := func(q string) []string {
		if e.has(broker.PowerPriorities) {
			return []string{q + "2", q + "1"}
		}
		return []string{q + "1", q + "2"}
	}
	want := func(queues ...string) (ids []string) {
		for _, q := range queues {
			ids = append(ids, byPriority(q)...)
		}
		return ids
	}
	ds := c.wantIDs("as subscribed", want("a", "tenant-1", "b")...)
	for _, d := range ds {
		e.settle(d, task.Queued)
	}
	got := c.exchange(nil, nil, broker.Want{Count: 9, Queues: []string{"b", "a", "tenant-*"}}).Deliveries
	if ids := idsOf(got); !e.inOrder(ids, want("b", "a", "tenant-1")) {
		e.Errorf("in an order of its own: got %v, want %v", ids, want("b", "a", "tenant-1"))
	}
	for _, d := range got {
		e.settle(d, task.Queued)
	}
	if ids := idsOf(c.take(3)); len(ids) != 3 || !e.begins(ids, want("a", "tenant-1", "b")) {
		e.Errorf("three, as subscribed: got %v of %v", ids, want("a", "tenant-1", "b"))
	}
	e.publish(envelope("new", onQueue("tenant-2")))
	if ids := idsOf(c.take(9)); !slices.Contains(ids, "new") {
		e.Errorf("a queue that appeared later, of a pattern: got %v, want new among them", ids)
	}
	e.publish(envelope("there", onQueue("there-1"))) // before who subscribes to it by a pattern
	e.open("there-*").wantIDs("a queue that was there before its pattern", "there")
	for _, d := range e.open("*").take(9) {
		if d.Queue != "x" {
			e.Errorf("the pattern * received %s of %s, which is leased", d.Envelope.ID, d.Queue)
		}
	}
}

// testB12: Next leads to what comes next without hurry, More says there is more.
func testB12(e *env) {
	c := e.open()
	e.publishIDs("a", "b", "c")
	if b := c.exchange(nil, nil, broker.Want{Count: 2}); !b.More {
		e.Errorf("two of three ready tasks were taken, and More is false")
	}
	if b := c.exchange(nil, nil, broker.Want{Count: 5}); b.More {
		e.Errorf("the last ready task was taken, and More is true")
	}
	next := func(what string, most time.Duration) {
		e.Helper()
		b := c.exchange(nil, nil, broker.Want{Count: 5})
		if len(b.Deliveries) > 0 || b.More {
			e.Fatalf("%s: got %v, More %v", what, idsOf(b.Deliveries), b.More)
		}
		if b.Next <= 0 || b.Next > most {
			e.Errorf("%s: Next is %s, want at most %s", what, b.Next, most)
		}
	}
	next("three leases of "+long.String(), long)
	until := e.o.Lease
	if e.has(broker.PowerDelays) {
		e.publish(envelope("delayed", notBefore(now().Add(long/2))))
		next("one delayed for "+(long/2).String(), long/2)
	}
	e.publish(envelope("short", visibility(until)))
	e.open().one()
	e.publish(envelope("elsewhere", onQueue("elsewhere"), visibility(time.Millisecond)))
	e.open("elsewhere").one()
	rounds := 0
	for began := time.Now(); ; rounds++ {
		b := c.exchange(nil, nil, broker.Want{Count: 1})
		if len(b.Deliveries) == 1 {
			break
		}
		if b.Next > until+early {
			e.Fatalf("one lease of %s: Next is %s", until, b.Next)
		}
		if time.Since(began) > until+second+e.o.Slack {
			e.Fatalf("a lease of %s brought nothing after %s", until, time.Since(began))
		}
		if b.Next <= 0 {
			b.Next = second
		}
		if err := c.Wait(e.ctx, b.Next); err != nil {
			e.Fatalf("Wait: %v", err)
		}
	}
	if rounds > 50 {
		e.Errorf("following Next took %d exchanges over one lease of %s", rounds, until)
	}
}
