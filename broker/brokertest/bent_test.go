package brokertest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
)

// bend says what is bent in a broker that is correct otherwise. Hooks left nil
// forward. They run under bent.mu where they get a *bent, unless they call on.
type bend struct {
	publish func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error)
	settle  func(b *bent, s broker.Settlement) broker.Settlement
	settled func(b *bent, s broker.Settlement, err error) error
	renew   func(b *bent, r broker.Renewal) broker.Renewal
	renewed func(b *bent, r broker.Renewal, err error) error
	want    func(w broker.Want) broker.Want
	batch   func(b *bent, c *bentConsumer, got *broker.Batch)
	wait    func(ctx context.Context, c broker.Consumer, atMost time.Duration) error
	closed  func(ctx context.Context, c *bentConsumer) error
	queues  func(names []string, infos []broker.QueueInfo) []broker.QueueInfo
	purge   func(b *bent, ctx context.Context, p broker.Purge) ([]string, error)
	list    func(b *bent, f broker.DeadFilter, p broker.Page) (broker.DeadFilter, broker.Page)
	listed  func(b *bent, f broker.DeadFilter, list []broker.DeadLetter) []broker.DeadLetter
	replay  func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error)
	drop    func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error)
	caps    func(c broker.Capabilities) broker.Capabilities
	revoke  func(b *bent, ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error)
	pause   func(b *bent, ctx context.Context, batch []broker.Pause) error
	resume  func(b *bent, ctx context.Context, queues []string) ([]bool, error)
	pauses  func(list []broker.Pause) []broker.Pause
	revs    func(list []broker.PendingRevocation) []broker.PendingRevocation
	holds   func(ids []string, held []bool) []bool
	imports func(d broker.DeadLetter) broker.DeadLetter
	known   func(b *bent, batch []broker.DeadLetter, errs []error)
	ctx     func(ctx context.Context) context.Context
	end     func(b *bent) error

	// overlaps has its consumers take two exchanges at once, each of which takes a
	// moment; overlapped bends the answer of one that another was under way beside,
	// and deaf has no wait woken after it.
	overlaps   bool
	overlapped func(c *bentConsumer, got *broker.Batch)
	deaf       bool
}

// bent is a broker with a bend in it, and what bends remember.
type bent struct {
	broker.Broker
	bend bend

	mu      sync.Mutex
	held    map[string]broker.Delivery // the newest delivery of each id
	started map[string]bool            // under that delivery
	counts  map[string]int
	kept    []broker.DeadLetter
}

func (d bend) apply(b Backend) Backend {
	b.Broker = &bent{
		Broker: b.Broker, bend: d,
		held: make(map[string]broker.Delivery), started: make(map[string]bool), counts: make(map[string]int),
	}
	return b
}

// openBent opens a correct broker and bends it.
func openBent(d bend) func(t testing.TB) Backend {
	return func(t testing.TB) Backend { return d.apply(openMemory(t)) }
}

func (b *bent) context(ctx context.Context) context.Context {
	if b.bend.ctx != nil {
		return b.bend.ctx(ctx)
	}
	return ctx
}

// deliveries is the newest delivery of each id.
func (b *bent) deliveries() map[string]broker.Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.held)
}

// received is what a consumer got, and whether it started it.
func (c *bentConsumer) received(started bool) (ds []broker.Delivery) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for id, d := range c.mine {
		if c.b.started[id] == started {
			ds = append(ds, d)
		}
	}
	return ds
}

// on is what is bent, for hooks.
func (b *bent) on() broker.Broker { return b.Broker }

func (b *bent) Unwrap() broker.Broker { return b.Broker }

func (b *bent) Capabilities() broker.Capabilities {
	c := broker.CapabilitiesOf(b.Broker)
	if b.bend.caps != nil {
		return b.bend.caps(c)
	}
	return c
}

func (b *bent) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	ctx = b.context(ctx)
	if b.bend.publish != nil {
		return b.bend.publish(b, ctx, batch)
	}
	return b.Broker.Publish(ctx, batch)
}

