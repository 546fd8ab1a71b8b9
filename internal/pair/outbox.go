package pair

import (
	"context"
	"fmt"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// check refuses, before anything is recorded, settlements that the broker would
// refuse, with a follow-up that it cannot store for example, and takes out the follow-ups that are
// known already: the broker may have forgotten them since they ended.
func (j *Joined) check(ctx context.Context, items []item) error {
	var with []*item
	for i := range items {
		it := &items[i]
		if it.err == nil && !it.stored {
			it.err = checkOutcome(&it.Outcome)
		}
		if it.err != nil || it.stored || len(it.Followups) == 0 {
			continue
		}
		for k := range it.Followups {
			if err := j.storable(&it.Followups[k]); err != nil {
				it.err = fmt.Errorf("follow-up: %w", err)
				break
			}
		}
		if it.err == nil {
			with = append(with, it)
		}
	}
	return j.prune(ctx, with)
}

// checkOutcome refuses what no broker settles.
func checkOutcome(o *task.Outcome) error {
	if o.State == task.Running || !o.State.Valid() {
		return fmt.Errorf("%w outcome: a task cannot be settled as %q", task.ErrInvalid, o.State)
	}
	return task.ValidateTime("notBefore", o.NotBefore)
}

// storable checks a publication as the broker would.
func (j *Joined) storable(p *broker.Publication) error {
	if p.Envelope == nil {
		return fmt.Errorf("%w publication: it has no envelope", task.ErrInvalid)
	}
	if err := p.Envelope.Validate(); err != nil {
		return err
	}
	for _, a := range [...]struct {
		power broker.Power
		asked bool
	}{
		{broker.PowerFollowups, true},
		{broker.PowerClaims, len(p.Claims) > 0},
		{broker.PowerLimits, len(p.Limits) > 0},
		{broker.PowerHolds, p.Hold != ""},
		{broker.PowerGroups, p.Group != nil},
	} {
		if a.asked && !j.caps.Has(a.power) {
			return fmt.Errorf("%s: %w", a.power, broker.ErrUnsupported)
		}
	}
	limit := j.caps.MaxSize
	if limit <= 0 {
		limit = task.DefaultMaxSize
	}
	return task.CheckSize(task.EncodedSize(p.Envelope), limit)
}

// prune takes the follow-ups out of items that have a status.
func (j *Joined) prune(ctx context.Context, items []*item) error {
	var all []broker.Publication
	for _, it := range items {
		all = append(all, it.Followups...)
	}
	known, err := j.known(ctx, all)
	if err != nil || len(known) == 0 {
		return err
	}
	for _, it := range items {
		kept := make([]broker.Publication, 0, len(it.Followups))
		for _, p := range it.Followups {
			if !known[p.Envelope.ID] {
				kept = append(kept, p)
			}
		}
		it.Followups = kept
	}
	return nil
}

// leftBehind looks after outcomes that were recorded under leases that the
// broker says are over. Where a newer lease holds the task, its start completes
// the outcome. Where nobody does, either an earlier call settled it and its
// answer was lost, or the task was revoked or purged on the way: then what is
// in the outbox is brought to its end here. Each follow-up is stored once, by
// its id.
func (j *Joined) leftBehind(ctx context.Context, lost []*item) {
	if len(lost) == 0 || j.owner == nil {
		return // the start of a newer lease, or a reconciler, finds them
	}
	ids := make([]string, len(lost))
	for i, it := range lost {
		ids[i] = it.key.ID
	}
	ctx, cancel := after(ctx)
	defer cancel()
	owned, err := j.holds(ctx, ids)
	if err == nil {
		var boxes []outbox
		for i, it := range lost {
			if !owned[i] && it.Outcome.State.Terminal() {
				boxes = append(boxes, outbox{it.key, it.Followups})
			}
		}
		err = j.deliver(ctx, boxes)
	}
	if err != nil {
		j.log.Warn("what stored outcomes ask for is not enqueued yet; a reconciler will", "outcomes", len(lost), "error", err)
	}
}

// holds asks the broker which tasks it still owns.
func (j *Joined) holds(ctx context.Context, ids []string) ([]bool, error) {
	held, err := j.owner.Holds(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("ask who owns %d tasks: %w", len(ids), err)
	}
	if len(held) != len(ids) {
		return nil, errContract
	}
	return held, nil
}

// outbox is what an outcome asks for that is stored.
type outbox struct {
	key       store.Key
	followups []broker.Publication
}

// deliver stores the follow-ups of outcomes apart from their settlements, and
// clears the outboxes.
func (j *Joined) deliver(ctx context.Context, boxes []outbox) error {
	var all []broker.Publication
	var l late
	for _, b := range boxes {
		all = append(all, b.followups...)
		l.clears = append(l.clears, b.key)
	}
	if err := j.publishAll(ctx, all); err != nil {
		return err
	}
	j.write(ctx, l)
	return nil
}

// publishAll stores follow-ups whose outcome is stored. One that the broker
// refuses is lost, and logged.
func (j *Joined) publishAll(ctx context.Context, followups []broker.Publication) error {
	if len(followups) == 0 {
		return nil
	}
	outcomes, err := j.Publish(ctx, followups)
	if err != nil {
		return fmt.Errorf("enqueue %d follow-ups: %w", len(followups), err)
	}
	for i, o := range outcomes {
		if o.State == broker.Refused || o.State == broker.Full {
			e := followups[i].Envelope
			j.log.Error("a follow-up cannot be stored, though the outcome that asks for it is",
				"task", e.Name, "task_id", e.ID, "queue", e.Queue, "error", o.Err)
		}
	}
	return nil
}

// piecemeal settles outcomes which are stored and whose follow-ups the broker
// refuses: each follow-up is enqueued by itself, so that one bad one does not
// keep the task, and its neighbours, for ever. Items that fail keep the error
// that they have, and are repeated.
func (j *Joined) piecemeal(ctx context.Context, refused []*item) {
	if len(refused) == 0 {
		return
	}
	var followups []broker.Publication
	plain := make([]item, len(refused))
	for i, it := range refused {
		followups = append(followups, it.Followups...)
		plain[i] = *it
		plain[i].err, plain[i].Followups = nil, nil
	}
	if err := j.publishAll(ctx, followups); err != nil {
		return
	}
	errs, err := j.inner.Settle(ctx, forwarded(plain))
	if err != nil || len(errs) != len(plain) {
		return
	}
	var l late
	for i, it := range refused {
		plain[i].err, it.err = errs[i], errs[i]
		if it.err == nil {
			l.clears = append(l.clears, it.key)
		}
	}
	j.drop(plain)
	j.write(ctx, l)
}
