package runner_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// farBroker is a store that is a millisecond away, and whose consumers take two
// exchanges at once, or one.
type farBroker struct {
	exchanges int // that a consumer takes
	took      time.Duration

	mu     sync.Mutex
	flying int
	most   int // that were under way at once
	mixed  int // those with renewals that another was under way beside
	live   int // renewals under way
	turned int // those whose order of queues changed meanwhile
	met    sync.Once
	two    chan struct{} // closed when two are under way for the first time
}

type farConsumer struct {
	broker.Consumer
	b *farBroker
}

func (c *farConsumer) MaxExchanges() int { return c.b.exchanges }

func (c *farConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	c.b.mu.Lock()
	c.b.flying++
	c.b.live += len(live)
	if c.b.most = max(c.b.most, c.b.flying); c.b.most == 2 {
		c.b.met.Do(func() { close(c.b.two) })
	}
	if c.b.flying > 1 && c.b.live > 0 {
		c.b.mixed++
	}
	c.b.mu.Unlock()
	order := slices.Clone(want.Queues)
	defer func() {
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		c.b.flying--
		c.b.live -= len(live)
		if !slices.Equal(order, want.Queues) {
			c.b.turned++
		}
	}()
	time.Sleep(c.b.took)
	got, err := c.Consumer.Exchange(ctx, done, live, want)
	time.Sleep(c.b.took)
	if ctx.Err() != nil {
		return broker.Batch{}, ctx.Err()
	}
	return got, err
}

// far puts the rig's broker far away. Its backlog of tasks "quick" takes half a
// millisecond each, for fifty isolates.
func far(g *rig, exchanges int) *farBroker {
	b := &farBroker{exchanges: exchanges, took: time.Millisecond, two: make(chan struct{})}
	g.broker.wrap = func(c broker.Consumer) broker.Consumer { return &farConsumer{Consumer: c, b: b} }
	g.cfg.Concurrency = 50
	g.handle("quick", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
		select {
		case <-time.After(time.Millisecond / 2):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return b
}

func backlog(g *rig, n int) (ids []string) {
	for range n {
		ids = append(ids, g.publish("quick"))
	}
	return ids
}

func TestExchangesOverlapUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := far(g, 2)
		g.handle("long", func(context.Context, *runner.Job) (json.RawMessage, error) {
			time.Sleep(time.Second) // its start is reported meanwhile
			return nil, nil
		})
		long := g.publish("long")
		ids := backlog(g, 5000)
		g.start()
		after(2 * time.Second)
		for _, id := range append(ids, long) {
			g.want(id, task.Succeeded)
		}
		if b.most != 2 {
			t.Errorf("%d exchanges were under way at once, want 2", b.most)
		}
		if b.mixed > 0 {
			t.Errorf("%d exchanges were under way beside one with renewals", b.mixed)
		}
		settled := map[string]int{}
		for _, s := range g.broker.settlements() {
			settled[s.Receipt.ID]++
		}
		for id, n := range settled {
			if n != 1 {
				t.Errorf("the outcome of %s was sent %d times", id, n)
			}
		}
	})
}

func TestOneExchangeAtATimeWhereTheConsumerTakesNoMore(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := far(g, 1)
		ids := backlog(g, 1000)
		g.start()
		after(2 * time.Second)
		for _, id := range ids {
			g.want(id, task.Succeeded)
		}
		if b.most != 1 {
			t.Errorf("%d exchanges were under way at once, want 1", b.most)
		}
	})
}

// Whatever fails of two exchanges, before or after it took place, every outcome is
// stored, and once.
func TestOverlappingExchangesFail(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := far(g, 2)
		calls := 0
		sometimes := func() error {
			if calls++; calls%31 == 0 {
				return errAway
			}
			return nil
		}
		g.broker.fail, g.broker.failAfter = sometimes, sometimes
		ids := backlog(g, 3000)
		g.start()
		after(time.Minute)
		for _, id := range ids {
			if s := g.want(id, task.Succeeded); s.Attempt > 1 {
				t.Errorf("%s took %d attempts", id, s.Attempt)
			}
		}
		if b.most != 2 {
			t.Errorf("%d exchanges were under way at once, want 2", b.most)
		}
	})
}

// A stop while exchanges are under way does not return before they have, and a warm
// one gives back what they bring.
func TestStopWhileExchangesOverlap(t *testing.T) {
	for _, mode := range []runner.Mode{runner.Warm, runner.Hard} {
		inBubble(t, func(t *testing.T, g *rig) {
			b := far(g, 2)
			backlog(g, 5000)
			g.start()
			select {
			case <-b.two:
			case <-time.After(time.Minute):
				t.Fatal("no two exchanges were under way at once")
			}
			g.runner.Shutdown(mode)
			g.wait()
			if b.flying != 0 {
				t.Errorf("mode %v: Run returned while %d exchanges were under way", mode, b.flying)
			}
			info, err := g.broker.Queues(t.Context(), "default")
			if err != nil {
				t.Fatal(err)
			}
			report := g.runner.Report()
			if mode == runner.Warm && (info[0].Leased != 0 || report.Abandoned != 0) {
				t.Errorf("after a warm stop %d are leased, and the report is %+v", info[0].Leased, report)
			}
		})
	}
}
