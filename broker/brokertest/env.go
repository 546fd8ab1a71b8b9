package brokertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

const (
	// long is a lease, a delay or a retention that does not end in a test.
	long = 10 * time.Minute
	// early is by how much a moment kept in whole milliseconds may come early.
	early = 2 * time.Millisecond
	// second is the bound that several rules name.
	second = time.Second
	// many is how many queues, or claims, a broker has to bear in a test.
	many = 1200
	// idle is how long a Wait lasts that nothing ends: longer than any bound.
	idle = 2 * time.Minute
	// patience is how long one rule's test may take in all.
	patience = 5 * time.Minute
	// poll is the pause between two looks.
	poll = 5 * time.Millisecond
)

// env is one rule's backend with what its test needs.
type env struct {
	testing.TB
	Backend
	o      Options
	caps   broker.Capabilities
	atomic bool // Results shows the broker's moves at once
	ctx    context.Context
}

func newEnv(t testing.TB, o Options) *env {
	t.Helper()
	e := &env{TB: t, o: o}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	e.ctx = ctx
	e.use(o.Open(t))
	return e
}

// use makes b the backend that is tested.
func (e *env) use(b Backend) {
	e.Backend = b
	e.caps = broker.CapabilitiesOf(b.Broker)
	a, ok := broker.As[broker.Atomic](b.Broker)
	e.atomic = ok && b.Results != nil && a.AtomicWith(b.Results)
}

// again is the env of another handle on the same store.
func (e *env) again() *env {
	e.Helper()
	if e.o.Reopen == nil {
		e.Fatal("Options.Reopen is missing: the broker declares that it is durable or shared")
	}
	other := *e
	other.use(e.o.Reopen(e.TB, e.Backend))
	return &other
}

func (e *env) has(p broker.Power) bool { return e.caps.Has(p) }

// keeps reports whether a terminal status is kept, and so its id known.
func (e *env) keeps() bool { return e.Results != nil || e.has(broker.PowerStatuses) }

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// envelope returns a valid envelope for queue "q", changed by the given edits.
func envelope(id string, edits ...func(*task.Envelope)) *task.Envelope {
	e := &task.Envelope{
		ID: id, Name: "demo.task", Args: json.RawMessage(`{"n":1}`), Headers: map[string]string{"tenant": "acme"},
		EnqueuedAt: now(), Priority: task.DefaultPriority, MaxRetries: 3, Queue: "q",
		Meta: map[string]json.RawMessage{task.MetaUser: json.RawMessage(`{"k":"v"}`)},
	}
	for _, edit := range edits {
		edit(e)
	}
	return e
}

func onQueue(q string) func(*task.Envelope)      { return func(e *task.Envelope) { e.Queue = q } }
func priority(p int) func(*task.Envelope)        { return func(e *task.Envelope) { e.Priority = p } }
func notBefore(t time.Time) func(*task.Envelope) { return func(e *task.Envelope) { e.NotBefore = t } }
func visibility(d time.Duration) func(*task.Envelope) {
	return func(e *task.Envelope) { e.VisibilityTimeout = d }
}