// before bends what goes in.
func (b *bent) before(done []broker.Settlement, live []broker.Renewal) ([]broker.Settlement, []broker.Renewal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ss := append([]broker.Settlement(nil), done...)
	for i := range ss {
		if b.bend.settle != nil {
			ss[i] = b.bend.settle(b, ss[i])
		}
	}
	rs := append([]broker.Renewal(nil), live...)
	for i := range rs {
		if rs[i].Start {
			b.started[rs[i].Receipt.ID] = true
		}
		if b.bend.renew != nil {
			rs[i] = b.bend.renew(b, rs[i])
		}
	}
	return ss, rs
}

// after bends what comes back of it.
func (b *bent) after(done []broker.Settlement, settled []error, live []broker.Renewal, renewed []error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range settled {
		if b.bend.settled != nil {
			settled[i] = b.bend.settled(b, done[i], settled[i])
		}
	}
	for i := range renewed {
		if b.bend.renewed != nil {
			renewed[i] = b.bend.renewed(b, live[i], renewed[i])
		}
	}
}

func (b *bent) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	ss, _ := b.before(batch, nil)
	errs, err := b.Broker.Settle(b.context(ctx), ss)
	b.after(batch, errs, nil, nil)
	return errs, err
}

func (b *bent) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	_, rs := b.before(nil, batch)
	errs, err := b.Broker.Renew(b.context(ctx), rs)
	b.after(nil, nil, batch, errs)
	return errs, err
}

func (b *bent) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	infos, err := b.Broker.Queues(b.context(ctx), names...)
	if b.bend.queues != nil && err == nil {
		infos = b.bend.queues(names, infos)
	}
	return infos, err
}

func (b *bent) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	if b.bend.purge != nil {
		return b.bend.purge(b, b.context(ctx), p)
	}
	return b.Broker.Purge(b.context(ctx), p)
}

func (b *bent) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	if b.bend.revoke != nil {
		return b.bend.revoke(b, ctx, batch)
	}
	r, _ := broker.As[broker.Revoker](b.Broker)
	return r.Revoke(b.context(ctx), batch)
}

func (b *bent) Pause(ctx context.Context, batch []broker.Pause) error {
	if b.bend.pause != nil {
		return b.bend.pause(b, b.context(ctx), batch)
	}
	p, _ := broker.As[broker.Pauser](b.Broker)
	return p.Pause(b.context(ctx), batch)
}

func (b *bent) Resume(ctx context.Context, queues ...string) ([]bool, error) {
	if b.bend.resume != nil {
		return b.bend.resume(b, b.context(ctx), queues)
	}
	p, _ := broker.As[broker.Pauser](b.Broker)
	return p.Resume(b.context(ctx), queues...)
}

func (b *bent) Pauses(ctx context.Context) ([]broker.Pause, error) {
	p, _ := broker.As[broker.Pauser](b.Broker)
	list, err := p.Pauses(b.context(ctx))
	if b.bend.pauses != nil && err == nil {
		list = b.bend.pauses(list)
	}
	return list, err
}

func (b *bent) Revocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	l, _ := broker.As[broker.RevocationLister](b.Broker)
	list, next, err := l.Revocations(b.context(ctx), p)
	if b.bend.revs != nil && err == nil {
		list = b.bend.revs(list)
	}
	return list, next, err
}

func (b *bent) Holds(ctx context.Context, ids ...string) ([]bool, error) {
	o, _ := broker.As[broker.Owner](b.Broker)
	held, err := o.Holds(b.context(ctx), ids...)
	if b.bend.holds != nil && err == nil {
		held = b.bend.holds(ids, held)
	}
	return held, err
}

func (b *bent) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	p, _ := broker.As[broker.DeadImporter](b.Broker)
	letters := slices.Clone(batch)
	for i := range letters {
		if b.bend.imports != nil && letters[i].Envelope != nil {
			letters[i] = b.bend.imports(letters[i])
		}
	}
	errs, err := p.ImportDeadLetters(b.context(ctx), letters)
	if b.bend.known != nil && err == nil {
		b.bend.known(b, batch, errs)
	}
	return errs, err
}

