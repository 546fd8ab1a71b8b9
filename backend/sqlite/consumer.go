package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// consumer receives for one worker. Exchange and Close belong to one
// goroutine; the fields under mu are shared with Wait and with whoever wakes.
type consumer struct {
	b   *fileBroker
	db  *DB
	sub broker.Subscription

	turn atomic.Int64 // raised by each exchange: see selection

	token  chan struct{} // capacity 1: there may be work or news
	called atomic.Bool   // a Wait has returned for one
	news   atomic.Bool   // all were called: perhaps for a revocation
	closed chan struct{}
	socket *socket // where other processes wake it; nil: they cannot

	// Other processes see by the name of its socket's file whether it waits. The
	// file is renamed when that costs nobody time: see shows.
	showing sync.Mutex
	risen   int // exchanges since it waited

	mu      sync.Mutex
	held    map[int64]*holding // by place in line
	pruneAt int                // how many held make it ask which of them still are
	waiting bool
	hungry  bool          // its last exchange had room for more
	room    broker.Want   // that more
	serving chan struct{} // closed when the transaction that serves it ends; nil: none does
	hand    *hand         // what it was served
	ended   bool
}

// holding is what a consumer remembers of a delivery until it is settled.
type holding struct {
	receipt broker.Receipt
	told    int // what it was told of a revocation: 0 nothing, 1 stop, 2 terminate
}

// Open implements broker.Broker.
func (b *fileBroker) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if s.Lease <= 0 {
		s.Lease = broker.DefaultLease
	}
	s.Queues = slices.Clone(s.Queues)
	c := &consumer{
		b: b, db: b.db, sub: s, token: make(chan struct{}, 1), closed: make(chan struct{}),
		held: make(map[int64]*holding), hungry: true, pruneAt: 4096,
	}
	if err := b.db.hub.open(c); err != nil {
		return nil, fmt.Errorf("open consumer: %w", err)
	}
	return c, nil
}

func (c *consumer) check(ctx context.Context) error {
	select {
	case <-c.closed:
		return broker.ErrClosed
	default:
		return c.b.check(ctx)
	}
}

// Exchange implements broker.Consumer. Without settlements and renewals it
// looks before it takes the lock, so that idle consumers hinder nobody; one
// that was called knows that there is work, or will be in a moment, and loses
// no time.
func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	if err := c.check(ctx); err != nil {
		return broker.Batch{}, err
	}
	called := c.takeCall() // whatever it stood for is seen below
	c.turn.Add(1)
	c.shows()
	h := c.takeHand()
	got := c.unpack(ctx, h, want)
	if len(got) > 0 && len(done) == 0 && len(live) == 0 {
		c.setRoom(want, got)
		c.callOthers(h.left, true)
		b := broker.Batch{Deliveries: got, Next: h.next, More: h.more}
		if !c.news.Swap(false) {
			return b, nil // it was leased a moment ago, and nobody told of a revocation
		}
		return c.withRevoked(ctx, b)
	}
	want = less(want, got)
	sel := c.selection(want)
	if len(done) == 0 && len(live) == 0 && !(called && want.Count > 0) {
		work, x, err := c.db.look(ctx, sel)
		if err != nil {
			c.keepHand(h, len(got))
			return broker.Batch{}, fmt.Errorf("exchange: %w", err)
		}
		if !work || want.Count <= 0 {
			c.setRoom(want, nil)
			c.callOthers(x.left, called)
			return c.withRevoked(ctx, broker.Batch{Next: x.next, More: work})
		}
	}
	x, err := c.db.exchange(ctx, prepareSettlements(done), prepareRenewals(live), sel)
	if err != nil {
		c.keepHand(h, len(got))
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	batch := broker.Batch{Settled: x.settled, Renewed: x.renewed, Next: x.next, More: x.more}
	batch.Deliveries = deliveries(x.taken)
	c.setRoom(want, batch.Deliveries)
	c.forget(done)
	if c.note(batch.Deliveries, x.taken) {
		c.prune(ctx)
	}
	batch.Deliveries = append(got, batch.Deliveries...)
	c.callOthers(x.left, called || len(x.taken) > 0)
	return c.withRevoked(ctx, batch)
}

