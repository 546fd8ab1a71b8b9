package brokertest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testP6: exchanges of one consumer that overlap.
func testP6(e *env) {
	c := e.open("over")
	if o, ok := c.Consumer.(broker.Overlapping); !ok || o.MaxExchanges() < 2 {
		return
	}
	c.overlapOnce(e)
	c.overlapRevoked(e)
	c.overlapThenWait(e)
}

// both makes two exchanges at once.
func (c *consumer) both(a, b func() broker.Batch) (broker.Batch, broker.Batch) {
	var first, second broker.Batch
	var wg sync.WaitGroup
	wg.Go(func() { first = a() })
	wg.Go(func() { second = b() })
	wg.Wait()
	return first, second
}

// taking is an exchange that settles and takes, for both. What goes wrong is told
// here, since only a test's own goroutine may end it.
func (c *consumer) taking(done []broker.Settlement, n int) func() broker.Batch {
	return func() broker.Batch {
		b, err := c.Exchange(c.e.ctx, done, nil, broker.Want{Count: n})
		if err != nil {
			c.e.Errorf("Exchange beside another: %v", err)
		}
		if len(b.Settled) != len(done) {
			c.e.Errorf("Exchange beside another answered %d of %d settlements", len(b.Settled), len(done))
		}
		for _, err := range b.Settled {
			if err != nil {
				c.e.Errorf("a settlement beside another exchange: %v", err)
			}
		}
		return b
	}
}

// overlapOnce: a backlog is worked off by exchanges in pairs, each task once.
func (c *consumer) overlapOnce(e *env) {
	const tasks, most = 60, 4
	var ids []string
	for i := range tasks {
		ids = append(ids, fmt.Sprintf("over-%02d", i))
	}
	for _, id := range ids {
		e.publish(envelope(id, onQueue("over")))
	}
	seen := make(map[string]int)
	var held [2][]broker.Settlement
	for range tasks { // many more pairs than it needs
		a, b := c.both(c.taking(held[0], most), c.taking(held[1], most))
		for i, batch := range []broker.Batch{a, b} {
			held[i] = nil
			for _, d := range batch.Deliveries {
				seen[d.Receipt.ID]++
				held[i] = append(held[i], settlement(d, task.Succeeded))
			}
		}
		if len(held[0])+len(held[1]) == 0 {
			break
		}
	}
	for _, id := range ids {
		if seen[id] != 1 {
			e.Errorf("%s was delivered %d times by exchanges that overlap", id, seen[id])
		}
	}
	e.counts("over", 0, 0, 0, 0)
}

// overlapRevoked: a revocation is told, whichever of two exchanges hears of it.
func (c *consumer) overlapRevoked(e *env) {
	r, ok := broker.As[broker.Revoker](e.Broker)
	if !ok {
		return
	}
	for round := range 20 {
		var asks []broker.Revocation
		for i := range 4 {
			id := fmt.Sprintf("over-revoked-%d-%d", round, i)
			e.publish(envelope(id, onQueue("over")))
			asks = append(asks, broker.Revocation{ID: id, Terminate: true, Keep: long})
		}
		var answers []broker.RevokeAnswer
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { answers, err = r.Revoke(e.ctx, asks) })
		a, b := c.both(c.taking(nil, 4), c.taking(nil, 4*(round%2)))
		wg.Wait()
		if err != nil || len(answers) != len(asks) {
			e.Fatalf("Revoke beside exchanges: %d answers, error %v", len(answers), err)
		}
		held := slices.Concat(a.Deliveries, b.Deliveries)
		last := c.exchange(nil, nil, broker.Want{})
		told := slices.Concat(a.Revoked, b.Revoked, last.Revoked)
		var done []broker.Settlement
		for i, ask := range asks {
			at := slices.IndexFunc(held, func(d broker.Delivery) bool { return d.Receipt.ID == ask.ID })
			asked := answers[i].State == broker.RevokeAsked
			if asked != (at >= 0) {
				e.Errorf("revoking %s beside exchanges: got %+v, delivered: %t", ask.ID, answers[i], at >= 0)
			}
			if at < 0 {
				continue
			}
			if !slices.ContainsFunc(told, func(v broker.Revoked) bool { return v.Receipt == held[at].Receipt && v.Terminate }) {
				e.Errorf("%s was revoked beside two exchanges, and none of them told of it, nor the next", ask.ID)
			}
			done = append(done, settlement(held[at], task.Cancelled))
		}
		c.exchange(done, nil, broker.Want{})
	}
}

// overlapThenWait: after two exchanges that found room for more, a wait is woken.
func (c *consumer) overlapThenWait(e *env) {
	for round := range 5 {
		e.publish(envelope(fmt.Sprintf("over-first-%d", round), onQueue("over")))
		a, b := c.both(c.taking(nil, 2), c.taking(nil, 2))
		for _, d := range slices.Concat(a.Deliveries, b.Deliveries) {
			e.settle(d, task.Succeeded)
		}
		id := fmt.Sprintf("over-next-%d", round)
		woken := make(chan error, 1)
		go func() { woken <- c.Wait(e.ctx, long) }()
		time.Sleep(poll)
		e.publish(envelope(id, onQueue("over")))
		deadline := time.Now().Add(idle)
		var got []broker.Delivery
		for len(got) == 0 {
			select {
			case err := <-woken:
				if err != nil {
					e.Fatalf("Wait after exchanges that overlapped: %v", err)
				}
			case <-time.After(time.Until(deadline)):
				e.Fatalf("after exchanges that overlapped nobody was woken for %s", id)
			}
			if got = c.take(1); len(got) == 0 {
				go func() { woken <- c.Wait(e.ctx, long) }()
			}
		}
		e.settle(got[0], task.Succeeded)
	}
}
