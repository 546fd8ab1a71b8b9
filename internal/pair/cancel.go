package pair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// cancelled is a task that the broker does not hold any more, at somebody's
// wish.
type cancelled struct {
	id     string
	queue  string // "": unknown
	reason string
	keep   time.Duration
	now    bool // it is this call that made the broker give it up
}

// Purge removes one page of what waits in a queue, in the broker first, and
// records it as cancelled.
func (j *Joined) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	j.catchUp(ctx)
	keep := p.Keep
	p.Keep = 0
	ids, err := j.inner.Purge(ctx, p)
	if err != nil {
		return nil, err
	}
	gone := make([]cancelled, len(ids))
	for i, id := range ids {
		gone[i] = cancelled{id: id, queue: p.Queue, reason: task.ReasonPurged, keep: keep, now: true}
	}
	j.write(ctx, late{cancels: gone})
	return ids, nil
}

// revoker is the broker's power to revoke, joined with the result store.
type revoker struct {
	broker.Broker
	j     *Joined
	inner broker.Revoker
}

// Unwrap gives access to the broker's other powers.
func (r *revoker) Unwrap() broker.Broker { return r.Broker }

// Revoke asks the broker first, and records as cancelled what nobody holds. An
// error means that some may be revoked already: to repeat is safe, and answers
// the same.
func (r *revoker) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	j := r.j
	j.catchUp(ctx)
	answers, err := r.inner.Revoke(ctx, batch)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(batch) {
		return nil, errContract
	}
	j.asked(batch, answers)
	// What the broker cancelled, and what it does not know: an earlier call
	// may have come so far.
	var gone []cancelled
	var at []int
	for i, a := range answers {
		if a.State == broker.RevokeAsked {
			continue
		}
		c := cancelled{id: batch[i].ID, reason: batch[i].Reason, keep: batch[i].Keep, now: a.State == broker.RevokeCancelled}
		if c.reason == "" {
			c.reason = task.ReasonRevoked
		}
		if task.ValidateID(c.id) == nil {
			gone, at = append(gone, c), append(at, i)
		}
	}
	became, err := j.cancel(ctx, gone)
	if err != nil {
		return nil, err
	}
	for k, i := range at {
		if became[k] != broker.RevokeUnknown {
			answers[i].State = became[k]
		}
	}
	return answers, nil
}

// asked notes the revocations of what consumers of this process hold.
func (j *Joined) asked(batch []broker.Revocation, answers []broker.RevokeAnswer) {
	var wanted map[string]*broker.Revocation
	for i := range answers {
		if answers[i].State == broker.RevokeAsked {
			if wanted == nil {
				wanted = map[string]*broker.Revocation{}
			}
			r := batch[i]
			wanted[r.ID] = &r
		}
	}
	if wanted == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, h := range j.held {
		if r := wanted[k.ID]; r != nil {
			h.revoked = r
		}
	}
}

// cancel records as cancelled what the broker does not hold any more, and says
// for each whether it did, or came too late, or knows of no status. A task whose
// outcome was stored before keeps it, and gets what its outbox asks for.
func (j *Joined) cancel(ctx context.Context, gone []cancelled) ([]broker.RevokeState, error) {
	if len(gone) == 0 {
		return nil, nil
	}
	ids := make([]string, len(gone))
	for i := range gone {
		ids[i] = gone[i].id
	}
	found, err := j.get(ctx, ids)
	if err != nil {
		return nil, err
	}
	came := make([]broker.RevokeState, len(gone))
	var records []store.Record
	var at []int
	var ended []*task.Status
	now := time.Now().UTC()
	for i := range gone {
		came[i] = broker.RevokeUnknown
		s := &found[i].Status
		switch {
		case found[i].Err == nil && s.State.Terminal():
			came[i] = broker.RevokeTooLate
			if gone[i].now {
				ended = append(ended, s)
			}
		case found[i].Err == nil || gone[i].now:
			records, at = append(records, gone[i].record(s, now)), append(at, i)
		}
	}
	if len(records) > 0 {
		errs, err := j.results.Record(ctx, records)
		if err == nil && len(errs) != len(records) {
			err = errContract
		}
		if err != nil {
			return nil, fmt.Errorf("record %d cancelled tasks: %w", len(records), err)
		}
		for k, i := range at {
			switch {
			case errs[k] == nil:
				came[i] = broker.RevokeCancelled
			case errors.Is(errs[k], store.ErrStale): // it ended in this very moment
				came[i] = broker.RevokeTooLate
				ended = append(ended, &found[i].Status)
			}
		}
	}
	return came, j.leftover(ctx, ended, now)
}

// record is the outcome of a cancelled task with that status. One that has no
// status yet gets one that says little, so that none is created as queued after
// the end.
func (c *cancelled) record(s *task.Status, now time.Time) store.Record {
	r := store.Record{
		Key: store.Key{ID: c.id, Epoch: s.Epoch},
		Outcome: task.Outcome{
			State: task.Cancelled, Reason: c.reason, Attempt: s.Attempt, EndedAt: now, Keep: c.keep,
		},
	}
	if s.ID == "" {
		r.Envelope = &task.Envelope{ID: c.id, Queue: c.queue, EnqueuedAt: now, Priority: task.DefaultPriority}
	}
	return r
}

// leftover delivers the outboxes of ended tasks which the broker gave up before
// their settlements reached it.
func (j *Joined) leftover(ctx context.Context, ended []*task.Status, now time.Time) error {
	updates := make([]store.Update, len(ended))
	for i, s := range ended {
		updates[i] = store.Update{
			Key: store.Key{ID: s.ID, Epoch: s.Epoch}, Start: true,
			Attempt: s.Attempt, Replays: s.ReplayCount, Worker: s.Worker, At: now,
		}
	}
	answers, err := j.update(ctx, updates)
	if err != nil {
		return err
	}
	var boxes []outbox
	for i, a := range answers {
		if r := a.Stored; r != nil && len(r.Followups)+len(r.Release) > 0 {
			boxes = append(boxes, outbox{updates[i].Key, r.Followups})
		}
	}
	return j.deliver(ctx, boxes)
}
