package brokertest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testP0: what a broker declares it implements, and what it implements it
// declares.
func testP0(e *env) {
	if e.caps.Backend == "" || e.caps.Backend != "custom" && e.caps.Summary == "" {
		e.Errorf("the broker says neither what it is nor for what: %+v", e.caps)
	}
	_, revoker := broker.As[broker.Revoker](e.Broker)
	if revoker != e.has(broker.PowerRevoke) {
		e.Errorf("implements Revoker: %v, declares it: %v", revoker, e.has(broker.PowerRevoke))
	}
	_, owner := broker.As[broker.Owner](e.Broker)
	if owner != e.has(broker.PowerOwner) {
		e.Errorf("implements Owner: %v, declares it: %v", owner, e.has(broker.PowerOwner))
	}
	_, importer := broker.As[broker.DeadImporter](e.Broker)
	if importer != e.has(broker.PowerImport) {
		e.Errorf("implements DeadImporter: %v, declares it: %v", importer, e.has(broker.PowerImport))
	}
	_, pauser := broker.As[broker.Pauser](e.Broker)
	if pauser != e.has(broker.PowerPause) {
		e.Errorf("implements Pauser: %v, declares it: %v", pauser, e.has(broker.PowerPause))
	}
	_, limiter := broker.As[store.Limiter](e.Broker)
	if limiter != e.has(broker.PowerRates) {
		e.Errorf("implements store.Limiter: %v, declares rates: %v", limiter, e.has(broker.PowerRates))
	}
	a, atomic := broker.As[broker.Atomic](e.Broker)
	if atomic != e.has(broker.PowerStatuses) {
		e.Errorf("implements Atomic: %v, declares statuses: %v", atomic, e.has(broker.PowerStatuses))
	}
	if atomic && (a.AtomicWith(nil) || a.AtomicWith(struct{}{})) {
		e.Errorf("AtomicWith is true of what is no result store")
	}
	_, wraps := e.Broker.(broker.Unwrapper)
	if e.Results != nil && atomic && !wraps && !e.atomic {
		e.Errorf("the broker declares statuses, and AtomicWith is false of the store they are in")
	}
	for _, p := range []broker.Power{broker.PowerDurable, broker.PowerShared} {
		if e.has(p) && e.o.Reopen == nil {
			e.Errorf("the broker declares %q, and Options.Reopen is missing", p)
		}
	}
}

// revoke asks for one revocation.
func (e *env) revoke(r broker.Revoker, id string, terminate bool) broker.RevokeAnswer {
	e.Helper()
	out, err := r.Revoke(e.ctx, []broker.Revocation{{ID: id, Terminate: terminate, Reason: "asked-by-test", Keep: long}})
	if err != nil || len(out) != 1 {
		e.Fatalf("Revoke of %s: %d answers, error %v", id, len(out), err)
	}
	return out[0]
}

func revokeWithoutReason(e *env, r broker.Revoker) {
	e.Helper()
	e.publish(envelope("unsaid", onQueue("unsaid")))
	if _, err := r.Revoke(e.ctx, []broker.Revocation{{ID: "unsaid", Keep: long}}); err != nil {
		e.Fatalf("Revoke: %v", err)
	}
	e.seen("unsaid", task.Cancelled, func(s task.Status) string {
		if s.Reason != task.ReasonRevoked {
			return fmt.Sprintf("a revocation without a reason has %q, want %q", s.Reason, task.ReasonRevoked)
		}
		return ""
	})
}

// toldTo checks that whoever has the receipts of testP1's deliveries can ask
// which of them are to stop.
func (e *env) toldTo(ds []broker.Delivery) {
	e.Helper()
	teller, ok := broker.As[broker.RevocationTeller](e.Broker)
	if !ok {
		return
	}
	held, unstarted := ds[3].Receipt, ds[4].Receipt
	older := held
	older.Epoch--
	got, err := teller.RevokedOf(e.ctx, ds[0].Receipt, unstarted, older, ds[5].Receipt, held)
	want := []broker.Revoked{
		{Receipt: unstarted, Reason: "asked-by-test"}, {Receipt: held, Terminate: true, Reason: "asked-by-test"},
	}
	if err != nil || !slices.Equal(got, want) {
		e.Errorf("RevokedOf: got %+v, error %v; want %+v", got, err, want)
	}
}

