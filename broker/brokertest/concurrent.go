package brokertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// crowd is what several producers and consumers share.
type crowd struct {
	mu    sync.Mutex
	seen  map[string]int // deliveries, by id
	ended atomic.Int64
	total int64
	done  context.CancelFunc
}

func (w *crowd) count(d broker.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[d.Envelope.ID]++
}

// testB30: many at once lose nothing and get nothing twice.
func testB30(e *env) {
	const producers, batches, size, consumers = 4, 10, 10, 3
	ctx, done := context.WithCancel(e.ctx)
	defer done()
	w := &crowd{seen: make(map[string]int), total: producers * batches * size, done: done}
	handles := []*env{e, e}
	if e.has(broker.PowerShared) {
		handles[1] = e.again()
	}
	var wg sync.WaitGroup
	for i := range consumers {
		h := handles[i%2]
		c := h.open("q*")
		wg.Go(func() { w.consume(ctx, h, c) })
	}
	for i := range producers {
		h := handles[i%2]
		wg.Go(func() { w.produce(ctx, h, i, batches, size) })
	}
	wg.Go(func() { w.look(ctx, e) })
	wg.Wait()
	if got := w.ended.Load(); got != w.total {
		e.Errorf("%d of %d tasks were executed before the time was up", got, w.total)
	}
	for id, n := range w.seen {
		if n != 1 {
			e.Errorf("%s was delivered %d times under long leases", id, n)
		}
	}
	for i := range 3 {
		e.counts(fmt.Sprintf("q%d", i), 0, 0, 0, 0)
	}
}

// produce publishes every batch, some of them twice: where statuses are kept,
// so that the second finds the ids though their tasks may have ended.
func (w *crowd) produce(ctx context.Context, e *env, producer, batches, size int) {
	for b := range batches {
		var batch []broker.Publication
		for i := range size {
			id := fmt.Sprintf("p%d-%d-%d", producer, b, i)
			batch = append(batch, broker.Publication{Envelope: envelope(id, onQueue(fmt.Sprintf("q%d", i%3)), priority(i%10))})
		}
		times := 1 + b%2
		if e.Results == nil {
			times = 1
		}
		for range times {
			if _, err := e.Broker.Publish(ctx, batch); err != nil && ctx.Err() == nil {
				e.Errorf("Publish beside others: %v", err)
				return
			}
		}
	}
}

// consume works like a worker: it settles what it got with the next exchange,
// keeping statuses so that a repeated publication finds the id, and renews now
// and then.
func (w *crowd) consume(ctx context.Context, e *env, c *consumer) {
	var held []broker.Delivery
	for ctx.Err() == nil {
		var done []broker.Settlement
		var live []broker.Renewal
		for i, d := range held {
			if i%4 == 0 {
				live = append(live, broker.Renewal{Receipt: d.Receipt, Start: true})
			}
			done = append(done, settlement(d, task.Succeeded))
		}
		if _, err := c.Exchange(ctx, nil, live, broker.Want{}); err != nil {
			w.complain(ctx, e, "Exchange of renewals", err)
			return
		}
		b, err := c.Exchange(ctx, done, nil, broker.Want{Count: 7})
		if err != nil {
			w.complain(ctx, e, "Exchange", err)
			return
		}
		for _, err := range b.Settled {
			w.complain(ctx, e, "a settlement", err)
		}
		if w.ended.Add(int64(len(done))) >= w.total {
			w.done()
		}
		held = b.Deliveries
		for _, d := range held {
			w.count(d)
		}
		if len(held) == 0 {
			if err := c.Wait(ctx, 50*time.Millisecond); err != nil {
				w.complain(ctx, e, "Wait", err)
				return
			}
		}
	}
}

// complain reports an error that is not the end of the test.
func (w *crowd) complain(ctx context.Context, e *env, what string, err error) {
	if err != nil && ctx.Err() == nil {
		e.Errorf("%s beside others: %v", what, err)
	}
}

// look reads what there is to read, until the others are done.
func (w *crowd) look(ctx context.Context, e *env) {
	for ctx.Err() == nil {
		_, err := e.Broker.Queues(ctx)
		w.complain(ctx, e, "Queues", err)
		_, _, err = e.Broker.DeadLetters().ListDeadLetters(ctx, broker.DeadFilter{}, broker.Page{})
		w.complain(ctx, e, "ListDeadLetters", err)
		if e.Results != nil {
			_, err = e.Results.Get(ctx, "p0-0-0", "p1-0-0")
			w.complain(ctx, e, "Get", err)
		}
		time.Sleep(poll)
	}
}
