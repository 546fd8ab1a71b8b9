// Package coalesce turns concurrent calls into batches: while one batch is
// under way the next one gathers, and leaves when the first has returned and
// those whom it served had a moment to come again. There is no timer, and a lone
// caller never waits for company.
package coalesce

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// Group batches calls of one kind. Flush must answer with one Out for each In,
// or with an error that all its callers get. Set the fields before the first
// Do. A Group is safe for concurrent use.
type Group[In, Out any] struct {
	// Flush processes one batch, and returns soon after its context has ended,
	// which it does when every caller of the batch has gone.
	Flush     func(ctx context.Context, batch []In) ([]Out, error)
	MaxCount  int // items of a batch; 0: 1000
	MaxWeight int // of a batch, but for its first item; 0: no bound

	yield func() // lets other goroutines run; nil: runtime.Gosched

	mu      sync.Mutex
	flying  bool
	waiting []*call[In, Out]
	flights sync.WaitGroup
	spare   sync.Pool // of *call: none that was abandoned

	// Of gather, which only who flies calls: how often in a row nobody came, and
	// after how many batches it waits again.
	misses, rest int
}

type call[In, Out any] struct {
	in     In
	weight int
	gone   func() error // the caller's context's Err
	out    Out
	err    error
	done   chan struct{} // has room for its one element
	// abandoned is set under Group.mu when the caller went away; leave then
	// counts the batch's callers down.
	abandoned bool
	leave     func()
}

// Do hands in one item, with its share of MaxWeight, and waits for its answer.
// When ctx ends first, Do returns its error and the item's fate is unknown,
// unless it had not left yet: then it never does.
func (g *Group[In, Out]) Do(ctx context.Context, in In, weight int) (out Out, sent bool, err error) {
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
	c := g.newCall(ctx, in, weight)
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()

	select {
	case <-c.done:
		out, err = c.out, c.err
		*c = call[In, Out]{done: c.done}
		g.spare.Put(c)
		return out, true, err
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

func (g *Group[In, Out]) newCall(ctx context.Context, in In, weight int) *call[In, Out] {
	c, ok := g.spare.Get().(*call[In, Out])
	if !ok {
		c = &call[In, Out]{done: make(chan struct{}, 1)}
	}
	c.in, c.weight, c.gone = in, weight, ctx.Err
	return c
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
		company := g.send(ctx, batch)
		cancel()
		g.gather(len(batch), company)
	}
}

// How long gather waits at most: so many yields, and so much time if each takes
// long. restMost is how many batches it lets leave at once, at most, when those who
// were served do not come again.
const (
	yields   = 16
	patience = 50 * time.Microsecond
	restMost = 63
)

// gather lets those who were served come again before the next batch leaves, if
// there was company: a steady crowd then flies together, and not as two halves that
// wait for each other. It waits until as many are there as were served and waited
// beside them. Where fewer than half of those that were served come, it soon tries
// no more than now and then.
func (g *Group[In, Out]) gather(served, company int) {
	crowd := min(served+company, g.most())
	if crowd < 2 || company >= crowd {
		return
	}
	if g.rest > 0 {
		g.rest--
		return
	}
	yield := g.yield
	if yield == nil {
		yield = runtime.Gosched
	}
	now := g.present()
	for began, n := time.Now(), 0; now < crowd && n < yields && time.Since(began) < patience; n++ {
		yield()
		now = g.present()
	}
	if 2*(now-company) >= served {
		g.misses = 0
		return
	}
	g.rest = min(1<<g.misses, restMost)
	g.misses = min(g.misses+1, 6)
}

// present is how many wait.
func (g *Group[In, Out]) present() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// most is how many items a batch has at most.
func (g *Group[In, Out]) most() int {
	if g.MaxCount <= 0 {
		return 1000
	}
	return g.MaxCount
}

// next takes the waiting calls that fit one batch, or ends the flight.
func (g *Group[In, Out]) next(cancel context.CancelFunc) []*call[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit, weight, taken := g.most(), 0, 0
	batch := make([]*call[In, Out], 0, min(len(g.waiting), limit))
	for _, c := range g.waiting {
		if c.abandoned || c.gone() != nil {
			taken++
			continue
		}
		weight += c.weight
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

// send sends a batch, and answers its callers. It returns how many others came
// meanwhile.
func (g *Group[In, Out]) send(ctx context.Context, batch []*call[In, Out]) (company int) {
	in := make([]In, len(batch))
	for i, c := range batch {
		in[i] = c.in
	}
	out, err := g.Flush(ctx, in)
	company = g.present()
	for i, c := range batch {
		if c.err = err; err == nil {
			c.out = out[i]
		}
		c.done <- struct{}{} // c is its caller's from here on
	}
	return company
}
