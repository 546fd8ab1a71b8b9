package pair

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// consumer receives for one worker, and brings what it settles and renews to
// both stores.
type consumer struct {
	j      *Joined
	inner  broker.Consumer
	worker string
}

// Open starts a consumer: see broker.Broker.
func (j *Joined) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	c, err := j.inner.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	return &consumer{j: j, inner: c, worker: s.Worker}, nil
}

// Exchange records what is done, exchanges with the broker, and writes what
// follows. While the result store is away it settles nothing, each settlement
// being ErrUnavailable, and receives nothing new; it still renews, also what it
// could not settle, so that nobody executes that again.
func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	j := c.j
	j.catchUp(ctx)
	items, asked := j.items(done), len(live)
	if err := j.record(ctx, items); err != nil {
		if ctx.Err() != nil {
			return broker.Batch{}, err
		}
		live = slices.Clone(live)
		for i := range items {
			items[i].err = unavailable(err)
			live = append(live, broker.Renewal{Receipt: done[i].Receipt})
		}
		want.Count = 0
	}
	beats, renewals := j.beats(live)
	forward := forwarded(items)
	began := time.Now()
	b, err := c.inner.Exchange(ctx, forward, renewals, want)
	if err == nil && (len(b.Settled) != len(forward) || len(b.Renewed) != len(live)) {
		err = errContract
	}
	if err != nil {
		j.allUnsettled(items)
		return broker.Batch{}, err
	}
	j.hold(c, b.Deliveries, began)
	c.told(b.Revoked)
	j.settled(ctx, items, b.Settled)
	j.renewed(ctx, beats, b.Renewed, began, false)
	b.Settled, b.Renewed = answers(items), b.Renewed[:asked]
	return b, nil
}

// revokedKeep is how long the status of a revoked task is kept when this process
// was told of the revocation by the broker, and not for how long.
const revokedKeep = 24 * time.Hour

// told remembers what was revoked, and gives the receipts the form in which
// they were handed out.
func (c *consumer) told(revoked []broker.Revoked) {
	if len(revoked) == 0 {
		return
	}
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	for i := range revoked {
		r := &revoked[i]
		h := c.j.held[keyOf(r.Receipt)]
		if h == nil {
			continue
		}
		r.Receipt = h.receipt
		if h.revoked == nil {
			h.revoked = &broker.Revocation{ID: r.Receipt.ID, Terminate: r.Terminate, Reason: r.Reason, Keep: revokedKeep}
		}
	}
}

// Wait returns when there may be work: see broker.Consumer.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	return c.inner.Wait(ctx, atMost)
}

// Close gives back what has not started. What may be recorded and is not settled
// is settled first: given back, it would be taken for a task that never ran,
// and executed again. When that fails nothing is given back, and the leases end
// by themselves.
func (c *consumer) Close(ctx context.Context) error {
	j := c.j
	items := j.unconfirmed(c)
	err := j.record(ctx, items)
	if err == nil {
		err = j.finish(ctx, items)
	}
	if err != nil {
		return fmt.Errorf("settle %d outcomes: %w", len(items), err)
	}
	j.forget(c)
	j.catchUp(ctx)
	return c.inner.Close(ctx)
}

// unconfirmed lists the outcomes of a consumer that may be recorded and that the
// broker has not confirmed, and what it holds that was revoked and has not started, as
// cancelled.
func (j *Joined) unconfirmed(c *consumer) []item {
	j.mu.Lock()
	defer j.mu.Unlock()
	var items []item
	for k, h := range j.held {
		if h.by != c {
			continue
		}
		it := item{key: k, held: *h}
		switch {
		case h.settling != nil:
			it.Settlement, it.stored = *h.settling, h.stored
			it.Receipt, it.attempt, it.replays = unmark(h.receipt)
		case h.revoked != nil && !h.counted:
			it.Receipt, it.attempt, it.replays = unmark(h.receipt)
			it.Outcome = task.Outcome{State: task.Queued, Attempt: it.attempt, Worker: c.worker, EndedAt: time.Now().UTC()}
			it.revoke()
		default:
			continue
		}
		items = append(items, it)
	}
	return items
}
