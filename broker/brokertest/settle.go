package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testB14: a settlement that cannot be applied as a whole is not applied at all.
func testB14(e *env) {
	claim := broker.Claim{Key: "k"}
	for i, how := range []string{"Settle", "Exchange"} {
		parent, q := "parent-"+how, "q"+how
		p := broker.Publication{Envelope: envelope(parent, onQueue(q))}
		if e.has(broker.PowerClaims) {
			p.Claims = []broker.Claim{claim}
		}
		e.offer(p)
		e.publish(envelope("beside-"+how, onQueue(q)))
		c := e.open(q)
		ds := c.wantIDs(how, parent, "beside-"+how)
		bad := settlement(ds[0], []task.State{task.Succeeded, task.Failed}[i])
		bad.Release = []string{"k"}
		bad.Followups = []broker.Publication{
			{Envelope: envelope("good-"+how, onQueue("f"))}, {Envelope: envelope("bad", onQueue("../f"))},
		}
		batch := []broker.Settlement{bad, settlement(ds[1], task.Succeeded)}
		var errs []error
		if how == "Settle" {
			var err error
			if errs, err = e.Broker.Settle(e.ctx, batch); err != nil || len(errs) != 2 {
				e.Fatalf("Settle with a bad item: %v, error %v", errs, err)
			}
		} else {
			errs = c.exchange(batch, nil, broker.Want{}).Settled
		}
		want := task.ErrInvalid
		if !e.has(broker.PowerFollowups) {
			want = broker.ErrUnsupported
		}
		if !errors.Is(errs[0], want) || errs[1] != nil {
			e.Errorf("%s of a settlement with a bad follow-up, and a good one: got %v", how, errs)
		}
		e.counts(q, 0, 0, 1, 0)
		e.counts("f", 0, 0, 0, 0)
		e.unsettled(parent)
		if e.has(broker.PowerClaims) {
			o := e.offer(broker.Publication{Envelope: envelope("rival"), Claims: []broker.Claim{claim}})[0]
			if o.State != broker.Duplicate {
				e.Errorf("%s: the claim of a settlement that failed is %+v, want it held", how, o)
			}
		}
		if err := e.tryRenew(broker.Renewal{Receipt: ds[0].Receipt}); err != nil {
			e.Errorf("%s: renewing after a settlement that failed: %v", how, err)
		}
		bad.Followups = bad.Followups[:1]
		if !e.has(broker.PowerFollowups) {
			bad.Followups = nil
		}
		if err := e.trySettle(bad); err != nil {
			e.Errorf("%s: the same settlement with good follow-ups: %v", how, err)
		}
		for _, d := range e.open("f").take(9) {
			e.settle(d, task.Succeeded)
		}
	}
}

// unsettled checks that a task whose settlement failed has no outcome.
func (e *env) unsettled(id string) {
	e.Helper()
	if e.Results == nil {
		return
	}
	if s, ok := e.status(id); !ok || s.State.Terminal() {
		e.Errorf("status of %s after a settlement that failed: %+v, kept %v", id, s, ok)
	}
}

// testB15: no receipt but the newest lease's has any effect.
func testB15(e *env) {
	staleReceipts(e)
	endedReceipts(e)

	e.publish(envelope("ended", onQueue("ended")))
	d := e.openShort("ended").one()
	time.Sleep(e.o.Lease + early)
	if err := e.tryRenew(broker.Renewal{Receipt: d.Receipt, Extend: e.o.Lease}); err != nil {
		e.Errorf("renewing a lease that ended, of a task that nobody took: %v", err)
	}
	time.Sleep(e.o.Lease + early)
	if err := e.trySettle(settlement(d, task.Succeeded)); err != nil {
		e.Errorf("settling after the lease ended, a task that nobody took: %v", err)
	}
	e.open("ended").none("a task that was settled after its lease")
	unknown := broker.Receipt{ID: "never-published", Epoch: 1, Token: d.Receipt.Token}
	e.lost("settling an unknown id", e.trySettle(broker.Settlement{Receipt: unknown, Outcome: outcome(d, task.Succeeded)}))
}