func sameEnvelope(a, b *task.Envelope) bool {
	x, err1 := task.Encode(a)
	y, err2 := task.Encode(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// offer publishes and returns the outcomes.
func (e *env) offer(batch ...broker.Publication) []broker.Outcome {
	e.Helper()
	out, err := e.Broker.Publish(e.ctx, batch)
	if err != nil || len(out) != len(batch) {
		e.Fatalf("Publish of %d: %d outcomes, error %v", len(batch), len(out), err)
	}
	return out
}

// publish stores envelopes, in one batch.
func (e *env) publish(envelopes ...*task.Envelope) {
	e.Helper()
	batch := make([]broker.Publication, len(envelopes))
	for i, v := range envelopes {
		batch[i].Envelope = v
	}
	for i, o := range e.offer(batch...) {
		if o.State != broker.Stored {
			e.Fatalf("Publish of %s: got %+v, want Stored", envelopes[i].ID, o)
		}
	}
}

// publishIDs stores default envelopes under these ids, in one batch.
func (e *env) publishIDs(ids ...string) {
	e.Helper()
	var all []*task.Envelope
	for _, id := range ids {
		all = append(all, envelope(id))
	}
	e.publish(all...)
}

// consumer is a broker.Consumer whose calls fail the test.
type consumer struct {
	broker.Consumer
	e *env
}

// open starts a consumer with a long lease, of queue "q" unless told.
func (e *env) open(queues ...string) *consumer { e.Helper(); return e.openLease(long, queues...) }

// openShort starts one with the short lease.
func (e *env) openShort(queues ...string) *consumer {
	e.Helper()
	return e.openLease(e.o.Lease, queues...)
}

func (e *env) openLease(lease time.Duration, queues ...string) *consumer {
	e.Helper()
	if len(queues) == 0 {
		queues = []string{"q"}
	}
	c, err := e.Broker.Open(e.ctx, broker.Subscription{Worker: "worker-1", Queues: queues, Lease: lease})
	if err != nil {
		e.Fatalf("Open: %v", err)
	}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), idle)
		defer cancel()
		if err := c.Close(ctx); err != nil && !errors.Is(err, broker.ErrClosed) {
			e.Errorf("Consumer.Close at the end: %v", err)
		}
	})
	return &consumer{Consumer: c, e: e}
}

// exchange is a successful Exchange.
func (c *consumer) exchange(done []broker.Settlement, live []broker.Renewal, want broker.Want) broker.Batch {
	c.e.Helper()
	b, err := c.Exchange(c.e.ctx, done, live, want)
	if err != nil {
		c.e.Fatalf("Exchange: %v", err)
	}
	if len(b.Settled) != len(done) || len(b.Renewed) != len(live) {
		c.e.Fatalf("Exchange of %d settlements and %d renewals answered %d and %d",
			len(done), len(live), len(b.Settled), len(b.Renewed))
	}
	if len(b.Deliveries) > want.Count {
		c.e.Fatalf("Exchange delivered %d, at most %d were wanted", len(b.Deliveries), want.Count)
	}
	for _, d := range b.Deliveries {
		if d.Envelope == nil {
			c.e.Fatalf("delivery %s has no envelope", d.Receipt)
		}
		if d.Receipt.ID != d.Envelope.ID {
			c.e.Fatalf("receipt %s is not of the envelope %s", d.Receipt, d.Envelope.ID)
		}
	}
	return b
}

// take receives up to n by one exchange.
func (c *consumer) take(n int) []broker.Delivery {
	c.e.Helper()
	return c.exchange(nil, nil, broker.Want{Count: n}).Deliveries
}

// one receives the one delivery that must be ready.
func (c *consumer) one() broker.Delivery {
	c.e.Helper()
	ds := c.take(1)
	if len(ds) != 1 {
		c.e.Fatalf("nothing was delivered, though a task is ready")
	}
	return ds[0]
}

// all receives by one exchange the n that must be ready.
func (c *consumer) all(n int) []broker.Delivery {
	c.e.Helper()
	ds := c.take(n)
	if len(ds) != n {
		c.e.Fatalf("%d were delivered, of %d that are ready: %v", len(ds), n, idsOf(ds))
	}
	return ds
}

// wantIDs receives by one exchange exactly these, in this order.
func (c *consumer) wantIDs(what string, want ...string) []broker.Delivery {
	c.e.Helper()
	ds := c.take(len(want) + 1)
	if got := idsOf(ds); !c.e.inOrder(got, want) {
		c.e.Fatalf("%s: got %v, want %v", what, got, want)
	}
	slices.SortFunc(ds, func(a, b broker.Delivery) int {
		return slices.Index(want, a.Receipt.ID) - slices.Index(want, b.Receipt.ID)
	})
	return ds
}

