package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// consumer receives for one worker. Exchange and Close belong to one goroutine;
// the fields under mu are shared with Wait and with whoever calls.
type consumer struct {
	b   *redisBroker
	db  *DB
	sub broker.Subscription

	// What the scripts are told.
	number int
	name   string // PROCESS.NUMBER
	worker string
	lease  string
	queues string

	turn  int
	first int // the partition to begin with

	collectedAt time.Time // when it looked into the outboxes
	prunedAt    time.Time // when it looked for what it holds no more

	token  chan struct{} // capacity 1: there may be work or news
	closed chan struct{}

	mu     sync.Mutex
	parts  []presence
	held   map[string]holding // by id
	waited bool               // the last thing it did was a Wait that nobody ended
	hungry bool               // its last exchange had room for more
	ended  bool
}

// holding is what a consumer remembers of a delivery until it is settled.
type holding struct {
	epoch int64
	value string // the task's, where an ended one keeps it as it is; else empty
	lease time.Duration
	until time.Time // when its lease ends, unless another process extends it
	told  bool      // that it is to stop
}

// presence is what a consumer knows of itself in one partition.
type presence struct {
	waits  bool      // it is registered there as waiting
	called bool      // it was called from there since
	lookAt time.Time // until then it need not look
	keeps  bool      // it is one of those who keep the time

	failures   int       // in a row, while others answered
	avoidUntil time.Time // it is not asked until then
}

// keeperLooks is how often those look who keep the time for all.
const keeperLooks = time.Second

// Open implements broker.Broker.
func (b *redisBroker) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if err := checkSubscription(s); err != nil {
		return nil, fmt.Errorf("open consumer: %w", err)
	}
	if s.Lease <= 0 {
		s.Lease = broker.DefaultLease
	}
	s.Queues = slices.Clone(s.Queues)
	c := &consumer{
		b: b, db: b.db, sub: s, worker: escape(s.Worker), lease: strconv.FormatInt(ceilMillis(s.Lease), 10),
		queues: strings.Join(s.Queues, ","), token: make(chan struct{}, 1), closed: make(chan struct{}),
		parts: make([]presence, len(b.db.tags)), held: make(map[string]holding), hungry: true,
	}
	if err := b.db.hub.open(ctx, c); err != nil {
		return nil, fmt.Errorf("open consumer: %w", err)
	}
	return c, nil
}

func checkSubscription(s broker.Subscription) error {
	if len(s.Queues) == 0 {
		return fmt.Errorf("%w subscription: it names no queue", task.ErrInvalid)
	}
	for _, q := range s.Queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q, "*", "x")); err != nil {
			return fmt.Errorf("%w subscription to %q: %w", task.ErrInvalid, q, err)
		}
	}
	return nil
}

func (c *consumer) check(ctx context.Context) error {
	select {
	case <-c.closed:
		return broker.ErrClosed
	default:
		return c.b.check(ctx)
	}
}

// Exchange implements broker.Consumer. After a wait that nobody ended it asks
// only the partitions in which no other consumer keeps the time.
func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	if err := c.check(ctx); err != nil {
		return broker.Batch{}, err
	}
	x := &exchange{c: c, live: live, want: want, left: max(want.Count, 0), bytes: want.Bytes}
	for _, q := range want.Queues {
		if !slices.Contains(c.sub.Queues, q) {
			return broker.Batch{}, fmt.Errorf("%w order of queues: %q is not subscribed to", task.ErrInvalid, q)
		}
	}
	x.order = c.queues
	if want.Queues != nil {
		x.order = strings.Join(want.Queues, ",")
	}
	c.takeCall()
	c.turn++
	if len(done) == 0 && len(live) == 0 && want.Count > 0 && c.restful() {
		return broker.Batch{Next: c.untilLook(), Ahead: c.db.aheadNow()}, nil
	}
	if err := c.db.watchClock(ctx); err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	if len(c.parts) > 1 && time.Since(c.collectedAt) > keeperLooks {
		c.collectedAt = time.Now()
		c.db.collect(ctx, outboxAge)
	}
	c.db.sweep(ctx)
	x.items, x.renewals, x.batch.Settled, x.batch.Renewed = c.prepare(done, live)
	if err := x.run(ctx); err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	c.extend(live, x.batch.Renewed)
	c.tellAgain(ctx, x)
	c.remember(done, x, want.Count > 0 && x.left > 0 && !x.batch.More)
	x.batch.Ahead = c.db.aheadNow()
	return x.batch, nil
}

