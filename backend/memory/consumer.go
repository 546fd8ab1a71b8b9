package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// consumer receives for one worker. Its fields are guarded by DB.mu.
type consumer struct {
	tasks   *tasks
	sub     broker.Subscription
	entries []*selector // of sub.Queues, in their order

	wake    chan struct{} // one token: Wait is to return
	waiting bool          // Wait runs
	hungry  bool          // the last exchange wanted work
	idle    bool          // both, and not called yet
	revoked []broker.Revoked
	closed  bool
}

// Open starts a consumer; see broker.Broker.
func (t *tasks) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	if err := checkSubscription(s); err != nil {
		return nil, fmt.Errorf("open a consumer: %w", err)
	}
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, fmt.Errorf("open a consumer: %w", err)
	}
	defer t.db.leave()
	s.Queues = slices.Clone(s.Queues)
	c := &consumer{tasks: t, sub: s, wake: make(chan struct{}, 1), hungry: true}
	for _, text := range s.Queues {
		sel := t.db.selector(text)
		if !slices.Contains(c.entries, sel) {
			sel.consumers = append(sel.consumers, c)
		}
		c.entries = append(c.entries, sel)
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
	if s.Lease < 0 {
		return fmt.Errorf("%w lease %s: want a positive duration", task.ErrInvalid, s.Lease)
	}
	return nil
}

// Exchange settles, renews and receives; see broker.Consumer.
func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	db := c.tasks.db
	entries, err := c.order(want.Queues)
	if err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	now, err := c.enter(ctx)
	if err != nil {
		return broker.Batch{}, fmt.Errorf("exchange: %w", err)
	}
	defer db.leave()
	b := broker.Batch{Settled: db.settleAll(done, now), Renewed: db.renewAll(live, now), Revoked: c.news()}
	if want.Count > 0 {
		b.Deliveries = c.receive(entries, want, now)
	}
	c.hungry = want.Count > 0
	c.setIdle(c.waiting && c.hungry)
	if b.More = c.pending(); b.More {
		c.passOn()
	}
	b.Next = c.untilNext(now)
	return b, nil
}

func (c *consumer) enter(ctx context.Context) (time.Time, error) {
	now, err := c.tasks.db.enter(ctx, &c.tasks.closed)
	if err == nil && c.closed {
		c.tasks.db.leave()
		err = broker.ErrClosed
	}
	return now, err
}

// order returns the selectors in the order in which they are served this time.
func (c *consumer) order(queues []string) ([]*selector, error) {
	if queues == nil {
		return c.entries, nil
	}
	entries := make([]*selector, len(queues))
	for i, text := range queues {
		at := slices.Index(c.sub.Queues, text)
		if at < 0 {
			return nil, fmt.Errorf("%w order of queues: %q is not subscribed to", task.ErrInvalid, text)
		}
		entries[i] = c.entries[at]
	}
	return entries, nil
}

// news returns the revocations that the consumer does not know of yet.
func (c *consumer) news() []broker.Revoked {
	if len(c.revoked) == 0 {
		return nil
	}
	news := slices.DeleteFunc(c.revoked, func(r broker.Revoked) bool { return c.tasks.db.heldBy(r.Receipt) == nil })
	c.revoked = nil
	return news
}

// pending reports whether there are ready tasks for the consumer.
func (c *consumer) pending() bool {
	for _, s := range c.entries {
		if len(s.filled) > 0 {
			return true
		}
	}
	return false
}

// passOn wakes one more for each of the consumer's queues that has ready
// tasks, by whatever entry that one subscribes to it.
func (c *consumer) passOn() {
	for _, s := range c.entries {
		for _, q := range s.filled {
			if c.tasks.db.idle == 0 {
				return
			}
			q.wakeOne()
		}
	}
}

// fewQueues is up to how many queues of an entry are looked at one by one for
// Batch.Next; past it, the next moment of all queues stands for it.
const fewQueues = 64

