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

// consumer receives for one worker. Two calls of Exchange may be under way at once;
// the fields under mu are theirs, of Wait, and of whoever calls.
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

	token  chan struct{} // capacity 1: there may be work or news
	apart  chan struct{} // capacity 1: exchanges that overlapped are back
	closed chan struct{}

	mu     sync.Mutex
	turn   int
	first  int // the partition to begin with
	flying overlap
	parts  []presence
	held   map[string]holding // by id
	waited bool               // the last thing it did was a Wait that nobody ended
	hungry bool               // its last exchange had room for more, or one that overlapped it
	ended  bool

	collectedAt time.Time // when it looked into the outboxes
	prunedAt    time.Time // when it looked for what it holds no more
}

// overlap is what a consumer knows of its exchanges that are under way. The server
// may run two of them in either order, so what they say of waiting is believed only
// of one that nothing overlapped: else it is taken to wait nowhere, and whoever is
// registered although it does not know is called in vain, which does no harm. When
// all are back, a Wait that is under way registers it again.
type overlap struct {
	n     int              // under way
	begun int              // so far
	early []broker.Revoked // of tasks that come with another one, which is not back
}

// over reports whether another exchange overlapped, or may overlap, that one, which
// is under way.
func (o *overlap) over(x *exchange) bool { return !x.alone || o.n > 1 || o.begun > x.number }

// holding is what a consumer remembers of a delivery until it is settled.
type holding struct {
	epoch int64
	value string // the task's, where an ended one keeps it as it is; else empty
	lease time.Duration
	until time.Time // when its lease ends, unless another process extends it
	told  bool      // that it is to stop
}

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
		queues: strings.Join(s.Queues, ","), token: make(chan struct{}, 1), apart: make(chan struct{}, 1), closed: make(chan struct{}),
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

// MaxExchanges implements broker.Overlapping.
func (c *consumer) MaxExchanges() int { return 2 }

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
	defer c.begin(x)()
	if len(done) == 0 && len(live) == 0 && want.Count > 0 && c.restful() {
		return broker.Batch{Next: c.untilLook(), Ahead: c.db.aheadNow()}, nil
	}
	if err := c.db.watchClock(ctx); err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	if c.collects() {
		c.db.collect(ctx, outboxAge)
	}
	c.db.sweep(ctx)
	x.items, x.renewals, x.batch.Settled, x.batch.Renewed = c.prepare(done, live)
	if err := x.run(ctx); err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	c.extend(live, x.batch.Renewed)
	c.tellAgain(ctx, x)
	c.remember(done, x)
	x.batch.Ahead = c.db.aheadNow()
	return x.batch, nil
}

// begin notes an exchange, and returns what notes its end.
func (c *consumer) begin(x *exchange) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	o := &c.flying
	o.n++
	o.begun++
	x.number, x.alone = o.begun, o.n == 1
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		over := o.over(x)
		if o.n--; o.n > 0 {
			return
		}
		o.early = nil
		if over {
			signal(c.apart)
		}
	}
}

// collects reports whether it is time to look into the outboxes.
func (c *consumer) collects() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.parts) == 1 || time.Since(c.collectedAt) <= keeperLooks {
		return false
	}
	c.collectedAt = time.Now()
	return true
}

func (c *consumer) prepare(done []broker.Settlement, live []broker.Renewal) (items []settlement, renewals [][]string, settled, renewed []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db.prepareAll(done, live, c.held)
}

// remember notes what the consumer holds now.
func (c *consumer) remember(done []broker.Settlement, x *exchange) {
	b := &x.batch
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited = false
	c.hungry = x.want.Count > 0 && x.left > 0 && !b.More || c.hungry && c.flying.over(x)
	c.forgetLocked(done)
	now := time.Now()
	c.pruneLocked(now)
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		c.held[d.Receipt.ID] = holding{epoch: d.Receipt.Epoch, value: x.values[i], lease: d.Lease, until: now.Add(d.Lease)}
	}
	b.Revoked = c.tellLocked(b.Revoked)
}

// tellLocked returns those revocations that are of what the consumer holds, and
// keeps those that may be of what another exchange brings.
func (c *consumer) tellLocked(news []broker.Revoked) (told []broker.Revoked) {
	o := &c.flying
	news, o.early = append(o.early, news...), nil
	for _, v := range news {
		h, held := c.held[v.Receipt.ID]
		switch {
		case held && h.epoch == v.Receipt.Epoch:
			h.told = true
			c.held[v.Receipt.ID] = h
			told = append(told, v)
		case o.n > 1:
			o.early = append(o.early, v)
		}
	}
	return told
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