// rejected checks that a receipt can do nothing any more, by any call.
func (e *env) rejected(what string, c *consumer, d broker.Delivery) {
	e.Helper()
	for _, s := range []task.State{task.Succeeded, task.Retried, task.Failed, task.Cancelled, task.Queued} {
		try := settlement(d, s)
		if e.has(broker.PowerFollowups) {
			try.Followups = []broker.Publication{{Envelope: envelope("of-"+d.Receipt.ID, onQueue("stale"))}}
		}
		e.lost(what+": Settle as "+string(s), e.trySettle(try))
		e.lost(what+": Exchange as "+string(s), c.exchange([]broker.Settlement{try}, nil, broker.Want{}).Settled[0])
	}
	for _, start := range []bool{false, true} {
		r := broker.Renewal{Receipt: d.Receipt, Start: start, Extend: long}
		e.lost(fmt.Sprintf("%s: Renew, start %v", what, start), e.tryRenew(r))
		e.lost(fmt.Sprintf("%s: Exchange, start %v", what, start),
			c.exchange(nil, []broker.Renewal{r}, broker.Want{}).Renewed[0])
	}
	e.counts("stale", 0, 0, 0, 0)
}

// staleReceipts: the task is leased again, to another.
func staleReceipts(e *env) {
	e.publishIDs("t")
	c := e.open()
	old := e.openShort().one()
	d, _ := c.later(e.o.Lease + second)
	e.start(d)
	e.rejected("a newer lease", c, old)
	e.seen("t", task.Running, func(s task.Status) string {
		if s.Epoch != d.Receipt.Epoch || s.Attempt != 0 {
			return fmt.Sprintf("epoch %d, attempt %d; want %d, 0", s.Epoch, s.Attempt, d.Receipt.Epoch)
		}
		return ""
	})
	e.counts("q", 0, 0, 1, 0)
	if err := e.trySettle(settlement(d, task.Succeeded)); err != nil {
		e.Errorf("the newer lease's own settlement: %v", err)
	}
	e.seen("t", task.Succeeded, nil)
}

// endedReceipts: the delivery is settled, in each way there is.
func endedReceipts(e *env) {
	for _, s := range task.States() {
		if s == task.Running {
			continue
		}
		id, q := "to-"+string(s), "to-"+string(s)
		e.publish(envelope(id, onQueue(q)))
		c := e.open(q)
		d := c.one()
		e.start(d)
		first := settlement(d, s)
		if s == task.Retried {
			first.Outcome.NotBefore = now().Add(long)
		}
		if err := e.trySettle(first); err != nil {
			e.Fatalf("Settle as %s: %v", s, err)
		}
		e.rejected("settled as "+string(s), c, d)
		e.seen(id, s, nil)
		want := map[task.State][4]int{task.Queued: {1}, task.Retried: {0, 1}, task.Failed: {0, 0, 0, 1}}[s]
		e.counts(q, want[0], want[1], want[2], want[3])
	}
}

// testB16: the receipt is enough, also as text and through another handle.
func testB16(e *env) {
	e.publishIDs("a", "b", "c")
	c := e.open()
	ds := c.all(3)
	if err := e.tryRenew(broker.Renewal{Receipt: ds[2].Receipt, Start: true}); err != nil {
		e.Fatalf("Renew: %v", err)
	}
	if err := c.Close(e.ctx); err != nil { // a and b go back; c was started
		e.Fatalf("Consumer.Close: %v", err)
	}
	c = e.open()
	ds = append(c.all(2), ds[2])
	by := e
	if e.has(broker.PowerShared) {
		by = e.again()
	}
	for i, s := range []task.State{task.Succeeded, task.Failed, task.Succeeded} {
		text := ds[i].Receipt.String()
		r, err := broker.ParseReceipt(text)
		if err != nil || r != ds[i].Receipt {
			e.Fatalf("receipt %q: read as %+v, error %v", text, r, err)
		}
		if strings.ContainsAny(text, " \n\t/?#%") {
			e.Errorf("receipt %q is not one plain word", text)
		}
		if err := by.tryRenew(broker.Renewal{Receipt: r}); err != nil {
			e.Errorf("Renew by receipt: %v", err)
		}
		if err := by.trySettle(broker.Settlement{Receipt: r, Outcome: outcome(ds[i], s)}); err != nil {
			e.Errorf("Settle by receipt: %v", err)
		}
	}
	e.counts("q", 0, 0, 0, 1)
}

