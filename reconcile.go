package stem

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
)

// Reconciled says what a reconciliation looked at and did.
type Reconciled = pair.Reconciled

// Reconcile brings to their end what crashes between two stores have left:
// follow-ups that nobody was going to enqueue, and statuses whose task nobody
// owns any more. Workers do it by themselves, one at a time; call it to have it
// done now. lease is the longest in use, 0 the default. On one store there is
// nothing to do, since each step there is whole.
func (c *Client) Reconcile(ctx context.Context, lease time.Duration) (Reconciled, error) {
	j, ok := c.broker.(*pair.Joined)
	if !ok {
		return Reconciled{}, nil
	}
	return j.Reconcile(ctx, lease)
}

// Orphans says what Reconcile would find, and changes nothing.
func (c *Client) Orphans(ctx context.Context, lease time.Duration) (Reconciled, error) {
	j, ok := c.broker.(*pair.Joined)
	if !ok {
		return Reconciled{}, nil
	}
	return j.Orphans(ctx, lease)
}

// reconcileEvery is how often the elected worker reconciles.
const reconcileEvery = time.Minute

// runReconciler reconciles until ctx ends, while this worker is the elected
// one: of those that are alive, the first by id. Two that both take themselves
// for the first do double work and no harm.
func (w *Worker) runReconciler(ctx context.Context, id string) {
	if _, two := w.client.broker.(*pair.Joined); !two || w.client.beats == nil {
		return
	}
	timer := time.NewTimer(reconcileEvery/2 + rand.N(reconcileEvery/2))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(reconcileEvery)
		switch done, err := w.reconcileIfElected(ctx, id); {
		case ctx.Err() != nil:
			return
		case errors.Is(err, broker.ErrUnsupported):
			w.logger.Warn("nobody looks for orphans", "error", err)
			return
		case err != nil:
			w.logger.Warn("reconcile the two stores", "error", err)
		case done.Outboxes > 0 || done.Orphans > 0:
			w.logger.Warn("put right what a crash between the two stores left", "outboxes", done.Outboxes, "orphans", done.Orphans)
		}
	}
}

func (w *Worker) reconcileIfElected(ctx context.Context, id string) (Reconciled, error) {
	if first, err := w.elected(ctx, id); err != nil || !first {
		return Reconciled{}, err
	}
	return w.client.Reconcile(ctx, w.opts.Lease)
}