// testP1: revocations come true.
func testP1(e *env) {
	r, ok := broker.As[broker.Revoker](e.Broker)
	if !ok {
		return // P0 holds that it is not declared either
	}
	ids := []string{"done", "dead", "retried", "held", "unstarted", "spared"}
	e.publishIDs(ids...)
	c := e.open()
	ds := c.wantIDs("to be held", ids...)
	e.publishIDs("ready")
	e.settle(ds[0], task.Succeeded)
	e.settle(ds[1], task.Failed)
	retry := settlement(ds[2], task.Retried)
	retry.Outcome.NotBefore = now().Add(e.o.Lease)
	if err := e.trySettle(retry); err != nil {
		e.Fatalf("Settle as retried: %v", err)
	}
	e.start(ds[3])
	waiting := []string{"retried", "ready"}
	if e.has(broker.PowerDelays) {
		e.publish(envelope("delayed", notBefore(now().Add(e.o.Lease))))
		waiting = append(waiting, "delayed")
	}
	for _, id := range waiting {
		if a := e.revoke(r, id, false); a.State != broker.RevokeCancelled {
			e.Errorf("revoking %s, which nobody holds: got %+v, want cancelled", id, a)
		}
		e.seen(id, task.Cancelled, func(s task.Status) string {
			if s.Reason != "asked-by-test" || s.FinishedAt.IsZero() {
				return fmt.Sprintf("reason %q, finished %s", s.Reason, s.FinishedAt)
			}
			return ""
		})
	}
	if e.keeps() {
		if a := e.revoke(r, "done", false); a.State != broker.RevokeTooLate {
			e.Errorf("revoking a succeeded task: got %+v, want too late", a)
		}
	}
	if a := e.revoke(r, "dead", true); a.State != broker.RevokeTooLate {
		e.Errorf("revoking a dead task: got %+v, want too late", a)
	}
	if a := e.revoke(r, "nobody", false); a.State != broker.RevokeUnknown {
		e.Errorf("revoking an unknown id: got %+v, want unknown", a)
	}
	revokeWithoutReason(e, r)
	revokeHeld(e, r, c, ds)
	asked := []broker.PendingRevocation{
		{ID: "held", Worker: "worker-1", Terminate: true, Reason: "asked-by-test"},
		{ID: "unstarted", Worker: "worker-1", Reason: "asked-by-test"},
	}
	e.pending("held and revoked", asked...)
	e.toldTo(ds)
	if e.has(broker.PowerShared) {
		e.again().pending("seen by another process", asked...)
	}
	c.quiet(e.o.Lease+e.o.Lease/2, "all that waited was revoked")
	e.counts("q", 0, 0, 3, 1)
	revokeExpiring(e, r)

	e.settle(ds[4], task.Cancelled)
	e.settle(ds[3], task.Failed) // it was asked to stop, and failed first: that is over
	e.pending("all has ended")
	e.replay(broker.DeadFilter{IDs: []string{"held"}}, broker.ReplayOptions{})
	b := c.exchange(nil, nil, broker.Want{Count: 5})
	if got := idsOf(b.Deliveries); !slices.Equal(got, []string{"held"}) || len(b.Revoked) > 0 {
		e.Errorf("a replay after a revocation: got %v, told %+v; want held, and nothing of the old revocation", got, b.Revoked)
	}
}

// revokeHeld: what is leased is asked of its worker.
func revokeHeld(e *env, r broker.Revoker, c *consumer, ds []broker.Delivery) {
	if b := c.exchange(nil, nil, broker.Want{}); len(b.Revoked) != 0 {
		e.Errorf("nothing that is held was revoked, and its consumer is told %+v", b.Revoked)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- c.Wait(e.ctx, idle) }()
	time.Sleep(4 * poll)
	began := time.Now()
	for i, d := range ds[3:5] {
		if a := e.revoke(r, d.Envelope.ID, i == 0); a.State != broker.RevokeAsked || a.Worker != "worker-1" {
			e.Errorf("revoking %s, which is held: got %+v, want asked worker-1", d.Envelope.ID, a)
		}
	}
	if err := <-waiting; err != nil || time.Since(began) > second+e.o.Slack {
		e.Errorf("the consumer that holds it was not woken: %s, error %v", time.Since(began), err)
	}
	told := make(map[string]broker.Revoked)
	e.eventually(second, func() bool {
		for _, v := range c.exchange(nil, nil, broker.Want{}).Revoked {
			told[v.Receipt.ID] = v
		}
		return len(told) == 2 || e.atomic
	})
	for i, d := range ds[3:5] {
		if v := told[d.Receipt.ID]; v.Receipt != d.Receipt || v.Terminate != (i == 0) || v.Reason != "asked-by-test" {
			e.Errorf("its consumer is told %+v of %s, terminate %v", v, d.Receipt, i == 0)
		}
	}
	if len(told) != 2 {
		e.Errorf("the consumer is told of %d, want 2: %+v", len(told), told)
	}
	e.seen(ds[3].Envelope.ID, task.Running, nil) // until its worker says so
}