// testB17: a release leaves no trace but the lease.
func testB17(e *env) {
	e.publishIDs("a")
	c := e.open()
	d := c.one()
	e.settle(d, task.Retried) // an attempt with an error, which must stay
	d, _ = c.later(second)
	e.start(d)
	e.settle(d, task.Queued)
	e.seen("a", task.Queued, func(s task.Status) string {
		if s.Attempt != 1 || len(s.Errors) != 1 || s.Starts != 1 {
			return fmt.Sprintf("attempt %d, %d errors, %d starts; want 1 each", s.Attempt, len(s.Errors), s.Starts)
		}
		return ""
	})
	d = c.one()
	if d.Attempt != 1 || d.Starts != 1 || d.Redelivered || d.Replays != 0 {
		e.Errorf("after a release: attempt %d, starts %d, redelivered %v; want 1, 1, false", d.Attempt, d.Starts, d.Redelivered)
	}

	due := now().Add(e.o.Lease)
	s := settlement(d, task.Queued)
	s.Outcome.NotBefore = due
	if err := e.trySettle(s); err != nil {
		e.Fatalf("release for later: %v", err)
	}
	e.seen("a", task.Queued, nil)
	d, at := c.later(time.Until(due))
	if at.Before(due.Add(-early)) {
		e.Errorf("released until %s, delivered at %s", due, at)
	}
	if d.Attempt != 1 || d.Starts != 0 || d.Redelivered {
		e.Errorf("after a release for later: attempt %d, starts %d, redelivered %v; want 1, 0, false",
			d.Attempt, d.Starts, d.Redelivered)
	}
	e.settle(d, task.Failed)
	if dead := e.dead(broker.DeadFilter{IDs: []string{"a"}}); len(dead) != 1 || len(dead[0].Errors) != 2 {
		e.Errorf("dead after one retry and two releases: got %+v, want two errors", dead)
	}
}

// testB18: a retry waits, counts, remembers, and starts afresh.
func testB18(e *env) {
	e.publishIDs("a")
	c := e.open()
	e.openShort().one()
	d, _ := c.later(e.o.Lease + second)
	e.start(d)
	due := now().Add(e.o.Lease)
	s := settlement(d, task.Retried)
	s.Outcome.NotBefore = due
	if err := e.trySettle(s); err != nil {
		e.Fatalf("Settle as retried: %v", err)
	}
	q, err := e.Broker.Queues(e.ctx, "q")
	if err != nil || len(q) != 1 {
		e.Fatalf("Queues: got %+v, error %v", q, err)
	}
	if time.Now().Before(due) && q[0].Delayed != 1 {
		e.Errorf("a retry that waits is counted as %+v, want one delayed", q[0])
	}
	e.seen("a", task.Retried, func(st task.Status) string {
		if st.Attempt != 1 || !st.NotBefore.Equal(due) || st.Error == nil || st.Error.Message != "boom a" {
			return fmt.Sprintf("attempt %d, notBefore %s, error %v; want 1, %s, boom a", st.Attempt, st.NotBefore, st.Error, due)
		}
		return ""
	})
	d, at := c.later(time.Until(due))
	if at.Before(due.Add(-early)) {
		e.Errorf("retried at %s, delivered at %s", due, at)
	}
	if d.Attempt != 1 || d.RetryBase != 0 || d.Starts != 0 || d.Redelivered {
		e.Errorf("a retry: attempt %d, base %d, starts %d, redelivered %v; want 1, 0, 0, false",
			d.Attempt, d.RetryBase, d.Starts, d.Redelivered)
	}
	for range 11 {
		e.settle(d, task.Retried)
		d, _ = c.later(second)
	}
	e.settle(d, task.Failed)
	dead := e.dead(broker.DeadFilter{})
	if len(dead) != 1 || len(dead[0].Errors) != task.MaxAttemptErrors {
		e.Fatalf("dead after thirteen attempts: got %+v, want %d errors", dead, task.MaxAttemptErrors)
	}
	if first, last := dead[0].Errors[0].Attempt, dead[0].Errors[task.MaxAttemptErrors-1].Attempt; first != 3 || last != 12 {
		e.Errorf("the kept errors are of attempts %d to %d, want 3 to 12", first, last)
	}
}

