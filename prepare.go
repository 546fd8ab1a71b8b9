package stem

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Prepared is what is to be stored of one item.
type Prepared struct {
	Publication broker.Publication
	Err         error // the item can never be enqueued
}

// Prepare makes of items what a broker stores, and stores nothing: for who
// publishes in a step of his own, as the scheduler does with the claim of a due
// moment. The client's middleware sees the items as it does on an enqueue, and
// must not count them as stored. now is the moment that delays and expiries
// count from; zero is now, by this process's clock. Each item has its own
// answer; the error is the middleware's.
func (c *Client) Prepare(ctx context.Context, now time.Time, items ...Item) ([]Prepared, error) {
	if now.IsZero() {
		now = time.Now()
	}
	p := &preparation{now: now, made: make(map[string]broker.Publication, len(items))}
	receipts, err := c.enqueue(context.WithValue(ctx, preparationKey{}, p), items)
	if err != nil {
		return nil, fmt.Errorf("prepare %d tasks: %w", len(items), err)
	}
	out := make([]Prepared, len(items))
	for i := range items {
		if i >= len(receipts) {
			out[i].Err = fmt.Errorf("prepare %s: the middleware gave no receipt for it", items[i].name)
			continue
		}
		made, ok := p.made[receipts[i].ID]
		switch {
		case receipts[i].Err != nil:
			out[i].Err = receipts[i].Err
		case !ok:
			out[i].Err = fmt.Errorf("prepare %s: the middleware kept it back", items[i].name)
		default:
			out[i].Publication = made
		}
	}
	return out, nil
}

// preparation travels in the context of a Prepare, through the middleware, to
// the innermost EnqueueFunc, which fills it instead of storing.
type preparation struct {
	now  time.Time
	made map[string]broker.Publication
}

type preparationKey struct{}

func (p *preparation) fill(ctx context.Context, c *Client, items []Item) []Receipt {
	receipts := make([]Receipt, len(items))
	for i := range items {
		ctx, span := c.trace(ctx, items[i:i+1])
		made, _, err := c.publication(ctx, &items[i], p.now)
		receipts[i] = Receipt{ID: made.Envelope.ID, Err: err}
		span.describe(made.Envelope)
		span.end(receipts[i:i+1], err)
		if err == nil {
			p.made[made.Envelope.ID] = made
		}
	}
	return receipts
}

// Lookup returns many tasks' records at once, in the order asked for, with
// ErrNotFound where there is none. Results are as stored: encoded, where
// encoders were used.
func (c *Client) Lookup(ctx context.Context, ids ...string) ([]store.Found, error) {
	if c.results == nil {
		return nil, ErrNoResults
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := c.results.Get(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read %d tasks: %w", len(ids), err)
	}
	return found, nil
}