// revokeExpiring: a revoked task whose worker dies does not come back as if
// nobody had asked.
func revokeExpiring(e *env, r broker.Revoker) {
	e.publish(envelope("orphan", onQueue("o"), visibility(e.o.Lease)), envelope("given-back", onQueue("o")))
	ds := e.open("o").wantIDs("to be revoked", "orphan", "given-back")
	for _, d := range ds {
		e.revoke(r, d.Envelope.ID, false)
	}
	e.settle(ds[1], task.Queued)
	c := e.open("o")
	over := time.Now().Add(e.o.Lease + e.o.Lease/2)
	for time.Now().Before(over) {
		b := c.exchange(nil, nil, broker.Want{Count: 5})
		told := make(map[broker.Receipt]bool)
		for _, v := range b.Revoked {
			told[v.Receipt] = true
		}
		for _, d := range b.Deliveries {
			if !told[d.Receipt] {
				e.Errorf("%s was revoked under an earlier lease, and is delivered without a word of it", d.Envelope.ID)
			}
		}
		time.Sleep(poll)
	}
}

// testP3: a broker knows what it still has to bring to an end.
func testP3(e *env) {
	o, ok := broker.As[broker.Owner](e.Broker)
	if !ok {
		return // P0 holds that it is not declared either
	}
	holds := func(what string, want map[string]bool) {
		e.Helper()
		ids := slices.Sorted(maps.Keys(want))
		got, err := o.Holds(e.ctx, ids...)
		if err != nil || len(got) != len(ids) {
			e.Fatalf("%s: Holds of %v: got %v, error %v", what, ids, got, err)
		}
		for i, id := range ids {
			if got[i] != want[id] {
				e.Errorf("%s: holds %s: %v, want %v", what, id, got[i], want[id])
			}
		}
	}
	ids := []string{"done", "dead", "retried", "leased", "off"}
	e.publishIDs(ids...)
	e.publish(envelope("purged", onQueue("p")))
	holds("published", map[string]bool{"done": true, "off": true, "purged": true, "never": false})
	c := e.open()
	ds := c.wantIDs("to be held", ids...)
	e.publishIDs("ready")
	e.start(ds[3])
	holds("leased", map[string]bool{"done": true, "leased": true, "dead": true, "ready": true})
	for i, s := range []task.State{task.Succeeded, task.Failed, task.Retried} {
		end := settlement(ds[i], s)
		if s == task.Retried {
			end.Outcome.NotBefore = now().Add(long)
		}
		if err := e.trySettle(end); err != nil {
			e.Fatalf("Settle as %s: %v", s, err)
		}
	}
	e.settle(ds[4], task.Cancelled)
	if _, err := e.Broker.Purge(e.ctx, broker.Purge{Queue: "p", Keep: long}); err != nil {
		e.Fatalf("Purge: %v", err)
	}
	holds("settled", map[string]bool{
		"done": false, "dead": false, "retried": true, "leased": true, "off": false, "ready": true, "purged": false,
	})
	e.replay(broker.DeadFilter{}, broker.ReplayOptions{NotBefore: now().Add(long)})
	if r, ok := broker.As[broker.Revoker](e.Broker); ok {
		e.revoke(r, "ready", false)
		holds("revoked", map[string]bool{"ready": false, "dead": true})
	}
	holds("replayed", map[string]bool{"dead": true, "done": false})
	if got, err := o.Holds(e.ctx); err != nil || len(got) != 0 {
		e.Errorf("Holds of nothing: got %v, error %v", got, err)
	}
}

