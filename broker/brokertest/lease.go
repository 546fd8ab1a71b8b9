package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testB21: renewals extend from now; a start is counted and shows.
func testB21(e *env) {
	for i, how := range []string{"Renew", "Exchange"} {
		renewed(e, how, i == 1)
	}
	e.publish(envelope("own", onQueue("own"), visibility(e.o.Lease)))
	d := e.open("own").one() // the envelope's own length wins over the consumer's
	if d.Lease != e.o.Lease {
		e.Errorf("lease is %s, the envelope asks for %s", d.Lease, e.o.Lease)
	}
	time.Sleep(e.o.Lease / 2)
	again := time.Now()
	if err := e.tryRenew(broker.Renewal{Receipt: d.Receipt}); err != nil {
		e.Errorf("Renew: %v", err)
	}
	d, at := e.open("own").later(e.o.Lease + second)
	if held := at.Sub(again); held < e.o.Lease-early {
		e.Errorf("renewed for its own %s, it passed to another after %s", e.o.Lease, held)
	}
	if d.Starts != 0 || !d.Redelivered {
		e.Errorf("after a lease without a start: starts %d, redelivered %v; want 0, true", d.Starts, d.Redelivered)
	}
}

// renewed starts a task of a short lease, extends it, and shortens it again.
func renewed(e *env, how string, byExchange bool) {
	id := "by-" + how
	e.publish(envelope(id, onQueue(id)))
	c, other := e.openShort(id), e.open(id)
	d := c.one()
	renew := func(r broker.Renewal) {
		e.Helper()
		r.Receipt, r.Worker = d.Receipt, "worker-1"
		err := error(nil)
		if byExchange {
			err = c.exchange(nil, []broker.Renewal{r}, broker.Want{}).Renewed[0]
		} else {
			err = e.tryRenew(r)
		}
		if err != nil {
			e.Errorf("%s: renewal %+v: %v", how, r, err)
		}
	}
	e.seen(id, task.Queued, nil)
	renew(broker.Renewal{Start: true, Extend: long, Progress: &task.Progress{Percent: 10, At: now()}})
	e.seen(id, task.Running, func(s task.Status) string {
		if s.Worker != "worker-1" || s.StartedAt.IsZero() || s.Starts != 1 || s.Epoch != d.Receipt.Epoch {
			return fmt.Sprintf("worker %q, started %s, %d starts, epoch %d", s.Worker, s.StartedAt, s.Starts, s.Epoch)
		}
		return ""
	})
	renew(broker.Renewal{Start: true, Extend: long}) // repeated, as after a lost answer: counted once
	renew(broker.Renewal{Extend: long, Progress: &task.Progress{Percent: 50, Data: json.RawMessage(`{"row":7}`), At: now()}})
	e.seen(id, task.Running, func(s task.Status) string {
		if s.Progress == nil || s.Progress.Percent != 50 || string(s.Progress.Data) != `{"row":7}` || s.Starts != 1 {
			return fmt.Sprintf("progress %+v, %d starts; want 50 and row 7, 1", s.Progress, s.Starts)
		}
		return ""
	})
	other.quiet(e.o.Lease+e.o.Lease/2, "a lease that was extended")
	again := time.Now()
	renew(broker.Renewal{Extend: e.o.Lease})
	d, at := other.later(e.o.Lease + second)
	if held := at.Sub(again); held < e.o.Lease-early {
		e.Errorf("%s: renewed for %s, it passed to another after %s", how, e.o.Lease, held)
	}
	if d.Starts != 1 || !d.Redelivered || d.Attempt != 0 {
		e.Errorf("%s: after one start: starts %d, redelivered %v, attempt %d; want 1, true, 0",
			how, d.Starts, d.Redelivered, d.Attempt)
	}
	e.start(d)
	e.seen(id, task.Running, func(s task.Status) string {
		if s.Starts != 2 || s.Epoch != d.Receipt.Epoch || s.Progress != nil {
			return fmt.Sprintf("%d starts, epoch %d, progress %+v; want 2, %d, none", s.Starts, s.Epoch, s.Progress, d.Receipt.Epoch)
		}
		return ""
	})
}