// takeCall reports whether the consumer was called since its last exchange.
func (c *consumer) takeCall() bool {
	called := c.called.Swap(false)
	select {
	case <-c.token:
		return true
	default:
		return called
	}
}

// callOthers passes on what the consumer leaves: it took all that it wanted, or
// it was called and has no room.
func (c *consumer) callOthers(left []string, passOn bool) {
	if !passOn {
		return
	}
	for _, queue := range left {
		c.db.hub.callFor(queue, c)
	}
}

func (c *consumer) selection(want broker.Want) *selection {
	entries := want.Queues
	if entries == nil {
		entries = c.sub.Queues
	}
	return &selection{
		entries: entries, all: c.sub.Queues, want: want,
		lease: c.sub.Lease, worker: c.sub.Worker, turn: int(c.turn.Load()),
	}
}

// deliveries decodes what was leased.
func deliveries(list []taken) []broker.Delivery {
	if len(list) == 0 {
		return nil
	}
	out := make([]broker.Delivery, len(list))
	for i := range list {
		v := &list[i]
		e, err := task.Decode(v.envelope)
		if err == nil && e.ID != v.id {
			err = fmt.Errorf("%w envelope: it is stored as %s and says %s", task.ErrInvalid, v.id, e.ID)
		}
		if err != nil {
			e = &task.Envelope{ID: v.id}
		}
		d := broker.Delivery{
			Receipt:  broker.Receipt{ID: v.id, Epoch: v.epoch, Token: token(v.seq, v.lease)},
			Envelope: e, Queue: v.queue, Size: v.size, Lease: v.lease,
			Attempt: v.attempt, RetryBase: v.base, Starts: v.starts, Redelivered: v.has(flagRedelivered), Reserved: v.has(flagReserved),
			Replays: v.replays, Malformed: err,
		}
		if v.has(flagWaited) {
			d.NotBefore = time.UnixMilli(v.since).UTC()
		}
		out[i] = d
	}
	return out
}

// note remembers what the consumer got, the first of what was taken, and
// reports whether it is time to prune.
func (c *consumer) note(got []broker.Delivery, list []taken) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range got {
		c.held[list[i].seq] = &holding{receipt: got[i].Receipt}
	}
	return len(c.held) >= c.pruneAt
}

// prune forgets what other processes settled, or took over.
func (c *consumer) prune(ctx context.Context) {
	c.mu.Lock()
	all := maps.Clone(c.held)
	c.mu.Unlock()
	err := c.db.read(ctx, func(conn *conn) error {
		for seq, h := range all {
			var r row
			found, err := conn.one("by-seq", func(s *sqlite3.Stmt) { scanRow(s, &r) }, seq)
			if err != nil {
				return err
			}
			if found && r.held(h.receipt.Epoch) {
				delete(all, seq)
			}
		}
		return nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		for seq, h := range all {
			if c.held[seq] == h {
				delete(c.held, seq)
			}
		}
	}
	c.pruneAt = max(4096, 2*len(c.held))
}

// forget drops what was settled, by whomever.
func (c *consumer) forget(done []broker.Settlement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range done {
		seq, _, err := parseToken(done[i].Receipt.Token)
		if err != nil {
			continue
		}
		if h := c.held[seq]; h != nil && h.receipt.Epoch <= done[i].Receipt.Epoch {
			delete(c.held, seq)
		}
	}
}

// withRevoked adds to a batch what the consumer holds and was asked to stop.
func (c *consumer) withRevoked(ctx context.Context, b broker.Batch) (broker.Batch, error) {
	c.mu.Lock()
	none := len(c.held) == 0
	c.mu.Unlock()
	if none {
		return b, nil
	}
	type revocation struct {
		seq       int64
		terminate bool
		reason    string
	}
	var all []revocation
	err := c.db.read(ctx, func(conn *conn) error {
		all = nil
		return conn.each("revocations", func(s *sqlite3.Stmt) bool {
			all = append(all, revocation{s.ColumnInt64(0), s.ColumnBool(1), s.ColumnText(2)})
			return true
		})
	})
	if err != nil {
		// What the exchange did is done; the next one brings the news.
		c.db.log.Warn("read revocations", "worker", c.sub.Worker, "error", err)
		return b, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range all {
		level := 1
		if r.terminate {
			level = 2
		}
		if h := c.held[r.seq]; h != nil && h.told < level {
			h.told = level
			b.Revoked = append(b.Revoked, broker.Revoked{Receipt: h.receipt, Terminate: r.terminate, Reason: r.reason})
		}
	}
	return b, nil
}

// Wait implements broker.Consumer.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	if c.takeCall() {
		c.called.Store(true)
		return nil
	}
	if atMost <= 0 {
		return nil
	}
	work, err := c.lieDown(ctx)
	if !work && err == nil {
		err = c.sleep(ctx, atMost)
	}
	c.getUp()
	if err != nil && ctx.Err() != nil {
		c.dropHand(ctx) // perhaps nobody comes for it
	}
	return err
}