// testB19: terminal outcomes end a task, and a failed one becomes a dead letter.
func testB19(e *env) {
	ids := []string{"won", "lost", "off", "unkept", "brief"}
	e.publishIDs(ids...)
	c := e.open()
	ds := c.wantIDs("to be ended", ids...)
	for i, s := range []task.State{task.Succeeded, task.Failed, task.Cancelled} {
		e.settle(ds[i], s)
	}
	unkept, brief := settlement(ds[3], task.Succeeded), settlement(ds[4], task.Cancelled)
	unkept.Outcome.Keep, brief.Outcome.Keep = 0, e.o.Lease
	for _, s := range []broker.Settlement{unkept, brief} {
		if err := e.trySettle(s); err != nil {
			e.Fatalf("Settle: %v", err)
		}
	}
	e.counts("q", 0, 0, 0, 1)
	c.none("all has ended")
	e.terminal(ds[0].Receipt.Epoch)
	dead := e.dead(broker.DeadFilter{})
	if len(dead) != 1 {
		e.Fatalf("dead letters: got %+v, want one", dead)
	}
	l := dead[0]
	if !sameEnvelope(l.Envelope, ds[1].Envelope) || l.Queue != "q" || l.Reason != task.ReasonPermanent || l.Attempt != 1 {
		e.Errorf("dead letter: got %+v", l)
	}
	if l.Error == nil || l.Error.Message != "boom lost" || len(l.Errors) != 1 || l.Errors[0].Message != "boom lost" {
		e.Errorf("dead letter: error %+v, errors %+v", l.Error, l.Errors)
	}
	if age := time.Since(l.DeadAt); age < -early || age > time.Minute || l.Epoch < ds[1].Receipt.Epoch || l.ReplayCount != 0 {
		e.Errorf("dead letter: dead %s ago, epoch %d, %d replays", age, l.Epoch, l.ReplayCount)
	}
	e.bare()
}

// bare checks tasks whose statuses are to keep no args: those in whose lives nothing
// happened, and others.
func (e *env) bare() {
	e.Helper()
	ids := []string{"bare-won", "bare-off", "bare-lost", "bare-again", "bare-large"}
	for _, id := range ids {
		e.publish(envelope(id, func(v *task.Envelope) {
			v.Meta = map[string]json.RawMessage{task.MetaKeepArgs: json.RawMessage("false")}
			if id == "bare-large" {
				v.Args = json.RawMessage(`"` + strings.Repeat("x", 3000) + `"`)
			}
		}))
	}
	c := e.open()
	ds := c.wantIDs("to end without args", ids...)
	e.settle(ds[0], task.Succeeded)
	e.settle(ds[1], task.Cancelled)
	e.settle(ds[2], task.Failed)
	e.settle(ds[3], task.Queued)
	e.settle(ds[4], task.Succeeded)
	e.settle(c.wantIDs("released", "bare-again")[0], task.Succeeded)
	if dead := e.dead(broker.DeadFilter{IDs: []string{"bare-lost"}}); len(dead) != 1 || !sameEnvelope(dead[0].Envelope, ds[2].Envelope) {
		e.Errorf("the dead letter of a task whose status is to keep no args: got %+v", dead)
	}
	if e.Results == nil {
		return
	}
	for i, state := range []task.State{task.Succeeded, task.Cancelled, task.Failed, task.Succeeded, task.Succeeded} {
		e.seen(ids[i], state, func(s task.Status) string {
			if (len(s.Args) > 0) != (state == task.Failed) || s.Name != ds[i].Envelope.Name {
				return fmt.Sprintf("name %s, args %.60s", s.Name, s.Args)
			}
			return ""
		})
	}
}