// testB22: a start finds what an earlier worker stored, and completes it. Where
// broker and statuses are one store there is no such moment; a start after the
// outcome is then like any other late call.
func testB22(e *env) {
	e.publishIDs("a")
	c := e.open()
	if e.Results == nil || e.atomic {
		d := c.one()
		e.settle(d, task.Succeeded)
		e.lost("a start after the outcome", e.tryRenew(broker.Renewal{Receipt: d.Receipt, Start: true}))
		return
	}
	e.openShort().one()
	d, _ := c.later(e.o.Lease + second)
	r := store.Record{
		Key:       store.Key{ID: "a", Epoch: d.Receipt.Epoch - 1}, // the worker before died here
		Outcome:   outcome(d, task.Succeeded),
		Followups: []broker.Publication{{Envelope: envelope("f", onQueue("f"))}},
		Envelope:  d.Envelope,
	}
	errs, err := e.Results.Record(e.ctx, []store.Record{r})
	if err != nil || errs[0] != nil {
		e.Fatalf("Record: %v, %v", errs, err)
	}
	if err := e.tryRenew(broker.Renewal{Receipt: d.Receipt, Start: true}); !errors.Is(err, broker.ErrSettled) {
		e.Errorf("a start of a task whose outcome is stored: got error %v, want ErrSettled", err)
	}
	e.counts("q", 0, 0, 0, 0)
	e.seen("a", task.Succeeded, nil)
	e.open("f").wantIDs("the follow-up of a stored outcome", "f")
	e.lost("settling what a start completed", e.trySettle(settlement(d, task.Failed)))
}

// testB23: closing a consumer gives back what it has not started.
func testB23(e *env) {
	e.publishIDs("a", "b", "c", "d")
	c, other := e.open(), e.open()
	ds := c.wantIDs("all", "a", "b", "c", "d")
	e.start(ds[1])
	e.settle(ds[3], task.Succeeded)
	if err := c.Close(e.ctx); err != nil {
		e.Fatalf("Consumer.Close: %v", err)
	}
	e.publishIDs("z")
	got := other.wantIDs("after its consumer was closed", "a", "c", "z")
	for _, d := range got {
		if d.Attempt != 0 || d.Starts != 0 || d.Redelivered {
			e.Errorf("%s was given back: attempt %d, starts %d, redelivered %v; want 0, 0, false",
				d.Envelope.ID, d.Attempt, d.Starts, d.Redelivered)
		}
	}
	e.lost("settling what was given back", e.trySettle(settlement(ds[0], task.Succeeded)))
	if err := e.tryRenew(broker.Renewal{Receipt: ds[1].Receipt, Extend: e.o.Lease}); err != nil {
		e.Errorf("renewing what was started, after its consumer was closed: %v", err)
	}
	d, _ := other.later(e.o.Lease + second)
	if d.Envelope.ID != "b" || d.Starts != 1 || !d.Redelivered {
		e.Errorf("after the started one's lease: got %s, starts %d, redelivered %v; want b, 1, true",
			d.Envelope.ID, d.Starts, d.Redelivered)
	}
	_, err := c.Exchange(e.ctx, nil, nil, broker.Want{Count: 1})
	if !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Exchange of a closed consumer: got error %v, want ErrClosed", err)
	}
	if err := c.Wait(e.ctx, time.Millisecond); !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Wait of a closed consumer: got error %v, want ErrClosed", err)
	}
}

// testB24: an entry that is no envelope is delivered, and harms nobody.
func testB24(e *env) {
	if e.o.InjectMalformed == nil {
		bad := envelope("bad", func(v *task.Envelope) { v.Args = json.RawMessage(`{"cut`) })
		if o := e.offer(broker.Publication{Envelope: bad})[0]; o.State != broker.Refused {
			e.Errorf("publishing what is no envelope: got %+v, want Refused", o)
		}
		return
	}
	raw := []byte("\x00not an envelope\xff")
	e.publishIDs("before")
	e.o.InjectMalformed(e.TB, e.Backend, "q", "bad", raw)
	e.publishIDs("after")
	c := e.open()
	var bad broker.Delivery
	got := make([]string, 0, 3)
	e.eventually(second, func() bool {
		for _, d := range c.take(5) {
			got = append(got, d.Envelope.ID)
			if d.Envelope.ID == "bad" {
				bad = d
			} else if d.Malformed != nil {
				e.Errorf("%s is delivered as malformed: %v", d.Envelope.ID, d.Malformed)
			}
		}
		return len(got) >= 3
	})
	slices.Sort(got)
	if !slices.Equal(got, []string{"after", "bad", "before"}) {
		e.Fatalf("a malformed entry between two tasks: got %v", got)
	}
	if bad.Malformed == nil || bad.Queue != "q" {
		e.Errorf("the malformed entry: got %+v", bad)
	}
	if err := e.tryRenew(broker.Renewal{Receipt: bad.Receipt}); err != nil {
		e.Errorf("renewing a malformed entry: %v", err)
	}
	e.settle(bad, task.Queued)
	bad = c.one()
	s := settlement(bad, task.Failed)
	s.Outcome.Reason = task.ReasonMalformed
	if err := e.trySettle(s); err != nil {
		e.Errorf("dead-lettering a malformed entry: %v", err)
	}
	dead := e.dead(broker.DeadFilter{Reason: task.ReasonMalformed})
	if len(dead) != 1 || dead[0].Envelope == nil || dead[0].Envelope.ID != "bad" || !slices.Equal(dead[0].Raw, raw) {
		e.Errorf("the dead letter of a malformed entry: got %+v", dead)
	}
}