// untilNext is the time until the next moment of the subscribed queues, 0 if
// there is none.
func (c *consumer) untilNext(now time.Time) time.Duration {
	next := int64(0)
	look := func(q *queue, at int64) {
		if q != nil && q.index >= 0 && (next == 0 || at < next) {
			next = at
		}
	}
	for _, s := range c.entries {
		if len(s.queues) > fewQueues {
			look(c.tasks.db.moments.top())
			continue
		}
		for _, q := range s.queues {
			look(q, q.moment)
		}
	}
	if next == 0 {
		return 0
	}
	return max(time.Duration(next-now.UnixNano()), 1)
}

// setIdle counts the consumer among those that may be woken for work, or not.
func (c *consumer) setIdle(idle bool) {
	if c.idle == idle {
		return
	}
	c.idle = idle
	if idle {
		c.tasks.db.idle++
	} else {
		c.tasks.db.idle--
	}
	for i, s := range c.entries {
		if slices.Index(c.entries, s) != i {
			continue // an entry given twice
		}
		if idle {
			s.idle++
		} else {
			s.idle--
		}
	}
}

// signal makes Wait return.
func (c *consumer) signal() {
	c.setIdle(false)
	select {
	case c.wake <- struct{}{}:
	default: // it is called already
	}
}

// Wait returns when there may be work or news; see broker.Consumer.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	if err := c.startWait(ctx); err != nil || !c.waiting {
		return err
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	var err error
	select {
	case <-c.wake:
	case <-timer.C:
	case <-ctx.Done():
		err = fmt.Errorf("wait for work: %w", ctx.Err())
	}
	return c.endWait(err)
}

// startWait leaves waiting unset when there is something to see already.
func (c *consumer) startWait(ctx context.Context) error {
	if _, err := c.enter(ctx); err != nil {
		return fmt.Errorf("wait for work: %w", err)
	}
	defer c.tasks.db.leave()
	if len(c.revoked) > 0 || c.hungry && c.pending() {
		return nil
	}
	select {
	case <-c.wake: // of an earlier wait that ended by itself
	default:
	}
	c.waiting = true
	c.setIdle(c.hungry)
	return nil
}

func (c *consumer) endWait(err error) error {
	db := c.tasks.db
	db.mu.Lock()
	defer db.mu.Unlock()
	c.waiting = false
	called := c.hungry && !c.idle
	c.setIdle(false)
	if c.closed || c.tasks.closed || db.closed {
		return fmt.Errorf("wait for work: %w", broker.ErrClosed)
	}
	if err != nil && called {
		c.passOn() // the call was for somebody who goes away
	}
	return err
}

// Close gives back what the consumer has not started; see broker.Consumer.
func (c *consumer) Close(ctx context.Context) error {
	db := c.tasks.db
	now, err := c.enter(ctx)
	if errors.Is(err, broker.ErrClosed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("close a consumer: %w", err)
	}
	defer db.leave()
	c.giveBack(now)
	c.end()
	if c.pending() {
		c.passOn()
	}
	c.leaveSelectors()
	return nil
}

func (c *consumer) leaveSelectors() {
	for i, s := range c.entries {
		if slices.Index(c.entries, s) == i {
			c.tasks.db.leaveSelector(s, c)
		}
	}
}

func (c *consumer) giveBack(now time.Time) {
	db := c.tasks.db
	for _, q := range db.queues {
		var unstarted []*record
		for _, e := range q.leases.entries {
			if e.item.holder == c && !e.item.started {
				unstarted = append(unstarted, e.item)
			}
		}
		for _, r := range unstarted {
			q.detach(r)
			db.letGo(r)
			if r.revocation() != nil {
				db.cancelRevoked(r, now)
			} else {
				db.ready(r, now.UnixNano())
			}
		}
		q.reschedule()
	}
}

// end ends the consumer's calls, but leaves what it holds.
func (c *consumer) end() {
	c.closed = true
	c.signal()
}
