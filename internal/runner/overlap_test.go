package runner_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// No other exchange is under way beside one with renewals, however long the load
// lasts, and of two each has a share of the bytes. Weighted queues are served in an
// order that stays as it was while the exchange is under way.
func TestWhatOverlappingExchangesAskFor(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := far(g, 2)
		g.cfg.Queues = []runner.Queue{{Name: "default", Weight: 1}, {Name: "other", Weight: 1}}
		g.handle("long", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			for i := range 25 {
				time.Sleep(10 * time.Millisecond)
				j.Progress(float64(4*i), nil)
			}
			return nil, nil
		})
		for range 5 {
			g.publish("long")
		}
		backlog(g, 15_000)
		g.start()
		after(2 * time.Second)
		if b.most != 2 {
			t.Errorf("%d exchanges were under way at once, want 2", b.most)
		}
		if b.mixed > 0 {
			t.Errorf("%d exchanges were under way beside one with renewals", b.mixed)
		}
		if b.turned > 0 {
			t.Errorf("the order of queues changed during %d exchanges", b.turned)
		}
		for _, x := range g.broker.log() {
			if x.want.Count > 1 && x.want.Bytes < 512<<10 {
				t.Errorf("an exchange asked for %d deliveries of %d bytes", x.want.Count, x.want.Bytes)
				break
			}
		}
	})
}

// lateBroker answers a call that carries many outcomes as late as it is told, and any
// other after five milliseconds: each with what the store said when the call began.
type lateBroker struct {
	mu    sync.Mutex
	takes []time.Duration // of those with many outcomes, in turn
}

type lateConsumer struct {
	broker.Consumer
	b *lateBroker
}

func (c *lateConsumer) MaxExchanges() int { return 2 }

func (c *lateConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	took := 5 * time.Millisecond
	c.b.mu.Lock()
	if len(done) >= 32 && len(c.b.takes) > 0 {
		took, c.b.takes = c.b.takes[0], c.b.takes[1:]
	}
	c.b.mu.Unlock()
	got, err := c.Consumer.Exchange(ctx, done, live, want)
	time.Sleep(took)
	return got, err
}

// late prepares a worker of which one exchange carries 32 outcomes from the 11th
// millisecond to the 31st, and another one 32 from the 17th to the 18th.
func late(g *rig) {
	b := &lateBroker{takes: []time.Duration{20 * time.Millisecond, time.Millisecond}}
	g.broker.wrap = func(c broker.Consumer) broker.Consumer { return &lateConsumer{Consumer: c, b: b} }
	g.cfg.Concurrency, g.cfg.Prefetch = 70, 1
	g.broker.deaf = true
	for name, d := range map[string]time.Duration{"opens": time.Millisecond, "first": 4 * time.Millisecond, "second": 12 * time.Millisecond} {
		g.handle(name, func(context.Context, *runner.Job) (json.RawMessage, error) {
			time.Sleep(d)
			return nil, nil
		})
	}
	// All come at 5 ms. The first outcome goes at 6, those of "first" at 11, and those of
	// "second" at 17.
	g.publish("opens")
	for range 32 {
		g.publish("first")
		g.publish("second")
	}
}

func wereLate(g *rig) {
	var carried []int
	for _, x := range g.broker.log() {
		if len(x.done) >= 32 {
			carried = append(carried, len(x.done))
		}
	}
	if len(carried) != 2 {
		g.t.Errorf("the test is void: exchanges carried %v outcomes, want twice 32", carried)
	}
}

// An answer that is older, and comes last, does not hide what the newer one said:
// that there is more.
func TestOlderAnswerComesLast(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		late(g)
		var mu sync.Mutex
		began := map[string]bool{}
		g.handle("stays", func(_ context.Context, j *runner.Job) (json.RawMessage, error) {
			mu.Lock()
			began[j.Delivery.Receipt.ID] = true
			mu.Unlock()
			time.Sleep(10 * time.Second)
			return nil, nil
		})
		g.start()
		after(14 * time.Millisecond)
		for range 40 {
			g.publish("stays")
		}
		after(50 * time.Millisecond) // sooner than starts are reported
		mu.Lock()
		n := len(began)
		mu.Unlock()
		if n < 40 {
			t.Errorf("%d of 40 tasks wait although there is room", 40-n)
		}
		wereLate(g)
	})
}

// A revocation may come before the task, which another exchange brings.
func TestRevokedBeforeItComes(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		late(g)
		g.handle("stays", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var receipt broker.Receipt
		told := false
		g.broker.edit = func(b *broker.Batch) {
			for i := range b.Deliveries {
				if d := &b.Deliveries[i]; d.Envelope.Name == "stays" {
					receipt = d.Receipt
					return
				}
			}
			if receipt.ID != "" && !told {
				b.Revoked, told = append(b.Revoked, broker.Revoked{Receipt: receipt, Terminate: true}), true
			}
		}
		g.start()
		after(8 * time.Millisecond)
		id := g.publish("stays")
		after(time.Second)
		g.want(id, task.Cancelled)
		wereLate(g)
	})
}
