package pair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// beat is one renewal on its way through both stores.
type beat struct {
	broker.Renewal   // with the broker's own receipt
	key              store.Key
	attempt, replays int
	held             held // a copy
}

// Renew extends leases in the broker, and then reports starts and progress to
// the result store. A start that finds the task's outcome stored completes it
// and says ErrSettled. One that the result store cannot answer just now is
// ErrUnavailable: it must not be executed yet, and to repeat it counts nothing
// twice.
func (j *Joined) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	j.catchUp(ctx)
	beats, inner := j.beats(batch)
	began := time.Now()
	errs, err := j.inner.Renew(ctx, inner)
	if err != nil {
		return nil, err
	}
	if len(errs) != len(batch) {
		return nil, errContract
	}
	j.renewed(ctx, beats, errs, began, true)
	return errs, nil
}

// beats prepares renewals, and what of them is for the broker.
func (j *Joined) beats(batch []broker.Renewal) (beats []beat, inner []broker.Renewal) {
	if len(batch) == 0 {
		return nil, nil
	}
	beats, inner = make([]beat, len(batch)), make([]broker.Renewal, len(batch))
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range batch {
		b := &beats[i]
		b.Renewal = batch[i]
		b.Receipt, b.attempt, b.replays = unmark(batch[i].Receipt)
		b.key = keyOf(b.Receipt)
		if h := j.held[b.key]; h != nil {
			b.held = *h
		}
		inner[i] = b.Renewal
		inner[i].Start = b.Start && !b.held.counted
		inner[i].Progress = nil
		// What the broker counted and the result store has not heard of is
		// reported with whatever comes next.
		b.Start = b.Start || b.held.counted && !b.held.shown
	}
	return beats, inner
}

// renewed takes the broker's answers to a call that began at that moment, tells
// the result store, and changes the answers by what it says. Where handlers wait
// for their start, it is strict: a start that cannot be reported is an error.
func (j *Joined) renewed(ctx context.Context, beats []beat, errs []error, began time.Time, strict bool) {
	updates, of := j.extended(beats, errs, began)
	if len(updates) == 0 {
		return
	}
	if !strict {
		var cancel context.CancelFunc
		ctx, cancel = after(ctx)
		defer cancel()
	}
	answers, err := j.update(ctx, updates)
	if err != nil {
		if !strict {
			j.log.Warn("cannot report starts and progress; will try again", "tasks", len(updates), "error", err)
			return
		}
		for _, i := range of {
			if beats[i].Start {
				errs[i] = unavailable(err)
			}
		}
		return
	}
	var settled []item
	var at []int
	for k, i := range of {
		b := &beats[i]
		switch a := answers[k]; {
		case a.Stored != nil:
			it := item{Settlement: broker.Settlement{Receipt: b.Receipt}, key: b.key, held: b.held}
			it.take(a.Stored)
			settled, at = append(settled, it), append(at, i)
		case a.Err != nil && !b.Start: // progress of a run that is not shown
		case errors.Is(a.Err, store.ErrStale):
			errs[i] = broker.ErrLeaseLost
		case a.Err != nil:
			errs[i] = fmt.Errorf("report the start: %w", a.Err)
		case b.Start:
			j.edit(b.key, func(h *held) { h.shown = true })
		}
	}
	j.complete(ctx, settled)
	for k, i := range at {
		errs[i] = settled[k].err
		if errs[i] == nil {
			errs[i] = broker.ErrSettled
		}
	}
}

// extended notes what the broker renewed, and returns what the result store is
// to hear of it, with the index of the beat that each update is of.
func (j *Joined) extended(beats []beat, errs []error, began time.Time) (updates []store.Update, of []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range beats {
		b := &beats[i]
		h := j.held[b.key]
		if errs[i] != nil {
			if errors.Is(errs[i], broker.ErrLeaseLost) {
				delete(j.held, b.key)
			}
			continue
		}
		if h != nil {
			length := b.Extend
			if length <= 0 {
				length = h.lease
			}
			h.until = began.Add(length)
			h.counted = h.counted || b.Start
		}
		if !b.Start && b.Progress == nil {
			continue
		}
		u := store.Update{
			Key: b.key, Start: b.Start, Attempt: b.attempt, Replays: b.replays,
			Worker: b.Worker, At: began.UTC(), Progress: b.Progress,
		}
		if b.Start {
			u.Envelope = b.held.envelope
		}
		if u.Worker == "" && b.held.by != nil {
			u.Worker = b.held.by.worker
		}
		updates, of = append(updates, u), append(of, i)
	}
	return updates, of
}

// complete settles, in the broker, outcomes that starts found stored.
func (j *Joined) complete(ctx context.Context, items []item) {
	if len(items) == 0 {
		return
	}
	all := make([]*item, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	err := j.prune(ctx, all)
	if err == nil {
		err = j.finish(ctx, items)
	}
	if err != nil {
		for i := range items {
			items[i].err = unavailable(err)
		}
	}
}

// update is the result store's Update with its answers checked.
func (j *Joined) update(ctx context.Context, updates []store.Update) ([]store.Answer, error) {
	if len(updates) == 0 {
		return nil, nil
	}
	answers, err := j.results.Update(ctx, updates)
	if err != nil {
		return nil, fmt.Errorf("report to the result store: %w", err)
	}
	if len(answers) != len(updates) {
		return nil, errContract
	}
	return answers, nil
}

// get is the result store's Get with its answers checked.
func (j *Joined) get(ctx context.Context, ids []string) ([]store.Found, error) {
	found, err := j.results.Get(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("look for statuses: %w", err)
	}
	if len(found) != len(ids) {
		return nil, errContract
	}
	return found, nil
}

// unavailable is the answer to an item that is to be sent again.
func unavailable(err error) error {
	if errors.Is(err, broker.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}