// terminal checks the statuses that testB19 left.
func (e *env) terminal(epoch int64) {
	e.Helper()
	if e.Results == nil {
		return
	}
	e.seen("won", task.Succeeded, func(s task.Status) string {
		if string(s.Result) != `{"ok": true}` || s.FinishedAt.IsZero() || s.StartedAt.IsZero() ||
			s.Epoch != epoch || s.Worker != "worker-1" || s.Attempt != 1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	e.seen("lost", task.Failed, func(s task.Status) string {
		if s.Reason != task.ReasonPermanent || s.Error == nil || s.Error.Message != "boom lost" {
			return fmt.Sprintf("reason %q, error %+v", s.Reason, s.Error)
		}
		return ""
	})
	e.seen("off", task.Cancelled, func(s task.Status) string {
		if s.Reason != task.ReasonExpired || s.Attempt != 0 {
			return fmt.Sprintf("reason %q, attempt %d", s.Reason, s.Attempt)
		}
		return ""
	})
	for id, keep := range map[string]time.Duration{"unkept": 0, "brief": e.o.Lease} {
		gone := func() bool { _, kept := e.status(id); return !kept }
		if !gone() && (keep == 0 && e.atomic || !e.eventually(keep+2*second, gone)) {
			e.Errorf("the status of %s is kept beyond its time", id)
		}
	}
	if l, err := e.Results.List(e.ctx, store.Query{}); err != nil || len(l.Statuses) != 3 {
		e.Errorf("listing the statuses: got %d, error %v; want won, lost, off", len(l.Statuses), err)
	}
}

// testB20: follow-ups are stored with the settlement, once each.
func testB20(e *env) {
	if !e.has(broker.PowerFollowups) {
		e.publishIDs("a")
		s := settlement(e.open().one(), task.Succeeded)
		s.Followups = []broker.Publication{{Envelope: envelope("f")}}
		if err := e.trySettle(s); !errors.Is(err, broker.ErrUnsupported) {
			e.Errorf("a follow-up, which the broker lacks: got error %v, want ErrUnsupported", err)
		}
		return
	}
	var ids []string
	var states []task.State
	for _, s := range []task.State{task.Succeeded, task.Failed, task.Cancelled, task.Retried} {
		ids, states = append(ids, "p-"+string(s)), append(states, s)
	}
	e.publishIDs(ids...)
	e.publish(envelope("there", onQueue("f")))
	f := func(id string, edits ...func(*task.Envelope)) broker.Publication {
		return broker.Publication{Envelope: envelope(id, append(edits, onQueue("f"))...)}
	}
	c := e.open()
	want := []string{"there"}
	var batch []broker.Settlement
	for i, d := range c.all(len(ids)) {
		s := settlement(d, states[i])
		if states[i] == task.Retried {
			s.Outcome.NotBefore = now().Add(long)
		}
		s.Followups = []broker.Publication{f("there"), f("of-" + ids[i]), f("shared")}
		want = append(want, "of-"+ids[i])
		batch = append(batch, s)
	}
	want = append(want, "shared")
	for i, err := range c.exchange(batch, nil, broker.Want{}).Settled {
		if err != nil {
			e.Errorf("settling %s with follow-ups that exist in part: %v", ids[i], err)
		}
	}
	e.seen("of-"+ids[0], task.Queued, nil)
	got := e.open("f").all(len(want))
	gotIDs := idsOf(got)
	slices.Sort(gotIDs)
	slices.Sort(want)
	if !slices.Equal(gotIDs, want) {
		e.Errorf("follow-ups: got %v, want %v", gotIDs, want)
	}
	followupsOfPowers(e, got[0], f)
}

// followupsOfPowers: a follow-up is a publication like any other.
func followupsOfPowers(e *env, d broker.Delivery, f func(string, ...func(*task.Envelope)) broker.Publication) {
	s := settlement(d, task.Succeeded)
	if e.has(broker.PowerDelays) {
		s.Followups = append(s.Followups, f("later", notBefore(now().Add(long))))
	}
	if e.has(broker.PowerClaims) {
		one, two := f("claims"), f("claims-too")
		one.Claims = []broker.Claim{{Key: "c", For: long}}
		two.Claims = one.Claims
		s.Followups = append(s.Followups, one, two)
	}
	if err := e.trySettle(s); err != nil {
		e.Errorf("follow-ups that are delayed, or claim what is taken: %v", err)
	}
	for _, d := range e.open("f").take(20) {
		if e.has(broker.PowerClaims) && d.Envelope.ID == "claims" {
			continue
		}
		e.Errorf("follow-up %s was delivered", d.Envelope.ID)
	}
}
