package stem

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
)

// RevokeOptions shape a revocation.
type RevokeOptions struct {
	Terminate bool          // also cancel the context of a running handler
	Reason    string        // kept with the status; "": "revoked"
	Keep      time.Duration // of the status; 0: the client's Retention; Forever
}

// Revoke asks that tasks never start, or stop. Each answer is true: a task is
// Cancelled, its worker was Asked, it was TooLate, or it is Unknown.
func (c *Client) Revoke(ctx context.Context, o RevokeOptions, ids ...string) ([]broker.RevokeAnswer, error) {
	r, ok := broker.As[broker.Revoker](c.broker)
	if !ok {
		return nil, fmt.Errorf("revoke: %w", broker.ErrUnsupported)
	}
	if o.Keep == 0 {
		o.Keep = c.opts.Retention
	}
	batch := make([]broker.Revocation, len(ids))
	for i, id := range ids {
		batch[i] = broker.Revocation{ID: id, Terminate: o.Terminate, Reason: o.Reason, Keep: o.Keep}
	}
	answers, err := r.Revoke(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	return answers, nil
}

// defaultRetention is how long statuses are kept unless told otherwise.
const defaultRetention = 24 * time.Hour

// Queues describes the named queues, or all that hold anything.
func (c *Client) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	q, err := c.broker.Queues(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return q, nil
}

// PurgeQueue cancels the tasks that wait in a queue, ready or delayed, and says
// how many: as many as waited when it was called, so that it ends also while
// others enqueue. It works in pages and leaves running tasks alone; when it
// fails midway the number is what was purged until then.
func (c *Client) PurgeQueue(ctx context.Context, queue string) (int, error) {
	info, err := c.Queues(ctx, queue)
	if err != nil {
		return 0, err
	}
	waiting, total := 0, 0
	for _, q := range info {
		waiting += q.Ready + q.Delayed
	}
	for total < waiting {
		page := broker.Purge{Queue: queue, Limit: min(waiting-total, purgePage), Keep: c.opts.Retention}
		ids, err := c.broker.Purge(ctx, page)
		if err != nil {
			return total, fmt.Errorf("purge queue %s: %w", queue, err)
		}
		if len(ids) == 0 {
			break // others took them
		}
		total += len(ids)
	}
	return total, nil
}

// purgePage is how many tasks one step of a purge removes.
const purgePage = 1000

// DeadLetters returns a page of dead letters, newest first, and the cursor of
// the next; "" after the last.
func (c *Client) DeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	d, next, err := c.broker.DeadLetters().ListDeadLetters(ctx, f, p)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	return d, next, nil
}

// ReplayDeadLetters puts dead letters back into their queues, with fresh
// retries; or says what it would.
func (c *Client) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	r, err := c.broker.DeadLetters().ReplayDeadLetters(ctx, f, o)
	if err != nil {
		return r, fmt.Errorf("replay dead letters: %w", err)
	}
	if !o.DryRun && r.Count > 0 {
		c.opts.Meter.Counter(measure.DLQReplayed, f.Queue, f.Reason).Add(float64(r.Count))
	}
	return r, nil
}

// PurgeDeadLetters removes dead letters for good; or says what it would.
func (c *Client) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	p, err := c.broker.DeadLetters().PurgeDeadLetters(ctx, f, o)
	if err != nil {
		return p, fmt.Errorf("purge dead letters: %w", err)
	}
	if !o.DryRun && p.Count > 0 {
		c.opts.Meter.Counter(measure.DLQPurged, f.Queue, f.Reason).Add(float64(p.Count))
	}
	return p, nil
}