func (c *consumer) prepare(done []broker.Settlement, live []broker.Renewal) (items []settlement, renewals [][]string, settled, renewed []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db.prepareAll(done, live, c.held)
}

// restful reports whether a look can be left to others: it waits everywhere,
// was not called, and its own time to look has not come.
func (c *consumer) restful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waited {
		return false
	}
	now := time.Now()
	for i := range c.parts {
		p := &c.parts[i]
		if !p.waits || p.called || p.keeps || !now.Before(p.lookAt) {
			return false
		}
	}
	return true
}

func (c *consumer) untilLook() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := time.Minute
	for i := range c.parts {
		switch p := &c.parts[i]; {
		case p.waits:
			next = min(next, time.Until(p.lookAt))
		case p.failures > 0:
			next = min(next, time.Until(p.avoidUntil))
		}
	}
	return max(next, time.Millisecond)
}

// remember notes what the consumer holds now.
func (c *consumer) remember(done []broker.Settlement, x *exchange, hungry bool) {
	b := &x.batch
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited, c.hungry = false, hungry
	c.forgetLocked(done)
	now := time.Now()
	c.pruneLocked(now)
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		c.held[d.Receipt.ID] = holding{epoch: d.Receipt.Epoch, value: x.values[i], lease: d.Lease, until: now.Add(d.Lease)}
	}
	for i := range b.Revoked { // of what it holds still
		r := &b.Revoked[i].Receipt
		if h := c.held[r.ID]; h.epoch == r.Epoch {
			h.told = true
			c.held[r.ID] = h
		} else {
			r.ID = ""
		}
	}
	b.Revoked = slices.DeleteFunc(b.Revoked, func(r broker.Revoked) bool { return r.Receipt.ID == "" })
}

// pruneLocked drops what another process has settled, or nobody has: it is told
// of neither. The leases of those ended a lease ago.
func (c *consumer) pruneLocked(now time.Time) {
	if now.Sub(c.prunedAt) < time.Second {
		return
	}
	c.prunedAt = now
	for id, h := range c.held {
		if now.Sub(h.until) > h.lease {
			delete(c.held, id)
		}
	}
}

// extend notes which leases were extended, by whomever of this process.
func (c *consumer) extend(live []broker.Renewal, errs []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i := range live {
		r := &live[i]
		if h, ok := c.held[r.Receipt.ID]; ok && errs[i] == nil && h.epoch == r.Receipt.Epoch {
			h.until = now.Add(max(r.Extend, h.lease))
			c.held[r.Receipt.ID] = h
		}
	}
}

// tellAgain adds the revocations of what was renewed and is to stop, of which
// this consumer was not told: an answer with news may be lost on its way.
func (c *consumer) tellAgain(ctx context.Context, x *exchange) {
	x.stopping = slices.DeleteFunc(x.stopping, func(r broker.Receipt) bool {
		return slices.ContainsFunc(x.batch.Revoked, func(v broker.Revoked) bool { return v.Receipt == r })
	})
	c.mu.Lock()
	x.stopping = slices.DeleteFunc(x.stopping, func(r broker.Receipt) bool { return c.held[r.ID].told })
	c.mu.Unlock()
	if len(x.stopping) == 0 {
		return
	}
	again, err := c.b.RevokedOf(ctx, x.stopping...)
	if err != nil {
		c.db.log.Warn("ask for revocations; the next renewal asks again", "worker", c.sub.Worker, "error", err)
		return
	}
	x.batch.Revoked = append(x.batch.Revoked, again...)
}

// forget drops what was settled, by whomever.
func (c *consumer) forget(done []broker.Settlement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(done)
}

func (c *consumer) forgetLocked(done []broker.Settlement) {
	for i := range done {
		r := &done[i].Receipt
		if h, ok := c.held[r.ID]; ok && h.epoch <= r.Epoch {
			delete(c.held, r.ID)
		}
	}
}

// takeCall takes the token, which stands for what the next exchange sees.
func (c *consumer) takeCall() bool {
	select {
	case <-c.token:
		return true
	default:
		return false
	}
}

// call wakes the consumer, for work of that partition.
func (c *consumer) call(partition int) {
	c.mu.Lock()
	if partition < len(c.parts) {
		c.parts[partition].waits = false
		c.parts[partition].called = true
	}
	c.mu.Unlock()
	signal(c.token)
}

