package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// consumer implements broker.Consumer.
type consumer struct {
	b      *Broker
	sub    broker.Subscription
	seen   int64 // Broker.news at the last look
	closed bool
}

// Open implements broker.Broker.
func (b *Broker) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	if len(s.Queues) == 0 {
		return nil, fmt.Errorf("%w subscription: it names no queue", task.ErrInvalid)
	}
	for _, q := range s.Queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q, "*", "x")); err != nil {
			return nil, err
		}
	}
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	s.Queues = slices.Clone(s.Queues)
	return &consumer{b: b, sub: s}, nil
}

func (c *consumer) enter(ctx context.Context) error {
	err := c.b.enter(ctx)
	if err == nil && c.closed {
		c.b.mu.Unlock()
		err = broker.ErrClosed
	}
	return err
}

// Exchange implements broker.Consumer.
func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	if err := c.enter(ctx); err != nil {
		return broker.Batch{}, err
	}
	defer c.b.mu.Unlock()
	batch := broker.Batch{Settled: c.b.settleAll(done), Renewed: c.b.renewAll(live)}
	queues := want.Queues
	if queues == nil {
		queues = c.sub.Queues
	}
	now := time.Now()
	c.b.takeBack(now)
	c.seen = c.b.news
	bytes := 0
	for _, e := range c.ready(queues, now) {
		full := len(batch.Deliveries) > 0 && want.Bytes > 0 && bytes+e.size > want.Bytes
		if len(batch.Deliveries) >= want.Count || full {
			batch.More = true
			break
		}
		batch.Deliveries = append(batch.Deliveries, c.lease(e, now))
		bytes += e.size
	}
	batch.Next = c.next(now)
	return batch, nil
}

// takeBack makes the tasks whose lease has ended ready. Their receipts stay
// good until somebody takes them: only that raises the epoch.
func (b *Broker) takeBack(now time.Time) {
	for _, e := range b.entries {
		if e.place == leased && !e.until.After(now) && !e.ended {
			e.ended, e.redelivered, e.readySince = true, true, e.until
		}
	}
}

// ready lists what may be taken, in the order of the queues, then of
// publication.
func (c *consumer) ready(queues []string, now time.Time) []*entry {
	var found []*entry
	listed := make(map[*entry]bool)
	for _, q := range queues {
		list := c.b.inOrder(func(e *entry) bool {
			return e.waits() && !e.due.After(now) && broker.Match(q, e.queue) && !listed[e]
		})
		for _, e := range list {
			listed[e] = true
		}
		found = append(found, list...)
	}
	return found
}

func (c *consumer) lease(e *entry, now time.Time) broker.Delivery {
	e.place, e.holder, e.started, e.ended = leased, c, false, false
	e.epoch = c.b.tick()
	e.lease = c.sub.LeaseOf(e.envelope)
	e.until = now.Add(e.lease)
	return broker.Delivery{
		Receipt:  broker.Receipt{ID: e.envelope.ID, Epoch: e.epoch},
		Envelope: e.envelope, Queue: e.queue, Size: e.size, Lease: e.lease,
		Attempt: e.attempt, RetryBase: e.retryBase, Starts: e.starts,
		Redelivered: e.redelivered, NotBefore: e.due, Replays: e.replays,
	}
}

// next is how long until something in the subscribed queues is due, or a lease
// in them ends.
func (c *consumer) next(now time.Time) time.Duration {
	var next time.Duration
	for _, e := range c.b.entries {
		at := e.due
		if e.place == leased {
			at = e.until
		}
		if e.place == dead || !at.After(now) || !c.subscribed(e.queue) {
			continue
		}
		if wait := at.Sub(now); next == 0 || wait < next {
			next = wait
		}
	}
	return next
}

func (c *consumer) subscribed(queue string) bool {
	return slices.ContainsFunc(c.sub.Queues, func(q string) bool { return broker.Match(q, queue) })
}

// Wait implements broker.Consumer.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	missed := c.seen != c.b.news
	c.seen = c.b.news
	changed := c.b.changed
	c.b.mu.Unlock()
	if missed || atMost <= 0 {
		return nil
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.enter(ctx); err != nil {
		return err
	}
	c.b.mu.Unlock()
	return nil
}

// Close implements broker.Consumer.
func (c *consumer) Close(ctx context.Context) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.b.mu.Unlock()
	c.closed = true
	for _, e := range c.b.entries {
		if e.place == leased && e.holder == c && !e.started {
			c.b.putBack(e)
		}
	}
	c.b.wake()
	return nil
}