// lines splits ids by the partitions in which they lie: each has an order.
func (e *env) lines(ids []string) map[int][]string {
	lines := make(map[int][]string)
	for _, id := range ids {
		p := 0
		if e.o.Partition != nil {
			p = e.o.Partition(id)
		}
		lines[p] = append(lines[p], id)
	}
	return lines
}

// inOrder reports whether got is want, in its order, or in that of each partition.
func (e *env) inOrder(got, want []string) bool {
	return maps.EqualFunc(e.lines(got), e.lines(want), slices.Equal)
}

// begins reports whether got is the beginning of want, or has the beginning of
// each partition's part of it.
func (e *env) begins(got, want []string) bool {
	lines := e.lines(want)
	for p, line := range e.lines(got) {
		if len(line) > len(lines[p]) || !slices.Equal(line, lines[p][:len(line)]) {
			return false
		}
	}
	return true
}

// none checks that nothing is ready.
func (c *consumer) none(what string) {
	c.e.Helper()
	if ds := c.take(10); len(ds) > 0 {
		c.e.Fatalf("%s: %v was delivered, want nothing", what, idsOf(ds))
	}
}

// later looks until one is delivered, and says when it was there.
func (c *consumer) later(within time.Duration) (broker.Delivery, time.Time) {
	c.e.Helper()
	start := time.Now()
	for {
		if ds := c.take(1); len(ds) == 1 {
			return ds[0], time.Now()
		}
		if time.Since(start) > within+c.e.o.Slack {
			c.e.Fatalf("nothing was delivered within %s", time.Since(start))
		}
		time.Sleep(poll)
	}
}

// quiet checks over a span that nothing is delivered.
func (c *consumer) quiet(span time.Duration, what string) {
	c.e.Helper()
	for start := time.Now(); time.Since(start) < span; time.Sleep(poll) {
		c.none(what)
	}
}

func idsOf(ds []broker.Delivery) []string {
	ids := make([]string, 0, len(ds))
	for _, d := range ds {
		ids = append(ids, d.Envelope.ID)
	}
	return ids
}

// outcome is a plausible outcome of a delivery.
func outcome(d broker.Delivery, s task.State) task.Outcome {
	at := now()
	o := task.Outcome{State: s, Attempt: d.Attempt + 1, Worker: "worker-1", StartedAt: at, EndedAt: at, Keep: long}
	failure := &task.Error{Type: "demo.Error", Message: "boom " + d.Receipt.ID, Retryable: true, Attempt: d.Attempt, At: at}
	switch s {
	case task.Queued:
		o.Attempt, o.StartedAt = d.Attempt, time.Time{}
	case task.Retried:
		o.Error = failure
	case task.Failed:
		o.Error, o.Reason = failure, task.ReasonPermanent
	case task.Cancelled:
		o.Attempt, o.StartedAt, o.Reason = d.Attempt, time.Time{}, task.ReasonExpired
	case task.Succeeded:
		o.Result = json.RawMessage(`{"ok": true}`)
	}
	return o
}

func settlement(d broker.Delivery, s task.State) broker.Settlement {
	return broker.Settlement{Receipt: d.Receipt, Outcome: outcome(d, s)}
}

// trySettle settles one and returns its error.
func (e *env) trySettle(s broker.Settlement) error {
	e.Helper()
	errs, err := e.Broker.Settle(e.ctx, []broker.Settlement{s})
	if err != nil || len(errs) != 1 {
		e.Fatalf("Settle of one: %d answers, error %v", len(errs), err)
	}
	return errs[0]
}

// settle settles one delivery with the given state.
func (e *env) settle(d broker.Delivery, s task.State) {
	e.Helper()
	if err := e.trySettle(settlement(d, s)); err != nil {
		e.Fatalf("Settle of %s as %s: %v", d.Receipt, s, err)
	}
}