func (c *consumer) sleep(ctx context.Context, atMost time.Duration) error {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-c.token:
		c.called.Store(true)
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return broker.ErrClosed
	}
}

// lieDown lets others know that the consumer waits, and then looks once more:
// what was stored in between woke nobody.
func (c *consumer) lieDown(ctx context.Context) (work bool, err error) {
	if !c.showsWait() {
		return false, nil
	}
	work, _, err = c.db.look(ctx, c.selection(broker.Want{}))
	if errors.Is(err, broker.ErrClosed) || ctx.Err() != nil {
		return false, err
	}
	if err != nil {
		c.db.log.Warn("look for work", "worker", c.sub.Worker, "error", err)
	}
	return work, nil
}

// showsWait notes that the consumer waits, and tells other processes whether
// there is room.
func (c *consumer) showsWait() (hungry bool) {
	c.showing.Lock()
	defer c.showing.Unlock()
	c.mu.Lock()
	c.waiting = true
	hungry = c.hungry
	c.mu.Unlock()
	c.risen = 0
	if hungry {
		c.socket.idle()
	} else {
		c.socket.busy()
	}
	return hungry
}

// shows tells other processes that the consumer waits no more, with its second
// exchange since: the first has work at hand, and whoever calls it before is
// heard after that.
func (c *consumer) shows() {
	c.showing.Lock()
	defer c.showing.Unlock()
	c.mu.Lock()
	waiting := c.waiting
	c.mu.Unlock()
	if waiting {
		return
	}
	if c.risen++; c.risen == 2 {
		c.socket.busy()
	}
}

func (c *consumer) getUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
}

// Close implements broker.Consumer. A second call returns broker.ErrClosed.
func (c *consumer) Close(ctx context.Context) error {
	if !c.end() {
		return broker.ErrClosed
	}
	if c.b.closed.Load() || c.db.isClosed() {
		return nil
	}
	c.dropHand(ctx)
	c.mu.Lock()
	var held []broker.Receipt
	for _, h := range c.held {
		held = append(held, h.receipt)
	}
	c.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	if err := c.db.giveBackAll(ctx, held); err != nil {
		return fmt.Errorf("close consumer: %w", err)
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

// pass hands on a call that a consumer did not answer before it was closed.
func (db *DB) pass(c *consumer) {
	_, x, err := db.look(context.Background(), c.selection(broker.Want{}))
	if err != nil {
		return // the file is closed, or others find the work when they look
	}
	c.callOthers(x.left, true)
}

// giveBack returns a delivery that was not started, in place and uncounted.
func (t *tx) giveBack(receipt broker.Receipt) error {
	seq, _, err := parseToken(receipt.Token)
	if err != nil {
		return err
	}
	var r row
	found, err := t.bySeq(seq, &r)
	if err != nil || !found || r.id != receipt.ID || r.epoch != receipt.Epoch || r.place != leased || r.has(flagStarted) {
		return err
	}
	if r.has(flagRevoked) {
		return t.cancelRevoked(&r)
	}
	if r.phase == phaseOf(task.Running) { // of a run whose lease ended
		r.phase = phaseOf(task.Queued)
	}
	t.touched(r.id)
	return t.move(&r, ready, t.now)
}
