package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testB1: what is Stored is delivered as it was, and, where the broker is
// durable, also by a broker that is opened later.
func testB1(e *env) {
	sent := envelope("a", visibility(long), func(v *task.Envelope) {
		v.Args = json.RawMessage(`{"big":12345678901234567890,"empty":[],"text":"ü\u0000` + strings.Repeat("ü", 1000) + `"}`)
		v.Priority, v.Attempt, v.ExpiresAt = 7, 2, now().Add(long)
	})
	e.publish(sent)
	e.seen("a", task.Queued, func(s task.Status) string {
		if want := task.NewStatus(sent); fmt.Sprintf("%+v", s) != fmt.Sprintf("%+v", want) {
			return fmt.Sprintf("got %+v, want %+v", s, want)
		}
		return ""
	})
	c := e.open()
	d := c.one()
	if !sameEnvelope(sent, d.Envelope) {
		e.Errorf("published %+v, delivered %+v", sent, d.Envelope)
	}
	if d.Queue != "q" || d.Attempt != 2 || d.Starts != 0 || d.Redelivered || d.Replays != 0 || d.Malformed != nil {
		e.Errorf("first delivery: got %+v", d)
	}
	if d.Size < len(sent.Args) || d.Lease != long {
		e.Errorf("size %d, lease %s; want at least %d bytes, %s", d.Size, d.Lease, len(sent.Args), long)
	}
	e.settle(d, task.Succeeded)
	if e.has(broker.PowerDurable) {
		survives(e)
	}
}

func survives(e *env) {
	e.publishIDs("leased", "dead", "done")
	c := e.open()
	ds := c.wantIDs("before it is closed", "leased", "dead", "done")
	e.publishIDs("ready")
	e.publish(envelope("delayed", notBefore(now().Add(long))))
	e.settle(ds[1], task.Failed)
	e.settle(ds[2], task.Succeeded)
	if err := e.Broker.Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	later := e.again()
	later.counts("q", 1, 1, 1, 1)
	later.seen("done", task.Succeeded, nil)
	later.seen("dead", task.Failed, nil)
	later.open().wantIDs("after opening again", "ready")
	if err := later.trySettle(settlement(ds[0], task.Succeeded)); err != nil {
		e.Errorf("settling after opening again what was leased before: %v", err)
	}
	if dead := later.dead(broker.DeadFilter{}); len(dead) != 1 || dead[0].Envelope.ID != "dead" {
		e.Errorf("dead letters after opening again: %+v", dead)
	}
}

// testB2: an id that is held in whatever state is Exists.
func testB2(e *env) {
	e.publishIDs("leased", "dead", "retried", "ready")
	e.publish(envelope("delayed", notBefore(now().Add(long))))
	c := e.open()
	ds := c.all(3)
	e.settle(ds[1], task.Failed)
	again := settlement(ds[2], task.Retried)
	again.Outcome.NotBefore = now().Add(long)
	if err := e.trySettle(again); err != nil {
		e.Fatalf("Settle as retried: %v", err)
	}
	var batch []broker.Publication
	for _, id := range []string{"leased", "dead", "retried", "ready", "delayed"} {
		batch = append(batch, broker.Publication{Envelope: envelope(id, onQueue("other"))})
	}
	for i, o := range e.offer(batch...) {
		if o.State != broker.Exists || o.ExistingID != batch[i].Envelope.ID {
			e.Errorf("publishing %s again: got %+v, want Exists with its id", batch[i].Envelope.ID, o)
		}
	}
	e.counts("q", 1, 2, 1, 1)
	e.counts("other", 0, 0, 0, 0)
	e.seen("ready", task.Queued, func(s task.Status) string {
		if s.Queue != "q" {
			return "a repeated publication changed its queue to " + s.Queue
		}
		return ""
	})

	twice := broker.Publication{Envelope: envelope("twice", onQueue("two"))}
	out := e.offer(twice, twice)
	if out[0].State != broker.Stored || out[1].State != broker.Exists {
		e.Errorf("one id twice in a batch: got %+v, want Stored and Exists", out)
	}
	c2 := e.open("two")
	d := c2.one()
	c2.none("one id published twice in a batch")
	e.settle(d, task.Succeeded)
	want := broker.Stored // nothing is known of it any more
	if e.keeps() {
		want = broker.Exists
	}
	e.seen("twice", task.Succeeded, nil)
	if o := e.offer(twice)[0]; o.State != want {
		e.Errorf("publishing a succeeded task again: got %+v, want state %d", o, want)
	}
}

