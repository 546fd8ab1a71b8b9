package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
)

// A consumer that waits costs a task two commits, one that stores it and one
// that leases it, and a commit waits for the disk. So whoever writes receives
// for one that waits, in the transaction that made the work ready, and puts
// what it leased into the consumer's hand: its next exchange takes it from
// there and writes nothing.
//
// What is in a hand is leased like anything else that was not started. It goes
// back in place if its consumer closes, gives up waiting, or has no room for it
// any more.

// hand is what was received for a waiting consumer.
type hand struct {
	exchanged
	at time.Time // when its leases began
}

// beServed lets the writer receive for the consumer, if it waits and has room.
// It then counts as busy until it was served.
func (c *consumer) beServed(queue string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || !c.waiting || !c.hungry || c.room.Count <= 0 || c.serving != nil || c.hand != nil || !matchAny(c.sub.Queues, queue) {
		return false
	}
	c.waiting, c.serving = false, make(chan struct{})
	return true
}

// served ends what beServed began: with a hand, or nil. It wakes the consumer.
func (c *consumer) served(h *hand) {
	c.mu.Lock()
	c.hand = h
	close(c.serving)
	c.serving = nil
	c.mu.Unlock()
	signal(c.token)
}

// takeHand takes what the consumer was served, if it was; a transaction that
// serves it just now is awaited, which is a matter of milliseconds.
func (c *consumer) takeHand() *hand {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.serving != nil {
		serving := c.serving
		c.mu.Unlock()
		<-serving
		c.mu.Lock()
	}
	h := c.hand
	c.hand = nil
	return h
}

// waiterFor finds a consumer here that waits for one of the queue's tasks, and
// that is served from now on.
func (h *hub) waiterFor(queue string) *consumer {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.consumers {
		if c.beServed(queue) {
			return c
		}
	}
	return nil
}

// serve receives for a consumer of each queue that got ready tasks.
func (t *tx) serve() error {
	for queue, n := range t.woken {
		if n <= 0 {
			continue
		}
		name, err := t.queueName(queue)
		if err != nil {
			return err
		}
		c := t.db.hub.waiterFor(name)
		if c == nil {
			continue
		}
		h := &hand{at: time.UnixMilli(t.now)}
		t.served = append(t.served, service{c, h})
		if err := t.receive(c.selection(c.space()), &h.exchanged); err != nil {
			return fmt.Errorf("receive for a waiting consumer: %w", err)
		}
	}
	return nil
}

// service is a consumer with what it was served in a transaction.
type service struct {
	consumer *consumer
	hand     *hand
}

// handOut tells the consumers that were served, once the commit is known to
// have succeeded or failed, and reports whether there were any.
func (t *tx) handOut(committed bool) bool {
	some := len(t.served) > 0
	for _, s := range t.served {
		if !committed || len(s.hand.taken) == 0 {
			s.hand = nil
		}
		s.consumer.served(s.hand)
	}
	t.served = nil
	return some
}

// queueName is the name of a queue that this transaction may have added.
func (t *tx) queueName(id int64) (string, error) {
	for name, n := range t.queues {
		if n == id {
			return name, nil
		}
	}
	return t.db.names.queue(t.conn, id)
}

// space is what the consumer has room for while it waits.
func (c *consumer) space() broker.Want {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.room
}

// setRoom notes what an exchange left of what was wanted.
func (c *consumer) setRoom(want broker.Want, got []broker.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hungry = len(got) < want.Count
	c.room = less(want, got)
}

// less is what is still wanted after some of it was got.
func less(want broker.Want, got []broker.Delivery) broker.Want {
	want.Count -= len(got)
	if want.Bytes == 0 {
		return want
	}
	for i := range got {
		want.Bytes -= got[i].Size
	}
	if want.Bytes <= 0 {
		want.Count, want.Bytes = 0, 1
	}
	return want
}

// unpack returns what of a hand the consumer wants now; the rest, and what
// lay in it for half its lease, goes back.
func (c *consumer) unpack(ctx context.Context, h *hand, want broker.Want) []broker.Delivery {
	if h == nil {
		return nil
	}
	all := deliveries(h.taken)
	elapsed := max(time.Since(h.at), 0)
	keep, bytes := 0, want.Bytes
	for i := range all {
		bytes -= all[i].Size
		if i >= want.Count || i > 0 && want.Bytes > 0 && bytes < 0 || elapsed > all[i].Lease/2 {
			break
		}
		all[i].Lease -= elapsed
		keep++
	}
	if h.next > 0 {
		h.next = max(h.next-elapsed, 100*time.Microsecond)
	}
	c.note(all[:keep], h.taken)
	if keep == len(all) {
		return all
	}
	var back []broker.Receipt
	for i := keep; i < len(all); i++ {
		back = append(back, all[i].Receipt)
	}
	h.more = true
	if err := c.putBack(ctx, back); err != nil {
		c.db.log.Warn("give back what a consumer has no room for", "worker", c.sub.Worker, "error", err)
	}
	return all[:keep]
}

// keepHand puts back what an exchange had taken from its hand before it failed:
// else nobody would know of it until its leases end.
func (c *consumer) keepHand(h *hand, n int) {
	if n == 0 {
		return
	}
	h.taken = h.taken[:n]
	c.mu.Lock()
	c.hand = h
	c.mu.Unlock()
	signal(c.token)
}

// dropHand gives back what a consumer was served that will not exchange.
func (c *consumer) dropHand(ctx context.Context) {
	if h := c.takeHand(); h != nil {
		c.unpack(ctx, h, broker.Want{})
	}
}

// putBackTime bounds how long a consumer that ends tries to give back.
const putBackTime = 5 * time.Second

// putBack gives deliveries back, in place and uncounted, also when ctx has
// ended.
func (c *consumer) putBack(ctx context.Context, receipts []broker.Receipt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	return c.db.giveBackAll(ctx, receipts)
}

func (db *DB) giveBackAll(ctx context.Context, receipts []broker.Receipt) error {
	return db.write(ctx, func(t *tx) error {
		for _, r := range receipts {
			if err := t.giveBack(r); err != nil {
				return fmt.Errorf("give back %s: %w", r, err)
			}
		}
		return nil
	})
}