// callAll has it look everywhere.
func (c *consumer) callAll() {
	c.mu.Lock()
	for i := range c.parts {
		c.parts[i].waits, c.parts[i].called = false, true
	}
	c.mu.Unlock()
	signal(c.token)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is told already
	}
}

// Wait implements broker.Consumer. An exchange that left room has registered the
// consumer; one that wants work and is not registered looks at once.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	if c.takeCall() {
		signal(c.token) // its next exchange takes it
		return nil
	}
	if atMost <= 0 {
		return nil
	}
	if work, err := c.register(ctx); work || err != nil {
		return err
	}
	timer := time.NewTimer(min(atMost, max(c.untilLook(), time.Millisecond)))
	defer timer.Stop()
	select {
	case <-c.token:
		signal(c.token)
		return nil
	case <-timer.C:
		c.mu.Lock()
		c.waited = true
		c.mu.Unlock()
		return nil
	case <-ctx.Done():
		c.giveUp()
		return ctx.Err()
	case <-c.closed:
		return broker.ErrClosed
	}
}

// giveUp is for a wait that was ended: nobody listens to calls any more.
func (c *consumer) giveUp() {
	c.mu.Lock()
	waits := slices.ContainsFunc(c.parts, func(p presence) bool { return p.waits || p.called })
	c.mu.Unlock()
	if !waits {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := c.leave(ctx, false); err != nil {
		c.db.log.Debug("end a wait", "worker", c.sub.Worker, "error", err)
	}
}

// register makes sure that a consumer that wants work will be called for it. It
// reports whether there is some already.
func (c *consumer) register(ctx context.Context) (work bool, err error) {
	c.mu.Lock()
	var asks []ask
	now := time.Now()
	for i := range c.parts {
		if c.hungry && !c.parts[i].waits && !c.parts[i].avoided(now) {
			asks = append(asks, ask{partition: i, sel: &selection{consumer: c, queues: c.queues, count: -1}})
		}
	}
	c.mu.Unlock()
	if len(asks) == 0 {
		return false, nil
	}
	answers, err := c.db.exchanges(ctx, asks, nil, nil, nil)
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		c.db.log.Warn("look for work", "worker", c.sub.Worker, "error", err)
		return false, nil
	}
	for i := range answers {
		if answers[i].err != nil {
			c.avoid(ctx, asks[i].partition, answers[i].err)
			continue
		}
		c.note(asks[i].partition, &answers[i])
		work = work || answers[i].more
	}
	return work, nil
}

// note keeps what a partition said of waiting there.
func (c *consumer) note(partition int, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.parts[partition]
	p.failures, p.avoidUntil = 0, time.Time{}
	p.waits = a.patience >= 0
	p.called = false
	p.lookAt = time.Now().Add(max(a.patience, keeperLooks))
	p.keeps = a.patience == 0
}

// Close implements broker.Consumer. A second call returns broker.ErrClosed.
func (c *consumer) Close(ctx context.Context) error {
	if !c.end() {
		return broker.ErrClosed
	}
	if c.b.check(context.Background()) != nil {
		return nil
	}
	if err := c.leave(ctx, true); err != nil {
		return fmt.Errorf("close consumer: %w", err)
	}
	return nil
}

// leave takes the consumer off those who wait, and lets another have a call that
// it does not answer. For good, it gives back what it holds.
func (c *consumer) leave(ctx context.Context, forGood bool) error {
	called := c.takeCall()
	c.mu.Lock()
	calls := make([]call, len(c.db.tags))
	for i := range calls {
		p := &c.parts[i]
		calls[i] = call{c.db.scripts.close, i, []string{c.name, c.queues, "0", "0"}}
		switch {
		case called:
			calls[i].args[2] = "2"
		case p.waits:
			calls[i].args[2] = "1"
		}
		if forGood {
			calls[i].args[3] = "1"
		}
		p.waits = false
	}
	if forGood {
		for id, h := range c.held {
			k := &calls[c.db.partition(id)]
			k.args = append(k.args, id, strconv.FormatInt(h.epoch, 10))
		}
		c.held = nil
	}
	c.mu.Unlock()
	_, errs := c.db.runAll(ctx, calls)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// end makes the consumer's calls return, and reports whether it was open.
func (c *consumer) end() bool {
	c.mu.Lock()
	first := !c.ended
	c.ended = true
	c.mu.Unlock()
	if first {
		close(c.closed)
		c.db.hub.remove(c)
	}
	return first
}