// tryRenew renews one and returns its error.
func (e *env) tryRenew(r broker.Renewal) error {
	e.Helper()
	errs, err := e.Broker.Renew(e.ctx, []broker.Renewal{r})
	if err != nil || len(errs) != 1 {
		e.Fatalf("Renew of one: %d answers, error %v", len(errs), err)
	}
	return errs[0]
}

// start reports the start of a delivery.
func (e *env) start(d broker.Delivery) {
	e.Helper()
	if err := e.tryRenew(broker.Renewal{Receipt: d.Receipt, Start: true, Worker: "worker-1"}); err != nil {
		e.Fatalf("Renew with Start of %s: %v", d.Receipt, err)
	}
}

// lost checks that err is ErrLeaseLost.
func (e *env) lost(what string, err error) {
	e.Helper()
	if !errors.Is(err, broker.ErrLeaseLost) {
		e.Errorf("%s: got error %v, want ErrLeaseLost", what, err)
	}
}

// status returns the kept status of id, and whether there is one.
func (e *env) status(id string) (task.Status, bool) {
	e.Helper()
	found, err := e.Results.Get(e.ctx, id)
	if err != nil || len(found) != 1 {
		e.Fatalf("Get of %s: %d answers, error %v", id, len(found), err)
	}
	if err := found[0].Err; err != nil && !errors.Is(err, store.ErrNotFound) {
		e.Fatalf("Get of %s: %v", id, err)
	}
	return found[0].Status, found[0].Err == nil
}

// eventually looks until ok says yes, for at most within. Where statuses are
// written by the broker's own step, there is nothing to wait for: see seen.
func (e *env) eventually(within time.Duration, ok func() bool) bool {
	for start := time.Now(); ; time.Sleep(poll) {
		if ok() {
			return true
		}
		if time.Since(start) > within+e.o.Slack {
			return false
		}
	}
}

// seen checks the kept status of id: state, then whatever check says. Without
// statuses it checks nothing; where they are atomic it looks once.
func (e *env) seen(id string, want task.State, check func(s task.Status) string) {
	e.Helper()
	if e.Results == nil {
		return
	}
	var complaint string
	look := func() bool {
		s, ok := e.status(id)
		switch {
		case !ok:
			complaint = "no status is kept, want " + string(want)
		case s.State != want:
			complaint = "state is " + string(s.State) + ", want " + string(want)
		case check != nil:
			complaint = check(s)
		default:
			complaint = ""
		}
		return complaint == ""
	}
	if look() || !e.atomic && e.eventually(second, look) {
		return
	}
	e.Errorf("status of %s: %s", id, complaint)
}

// counts checks what Queues says of a queue.
func (e *env) counts(queue string, ready, delayed, leased, dead int) {
	e.Helper()
	infos, err := e.Broker.Queues(e.ctx, queue)
	if err != nil || len(infos) != 1 || infos[0].Name != queue {
		e.Fatalf("Queues of %q: got %+v, error %v", queue, infos, err)
	}
	q := infos[0]
	if q.Ready != ready || q.Delayed != delayed || q.Leased != leased || q.Dead != dead {
		e.Errorf("queue %q has %d ready, %d delayed, %d leased, %d dead; want %d, %d, %d, %d",
			queue, q.Ready, q.Delayed, q.Leased, q.Dead, ready, delayed, leased, dead)
	}
}

// dead lists every dead letter that f selects, newest first.
func (e *env) dead(f broker.DeadFilter) []broker.DeadLetter {
	e.Helper()
	list, _, err := e.Broker.DeadLetters().ListDeadLetters(e.ctx, f, broker.Page{Limit: 1000})
	if err != nil {
		e.Fatalf("ListDeadLetters: %v", err)
	}
	return list
}

// replay replays what f selects.
func (e *env) replay(f broker.DeadFilter, o broker.ReplayOptions) broker.Replayed {
	e.Helper()
	r, err := e.Broker.DeadLetters().ReplayDeadLetters(e.ctx, f, o)
	if err != nil {
		e.Fatalf("ReplayDeadLetters: %v", err)
	}
	return r
}