// testB3: bad items are refused with the reason, good ones beside them stored.
func testB3(e *env) {
	size := e.caps.MaxSize
	if size <= 0 {
		size = task.DefaultMaxSize
	}
	bad := []struct {
		what string
		env  *task.Envelope
		want error
	}{
		{"an id with a slash", envelope("../x"), task.ErrInvalid},
		{"no queue", envelope("b1", onQueue("")), task.ErrInvalid},
		{"a queue of a path", envelope("b2", onQueue("../q")), task.ErrInvalid},
		{"priority 12", envelope("b3", priority(12)), task.ErrInvalid},
		{"args that are no JSON", envelope("b4", func(v *task.Envelope) { v.Args = json.RawMessage(`{`) }), task.ErrInvalid},
		{"no envelope", nil, task.ErrInvalid},
		{"too many bytes", envelope("b5", func(v *task.Envelope) {
			v.Args = json.RawMessage(`"` + strings.Repeat("x", size) + `"`)
		}), task.ErrTooLarge},
	}
	var batch []broker.Publication
	var good []string
	for i, b := range bad {
		id := fmt.Sprintf("good-%d", i)
		good = append(good, id)
		batch = append(batch, broker.Publication{Envelope: b.env}, broker.Publication{Envelope: envelope(id)})
	}
	out := e.offer(batch...)
	for i, b := range bad {
		if o := out[2*i]; o.State != broker.Refused || !errors.Is(o.Err, b.want) {
			e.Errorf("%s: got %+v, want Refused with %q", b.what, o, b.want)
		}
		if o := out[2*i+1]; o.State != broker.Stored {
			e.Errorf("the item after %s: got %+v, want Stored", b.what, o)
		}
	}
	e.open().wantIDs("beside bad items", good...)
}

// testB4: claims.
func testB4(e *env) {
	claimed := func(id string, claims ...broker.Claim) broker.Publication {
		return broker.Publication{Envelope: envelope(id), Claims: claims}
	}
	if !e.has(broker.PowerClaims) {
		e.refused("a claim", claimed("a", broker.Claim{Key: "k", For: long}))
		return
	}
	k, l, short := broker.Claim{Key: "k"}, broker.Claim{Key: "l", For: long}, broker.Claim{Key: "s", For: e.o.Lease}
	began := time.Now()
	for what, bad := range map[string]broker.Claim{"an empty key": {For: long}, "a negative time": {Key: "n", For: -1}} {
		if o := e.offer(claimed("bad", bad))[0]; o.State != broker.Refused || !errors.Is(o.Err, task.ErrInvalid) {
			e.Errorf("a claim of %s: got %+v, want Refused with ErrInvalid", what, o)
		}
	}
	out := e.offer(claimed("a", k, l), claimed("b", k), claimed("c", broker.Claim{Key: "free"}, l),
		claimed("d", broker.Claim{Key: "free"}), claimed("e", short))
	for i, want := range []string{"", "a", "a", "", ""} {
		if got := out[i]; got.ExistingID != want || (want != "") != (got.State == broker.Duplicate) {
			e.Errorf("item %d: got %+v, want ExistingID %q", i, got, want)
		}
	}
	if o := e.offer(claimed("a", k, l))[0]; o.State != broker.Exists {
		e.Errorf("the holder's own id again: got %+v, want Exists", o)
	}
	ds := e.open().wantIDs("with claims", "a", "d", "e")
	e.expireClaim(claimed("e2", short), "e", began)

	end := settlement(ds[0], task.Succeeded)
	end.Release = []string{"k"}
	if err := e.trySettle(end); err != nil {
		e.Fatalf("Settle with Release: %v", err)
	}
	out = e.offer(claimed("f", k), claimed("g", l))
	if out[0].State != broker.Stored {
		e.Errorf("a claim that its holder's settlement released: got %+v, want Stored", out[0])
	}
	if out[1].State != broker.Duplicate || out[1].ExistingID != "a" {
		e.Errorf("a claim with time left, after its holder succeeded: got %+v, want Duplicate of a", out[1])
	}
	other := settlement(ds[1], task.Succeeded) // d does not hold k: f does
	other.Release = []string{"k"}
	if err := e.trySettle(other); err != nil {
		e.Fatalf("Settle that releases another's claim: %v", err)
	}
	if o := e.offer(claimed("h", k))[0]; o.State != broker.Duplicate || o.ExistingID != "f" {
		e.Errorf("a claim that a stranger tried to release: got %+v, want Duplicate of f", o)
	}
	purgedClaims(e)
	if !e.o.light {
		manyClaims(e)
	}
}

