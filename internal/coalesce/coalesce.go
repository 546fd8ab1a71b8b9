// Package coalesce turns concurrent calls into batches: while one batch is
// under way the next one gathers, and leaves when the first has returned.
// There is no timer, so a lone caller never waits for company.
package coalesce

import (
	"context"
	"sync"
)

// Group batches calls of one kind. Flush must answer with one Out for each In,
// or with an error that all its callers get. Set the fields before the first
// Do. A Group is safe for concurrent use.
type Group[In, Out any] struct {
	// Flush processes one batch, and returns soon after its context has ended,
	// which it does when every caller of the batch has gone.
	Flush func(ctx context.Context, batch []In) ([]Out, error)
	// Weigh is an item's share of MaxWeight; nil: none.
	Weigh     func(In) int
	MaxCount  int // items of a batch; 0: 1000
	MaxWeight int // of a batch, but for its first item; 0: no bound

	mu      sync.Mutex
	flying  bool
	waiting []*call[In, Out]
	flights sync.WaitGroup
}

type call[In, Out any] struct {
	in   In
	gone func() error // the caller's context's Err
	out  Out
	err  error
	done chan struct{}
	// abandoned is set under Group.mu when the caller went away; leave then
	// counts the batch's callers down.
	abandoned bool
	leave     func()
}

// Do hands in one item and waits for its answer. When ctx ends first, Do
// returns its error and the item's fate is unknown, unless it had not left
// yet: then it never does.
func (g *Group[In, Out]) Do(ctx context.Context, in In) (out Out, sent bool, err error) {
	if err := ctx.Err(); err != nil {
		return out, false, err
	}
	g.mu.Lock()
	if !g.flying {
		g.flying = true
		g.flights.Add(1)
		g.mu.Unlock()
		return g.alone(ctx, in)
	}
	c := &call[In, Out]{in: in, gone: ctx.Err, done: make(chan struct{})}
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()

	select {
	case <-c.done:
		return c.out, true, c.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c.abandoned = true
	if c.leave == nil {
		return out, false, ctx.Err()
	}
	c.leave()
	return out, true, ctx.Err()
}

// alone sends the batch of a caller that finds none under way, which is its item
// alone, without waking anybody for it. Who has come meanwhile flies next.
func (g *Group[In, Out]) alone(ctx context.Context, in In) (out Out, sent bool, err error) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.waiting) > 0 {
			go g.fly()
			return
		}
		g.flying = false
		g.flights.Done()
	}()
	outs, err := g.Flush(ctx, []In{in})
	if err == nil {
		out = outs[0]
	}
	return out, true, err
}

// Wait returns when no batch is under way. Call it after the last Do.
func (g *Group[In, Out]) Wait() { g.flights.Wait() }

// fly sends batch after batch until nobody waits.
func (g *Group[In, Out]) fly() {
	defer g.flights.Done()
	for {
		ctx, cancel := context.WithCancel(context.Background())
		batch := g.next(cancel)
		if len(batch) == 0 {
			cancel()
			return
		}
		g.send(ctx, batch)
		cancel()
	}
}

// next takes the waiting calls that fit one batch, or ends the flight.
func (g *Group[In, Out]) next(cancel context.CancelFunc) []*call[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := g.MaxCount
	if limit <= 0 {
		limit = 1000
	}
	var batch []*call[In, Out]
	weight, taken := 0, 0
	for _, c := range g.waiting {
		if c.abandoned || c.gone() != nil {
			taken++
			continue
		}
		if g.Weigh != nil {
			weight += g.Weigh(c.in)
		}
		if len(batch) == limit || len(batch) > 0 && g.MaxWeight > 0 && weight > g.MaxWeight {
			break
		}
		batch = append(batch, c)
		taken++
	}
	rest := copy(g.waiting, g.waiting[taken:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]

	present := len(batch)
	leave := func() { // called under g.mu
		if present--; present == 0 {
			cancel()
		}
	}
	for _, c := range batch {
		c.leave = leave
	}
	g.flying = len(batch) > 0
	return batch
}

func (g *Group[In, Out]) send(ctx context.Context, batch []*call[In, Out]) {
	in := make([]In, len(batch))
	for i, c := range batch {
		in[i] = c.in
	}
	out, err := g.Flush(ctx, in)
	for i, c := range batch {
		if c.err = err; err == nil {
			c.out = out[i]
		}
		close(c.done)
	}
}
