package stemtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// recorder remembers every envelope that its broker stores, follow-ups
// included, and tells when a consumer finds nothing to do.
type recorder struct {
	broker.Broker

	mu        sync.Mutex
	published map[string]*task.Envelope
	order     []*task.Envelope
	idle      func()
}

func (r *recorder) Unwrap() broker.Broker { return r.Broker }

func (r *recorder) remember(e *task.Envelope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.published[e.ID] == nil {
		r.published[e.ID] = e
		r.order = append(r.order, e)
	}
}

func (r *recorder) rememberFollowups(done []broker.Settlement, errs []error) {
	for i := range done {
		if i < len(errs) && errs[i] == nil {
			for _, p := range done[i].Followups {
				r.remember(p.Envelope)
			}
		}
	}
}

func (r *recorder) named(name string) []*task.Envelope {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*task.Envelope
	for _, e := range r.order {
		if e.Name == name {
			out = append(out, e)
		}
	}
	return out
}

func (r *recorder) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]int{}
	for _, e := range r.order {
		counts[e.Name]++
	}
	return counts
}

// ready reports whether any queue has a task to deliver now, one whose moment
// has just come included: it takes one and gives it back, in its place.
func (r *recorder) ready(t testing.TB) bool {
	t.Helper()
	c, err := r.Broker.Open(t.Context(), broker.Subscription{Worker: "stemtest", Queues: []string{"*"}})
	if err != nil {
		t.Fatalf("stemtest: %v", err)
	}
	b, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1})
	if err = errors.Join(err, c.Close(t.Context())); err != nil {
		t.Fatalf("stemtest: %v", err)
	}
	return len(b.Deliveries) > 0
}

func (r *recorder) onIdle(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = f
}

func (r *recorder) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	out, err := r.Broker.Publish(ctx, batch)
	for i := range out {
		if out[i].State == broker.Stored {
			r.remember(batch[i].Envelope)
		}
	}
	return out, err
}

func (r *recorder) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	errs, err := r.Broker.Settle(ctx, batch)
	r.rememberFollowups(batch, errs)
	return errs, err
}

func (r *recorder) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	c, err := r.Broker.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	return &consumer{Consumer: c, r: r}, nil
}

type consumer struct {
	broker.Consumer
	r    *recorder
	held []string // ids of deliveries not settled yet
}

func (c *consumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	b, err := c.Consumer.Exchange(ctx, done, live, want)
	if err != nil {
		return b, err
	}
	c.r.rememberFollowups(done, b.Settled)
	for i := range done {
		c.held = slices.DeleteFunc(c.held, func(id string) bool { return id == done[i].Receipt.ID })
	}
	for i := range b.Deliveries {
		c.held = append(c.held, b.Deliveries[i].Receipt.ID)
	}
	c.r.mu.Lock()
	idle := c.r.idle
	c.r.mu.Unlock()
	if idle != nil && want.Count > 0 && len(c.held) == 0 && !b.More {
		idle()
	}
	return b, nil
}