// expireClaim repeats p until its claim, which holder took at began or later,
// has ended.
func (e *env) expireClaim(p broker.Publication, holder string, began time.Time) {
	e.Helper()
	for {
		o := e.offer(p)[0]
		passed := time.Since(began)
		switch {
		case o.State == broker.Stored && passed < p.Claims[0].For-early:
			e.Errorf("a claim of %s ended after %s", p.Claims[0].For, passed)
			return
		case o.State == broker.Stored:
			return
		case o.State != broker.Duplicate || o.ExistingID != holder:
			e.Fatalf("a held claim: got %+v, want Duplicate of %s", o, holder)
		case passed > p.Claims[0].For+second+e.o.Slack:
			e.Fatalf("a claim of %s is held still after %s", p.Claims[0].For, passed)
		}
		time.Sleep(poll)
	}
}

// manyClaims: a claim is kept however many there are.
func manyClaims(e *env) {
	p := func(i int) broker.Publication {
		id := fmt.Sprintf("many-%04d", i)
		return broker.Publication{Envelope: envelope(id, onQueue("many")), Claims: []broker.Claim{{Key: id, For: long}}}
	}
	for at := 0; at < many; at += 400 {
		var batch []broker.Publication
		for i := range 400 {
			batch = append(batch, p(at+i))
		}
		e.offer(batch...)
	}
	again := p(0)
	again.Envelope = envelope("rival", onQueue("many"))
	if o := e.offer(again)[0]; o.State != broker.Duplicate || o.ExistingID != "many-0000" {
		e.Errorf("the first of %d claims: got %+v, want Duplicate of its holder", many, o)
	}
}

// purgedClaims: a claim without a time does not outlive a task that is purged.
func purgedClaims(e *env) {
	mine := broker.Claim{Key: "purged"}
	p := func(id string) broker.Publication {
		return broker.Publication{Envelope: envelope(id, onQueue("gone")), Claims: []broker.Claim{mine}}
	}
	e.offer(p("p1"))
	if _, err := e.Broker.Purge(e.ctx, broker.Purge{Queue: "gone"}); err != nil {
		e.Fatalf("Purge: %v", err)
	}
	if o := e.offer(p("p2"))[0]; o.State != broker.Stored {
		e.Errorf("a claim without a time, after its holder was purged: got %+v, want Stored", o)
	}
}

// refused checks that an item is refused as unsupported, and that its
// neighbour is stored.
func (e *env) refused(what string, p broker.Publication) {
	e.Helper()
	id := "beside-" + p.Envelope.ID
	out := e.offer(p, broker.Publication{Envelope: envelope(id, onQueue("beside"))})
	if out[0].State != broker.Refused || !errors.Is(out[0].Err, broker.ErrUnsupported) {
		e.Errorf("%s, which the broker lacks: got %+v, want Refused with ErrUnsupported", what, out[0])
	}
	if out[1].State != broker.Stored {
		e.Errorf("the item beside %s: got %+v, want Stored", what, out[1])
	}
	e.counts(p.Envelope.Queue, 0, 0, 0, 0)
}

// testB5: what a broker cannot do is refused, also in a follow-up.
func testB5(e *env) {
	asks := map[broker.Power]broker.Publication{
		broker.PowerLimits: {Envelope: envelope("limits"), Limits: []string{"l"}},
		broker.PowerHolds:  {Envelope: envelope("holds"), Hold: "h"},
		broker.PowerGroups: {Envelope: envelope("groups"), Group: &broker.Member{Group: "g", Index: 1}},
	}
	for _, p := range broker.Powers() {
		ask, known := asks[p]
		if !known || e.has(p) {
			continue
		}
		e.refused(string(p), ask)
		e.publish(envelope("parent-"+string(p), onQueue("parents")))
		c := e.open("parents")
		s := settlement(c.one(), task.Succeeded)
		s.Followups = []broker.Publication{ask}
		if err := e.trySettle(s); !errors.Is(err, broker.ErrUnsupported) {
			e.Errorf("a follow-up that asks for %s: got error %v, want ErrUnsupported", p, err)
		}
	}
	for _, p := range e.caps.Powers {
		if !slices.Contains(broker.Powers(), p) {
			e.Errorf("the broker declares a power %q that is none", p)
		}
	}
}