func (b *bent) Close() error {
	if b.bend.end != nil {
		return b.bend.end(b)
	}
	return b.Broker.Close()
}

func (b *bent) DeadLetters() broker.DeadLetters { return bentDead{b} }

type bentDead struct{ b *bent }

func (d bentDead) ListDeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	b := d.b
	asked := f
	if b.bend.list != nil {
		f, p = b.bend.list(b, f, p)
	}
	list, next, err := b.Broker.DeadLetters().ListDeadLetters(b.context(ctx), f, p)
	if b.bend.listed != nil && err == nil {
		list = b.bend.listed(b, asked, list)
	}
	return list, next, err
}

func (d bentDead) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	if d.b.bend.replay != nil {
		return d.b.bend.replay(d.b, d.b.context(ctx), f, o)
	}
	return d.b.Broker.DeadLetters().ReplayDeadLetters(d.b.context(ctx), f, o)
}

func (d bentDead) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	if d.b.bend.drop != nil {
		return d.b.bend.drop(d.b, d.b.context(ctx), f, o)
	}
	return d.b.Broker.DeadLetters().PurgeDeadLetters(d.b.context(ctx), f, o)
}

// bentConsumer is a consumer of a bent broker.
type bentConsumer struct {
	broker.Consumer
	b     *bent
	lease time.Duration

	mine map[string]broker.Delivery // what it received

	flying, begun int  // exchanges
	met           bool // the last one and another
}

// overlappingConsumer takes two exchanges at once.
type overlappingConsumer struct{ *bentConsumer }

func (overlappingConsumer) MaxExchanges() int { return 2 }

func (c overlappingConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	c.b.mu.Lock()
	c.flying++
	c.begun++
	number := c.begun
	beside := c.flying > 1
	c.b.mu.Unlock()
	got, err := c.bentConsumer.Exchange(ctx, done, live, want)
	time.Sleep(time.Millisecond) // the others' chance to meet it
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.flying--
	if c.met = beside || c.begun > number; c.met && err == nil && c.b.bend.overlapped != nil {
		c.b.bend.overlapped(c.bentConsumer, &got)
	}
	return got, err
}

func (c overlappingConsumer) Wait(ctx context.Context, atMost time.Duration) error {
	c.b.mu.Lock()
	deaf := c.met && c.b.bend.deaf
	c.b.mu.Unlock()
	if !deaf {
		return c.bentConsumer.Wait(ctx, atMost)
	}
	select {
	case <-time.After(atMost):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bent) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	c, err := b.Broker.Open(b.context(ctx), s)
	if err != nil {
		return nil, err
	}
	bc := &bentConsumer{Consumer: c, b: b, lease: s.Lease, mine: make(map[string]broker.Delivery)}
	if b.bend.overlaps {
		return overlappingConsumer{bc}, nil
	}
	return bc, nil
}

func (c *bentConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	ss, rs := c.b.before(done, live)
	if c.b.bend.want != nil {
		want = c.b.bend.want(want)
	}
	got, err := c.Consumer.Exchange(c.b.context(ctx), ss, rs, want)
	if err != nil {
		return got, err
	}
	c.b.after(done, got.Settled, live, got.Renewed)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for _, d := range got.Deliveries {
		c.b.held[d.Receipt.ID], c.b.started[d.Receipt.ID] = d, false
		c.mine[d.Receipt.ID] = d
	}
	if c.b.bend.batch != nil {
		c.b.bend.batch(c.b, c, &got)
	}
	return got, nil
}

func (c *bentConsumer) Wait(ctx context.Context, atMost time.Duration) error {
	if c.b.bend.wait != nil {
		return c.b.bend.wait(ctx, c.Consumer, atMost)
	}
	return c.Consumer.Wait(c.b.context(ctx), atMost)
}

func (c *bentConsumer) Close(ctx context.Context) error {
	if c.b.bend.closed != nil {
		return c.b.bend.closed(ctx, c)
	}
	return c.Consumer.Close(ctx)
}
