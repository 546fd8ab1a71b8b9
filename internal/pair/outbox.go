package pair

import (
	"context"
	"errors"
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
	var unowned []*item
	for i, owned := range j.holds(ctx, lost) {
		if !owned && lost[i].Outcome.State.Terminal() {
			unowned = append(unowned, lost[i])
		}
	}
	if len(unowned) == 0 {
		return
	}
	var l late
	for _, it := range unowned {
		if j.publishAll(ctx, it.key, it.Followups) {
			l.clears = append(l.clears, it.key)
		}
	}
	j.write(ctx, l)
}

// holds asks the broker which of the items' tasks it still owns. When it cannot
// say, it is taken to own them all: they are then left as they are.
func (j *Joined) holds(ctx context.Context, items []*item) []bool {
	owned := make([]bool, len(items))
	for i := range owned {
		owned[i] = true
	}
	if j.owner == nil || len(items) == 0 {
		return owned
	}
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.key.ID
	}
	ctx, cancel := after(ctx)
	defer cancel()
	held, err := j.owner.Holds(ctx, ids...)
	if err != nil || len(held) != len(ids) {
		j.log.Warn("cannot tell whether tasks are owned; a reconciler will", "tasks", len(ids), "error", err)
		return owned
	}
	return held
}

// publishAll stores the follow-ups of an outcome apart from its settlement, and
// says whether nothing is left to do for them.
func (j *Joined) publishAll(ctx context.Context, k store.Key, followups []broker.Publication) bool {
	if len(followups) == 0 {
		return true
	}
	ctx, cancel := after(ctx)
	defer cancel()
	outcomes, err := j.Publish(ctx, followups)
	if err != nil {
		j.log.Warn("cannot enqueue what a stored outcome asks for; a reconciler will", "task_id", k.ID, "error", err)
		return false
	}
	for i, o := range outcomes {
		if o.State == broker.Refused || o.State == broker.Full {
			j.log.Error("a follow-up cannot be stored, though the outcome that asks for it is",
				"task_id", k.ID, "followup", followups[i].Envelope.ID, "error", o.Err)
		}
	}
	return true
}

// piecemeal settles outcomes which are stored and whose follow-ups the broker
// refuses: each follow-up is enqueued by itself, so that one bad one does not
// keep the task, and its neighbours, for ever.
func (j *Joined) piecemeal(ctx context.Context, refused []*item) {
	var again []item
	var of []*item
	for _, it := range refused {
		if j.publishAll(ctx, it.key, it.Followups) {
			plain := *it
			plain.err, plain.Followups = nil, nil
			again, of = append(again, plain), append(of, it)
		}
	}
	if len(again) == 0 {
		return
	}
	errs, err := j.inner.Settle(ctx, forwarded(again))
	if err != nil || len(errs) != len(again) {
		return // the items keep the error that they have, and are repeated
	}
	var l late
	for i, it := range of {
		if it.err = errs[i]; it.err == nil {
			l.clears = append(l.clears, it.key)
		}
		if it.err == nil || errors.Is(it.err, broker.ErrLeaseLost) {
			j.drop([]item{*it})
		}
	}
	j.write(ctx, l)
}