// watched: whoever subscribed to a task at its store is told of each move that
// the broker makes.
func watched(e *env) {
	w, ok := e.Results.(store.Watcher)
	if !ok {
		return
	}
	var d broker.Delivery
	c := e.open("w")
	for _, step := range []struct {
		what string
		id   string
		act  func()
	}{
		{"Publish", "w", func() { e.publish(envelope("w", onQueue("w"))) }},
		{"a start", "w", func() { d = c.one(); e.start(d) }},
		{"progress", "w", func() {
			p := broker.Renewal{Receipt: d.Receipt, Progress: &task.Progress{Percent: 5, At: now()}}
			c.exchange(nil, []broker.Renewal{p}, broker.Want{})
		}},
		{"a retry", "w", func() { c.exchange([]broker.Settlement{settlement(d, task.Retried)}, nil, broker.Want{}) }},
		{"a release", "w", func() { d, _ = c.later(second); e.start(d); e.settle(d, task.Queued) }},
		{"death", "w", func() { e.settle(c.one(), task.Failed) }},
		{"a replay", "w", func() { e.replay(broker.DeadFilter{}, broker.ReplayOptions{}) }},
		{"success", "w", func() { e.settle(c.one(), task.Succeeded) }},
		{"a follow-up", "f", func() {
			e.publish(envelope("parent", onQueue("w")))
			s := settlement(c.one(), task.Succeeded)
			s.Followups = []broker.Publication{{Envelope: envelope("f", onQueue("f"))}}
			if err := e.trySettle(s); err != nil && !errors.Is(err, broker.ErrUnsupported) {
				e.Errorf("Settle with a follow-up: %v", err)
			}
		}},
		{"a purge", "f", func() {
			if _, err := e.Broker.Purge(e.ctx, broker.Purge{Queue: "f", Keep: long}); err != nil {
				e.Errorf("Purge: %v", err)
			}
		}},
	} {
		if step.id == "f" && !e.has(broker.PowerFollowups) {
			continue
		}
		changed, cancel := w.Subscribe(step.id)
		step.act()
		select {
		case <-changed:
		case <-time.After(second + e.o.Slack):
			e.Errorf("%s: who watches the task is told nothing", step.what)
		}
		cancel()
	}
}

// testP2: one life, looked at after each call without waiting.
func testP2(e *env) {
	watched(e)
	if !e.atomic {
		return // P0 holds that it is no broker with statuses of its own
	}
	e.publishIDs("a")
	e.seen("a", task.Queued, nil)
	c := e.open()
	d := c.one()
	e.seen("a", task.Queued, nil)
	if errs, err := e.Results.Delete(e.ctx, "a"); err != nil || !errors.Is(errs[0], store.ErrNotFinished) {
		e.Errorf("Delete of a leased task: got %v, %v, want ErrNotFinished", errs, err)
	}
	c.exchange(nil, []broker.Renewal{{Receipt: d.Receipt, Start: true, Worker: "w"}}, broker.Want{})
	e.seen("a", task.Running, nil)
	c.exchange([]broker.Settlement{settlement(d, task.Retried)}, nil, broker.Want{})
	e.seen("a", task.Retried, nil)
	d, _ = c.later(second)
	e.seen("a", task.Retried, nil)
	e.start(d)
	e.seen("a", task.Running, nil)
	e.settle(d, task.Queued)
	e.seen("a", task.Queued, nil)
	d = c.one()
	e.settle(d, task.Failed)
	e.seen("a", task.Failed, func(s task.Status) string {
		if len(s.Errors) != 2 || s.Attempt != 2 {
			return fmt.Sprintf("%d errors, attempt %d; want 2, 2", len(s.Errors), s.Attempt)
		}
		return ""
	})
	e.replay(broker.DeadFilter{}, broker.ReplayOptions{})
	e.seen("a", task.Queued, nil)
	d = c.one()
	e.settle(d, task.Succeeded)
	e.seen("a", task.Succeeded, func(s task.Status) string {
		if s.ReplayCount != 1 || string(s.Result) != `{"ok": true}` || len(s.Errors) != 2 {
			return fmt.Sprintf("%d replays, result %s, %d errors", s.ReplayCount, s.Result, len(s.Errors))
		}
		return ""
	})
	if errs, err := e.Results.Delete(e.ctx, "a"); err != nil || errs[0] != nil {
		e.Errorf("Delete of a succeeded task: got %v, %v", errs, err)
	}
	if _, kept := e.status("a"); kept {
		e.Errorf("the status is kept after Delete")
	}
	e.publishIDs("a") // its id is free again
}
