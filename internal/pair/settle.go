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

var (
	// errContract is a store's answer that lacks an element.
	errContract = errors.New("the store answered for another number of items than it was asked about")
	// errOther answers a settlement in whose place a stored outcome stands.
	errOther = fmt.Errorf("%w: %w", broker.ErrLeaseLost, broker.ErrSettled)
)

// item is one settlement on its way through both stores. While err is nil it
// goes on.
type item struct {
	broker.Settlement // with the broker's own receipt
	key               store.Key
	attempt, replays  int
	held              held // a copy

	stored  bool  // its outcome is in the result store
	instead error // the caller's answer when another outcome was settled
	err     error
}

// outbox reports whether the result store keeps something to be cleared.
func (it *item) outbox() bool {
	return it.Outcome.State == task.Retried || len(it.Followups) > 0 || len(it.Release) > 0
}

// Settle ends deliveries: see broker.Broker.
func (j *Joined) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	j.catchUp(ctx)
	items := j.items(batch)
	if err := j.record(ctx, items); err != nil {
		return nil, err
	}
	if err := j.finish(ctx, items); err != nil {
		return nil, err
	}
	return answers(items), nil
}

func answers(items []item) []error {
	errs := make([]error, len(items))
	for i := range items {
		errs[i] = items[i].err
		if errs[i] == nil {
			errs[i] = items[i].instead
		}
	}
	return errs
}

// items prepares settlements.
func (j *Joined) items(batch []broker.Settlement) []item {
	if len(batch) == 0 {
		return nil
	}
	items := make([]item, len(batch))
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range batch {
		it := &items[i]
		it.Settlement = batch[i]
		it.Receipt, it.attempt, it.replays = unmark(batch[i].Receipt)
		it.key = keyOf(it.Receipt)
		if h := j.held[it.key]; h != nil {
			it.held = *h
		}
		switch s := it.held.settling; {
		case s != nil:
			if s.Outcome.State != it.Outcome.State {
				it.instead = errOther
			}
			it.Settlement, it.stored = *s, it.held.stored
		case it.held.revoked != nil:
			it.revoke()
		}
	}
	return items
}

// revoke makes a revoked task that would wait again a cancelled one: the broker
// would do so by itself, and the result store never hear of it.
func (it *item) revoke() {
	o, r := &it.Outcome, it.held.revoked
	if o.State != task.Queued && o.State != task.Retried {
		return
	}
	o.State, o.Reason, o.NotBefore, o.Error = task.Cancelled, r.Reason, time.Time{}, nil
	if o.Reason == "" {
		o.Reason = task.ReasonRevoked
	}
	if o.Keep == 0 && shown(it.held.envelope) {
		o.Keep = r.Keep
	}
}

// record brings the items to where their outcomes are in the result store. An
// error means that nothing was settled; to repeat is safe.
func (j *Joined) record(ctx context.Context, items []item) error {
	if len(items) == 0 {
		return nil
	}
	if err := j.verify(ctx, items); err != nil {
		return err
	}
	if err := j.check(ctx, items); err != nil {
		return err
	}
	stale, err := j.recordOnce(ctx, items)
	if err != nil || len(stale) == 0 {
		return err
	}
	if err := j.resolve(ctx, stale); err != nil {
		return err
	}
	stale, err = j.recordOnce(ctx, items)
	for _, it := range stale {
		it.err = broker.ErrLeaseLost
	}
	return err
}

// verify asks the broker about the receipts that time or another process may
// have outdated. The renewal makes sure that they stay good for a while.
func (j *Joined) verify(ctx context.Context, items []item) error {
	now := time.Now()
	var batch []broker.Renewal
	var asked []*item
	for i := range items {
		if it := &items[i]; !it.stored && !it.held.trusted(now) {
			batch, asked = append(batch, broker.Renewal{Receipt: it.Receipt}), append(asked, it)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	errs, err := j.inner.Renew(ctx, batch)
	if err != nil {
		return fmt.Errorf("check %d leases before settling: %w", len(batch), err)
	}
	if len(errs) != len(batch) {
		return errContract
	}
	for i, it := range asked {
		if it.err = errs[i]; it.err == nil {
			j.edit(it.key, func(h *held) { h.until = now.Add(h.lease) })
		}
	}
	return nil
}

// recordOnce records what is not recorded yet, and returns the items that the
// result store found stale. A release changes no outcome and is not recorded.
func (j *Joined) recordOnce(ctx context.Context, items []item) (stale []*item, err error) {
	records := make([]store.Record, 0, len(items))
	sent := make([]*item, 0, len(items))
	for i := range items {
		it := &items[i]
		if it.err != nil || it.stored || it.Outcome.State == task.Queued {
			continue
		}
		r := store.Record{
			Key: it.key, Outcome: it.Outcome, Followups: it.Followups, Release: it.Release, Envelope: it.held.envelope,
		}
		r.Outcome.Keep = retention(&it.Outcome, it.held.envelope)
		records, sent = append(records, r), append(sent, it)
	}
	if len(records) == 0 {
		return nil, nil
	}
	errs, err := j.results.Record(ctx, records)
	if err == nil && len(errs) != len(records) {
		err = errContract
	}
	if err != nil {
		for _, it := range sent {
			j.unsettled(it)
		}
		return nil, fmt.Errorf("record %d outcomes: %w", len(records), err)
	}
	for i, it := range sent {
		switch {
		case errs[i] == nil:
			it.stored = true
		case errors.Is(errs[i], store.ErrStale):
			stale = append(stale, it)
		default:
			it.err = fmt.Errorf("record the outcome: %w", errs[i])
			j.edit(it.key, func(h *held) { h.settling = nil }) // it is not, then
		}
	}
	return stale, nil
}

// resolve asks why the result store refused outcomes of leases that are good. A
// start tells: a newer run was reported; or an outcome of this attempt is
// stored already, which then takes the place of the item's; or the store had
// not heard that the task runs again, and has now.
func (j *Joined) resolve(ctx context.Context, stale []*item) error {
	updates := make([]store.Update, len(stale))
	for i, it := range stale {
		at := it.Outcome.StartedAt
		if at.IsZero() {
			at = time.Now().UTC()
		}
		updates[i] = store.Update{
			Key: it.key, Start: true, Attempt: it.attempt, Replays: it.replays,
			Worker: it.Outcome.Worker, At: at, Envelope: it.held.envelope,
		}
	}
	found, err := j.update(ctx, updates)
	if err != nil {
		return err
	}
	var replaced []*item
	for i, it := range stale {
		switch a := found[i]; {
		case a.Stored != nil:
			it.take(a.Stored)
			it.instead = errOther
			replaced = append(replaced, it)
		case errors.Is(a.Err, store.ErrStale):
			it.err = broker.ErrLeaseLost
		case a.Err != nil:
			it.err = fmt.Errorf("record the outcome: %w", a.Err)
		}
	}
	return j.prune(ctx, replaced)
}

// take makes the item settle an outcome that is stored.
func (it *item) take(r *store.Record) {
	it.Outcome, it.Followups, it.Release, it.stored = r.Outcome, r.Followups, r.Release, true
}

// forwarded returns what the broker is to settle. It keeps neither the status
// nor the result.
func forwarded(items []item) []broker.Settlement {
	if len(items) == 0 {
		return nil
	}
	batch := make([]broker.Settlement, 0, len(items))
	for i := range items {
		if items[i].err == nil {
			s := items[i].Settlement
			s.Outcome.Keep, s.Outcome.Result = 0, nil
			batch = append(batch, s)
		}
	}
	return batch
}

// finish settles in the broker what record let through, and does what follows.
func (j *Joined) finish(ctx context.Context, items []item) error {
	batch := forwarded(items)
	if len(batch) == 0 {
		return nil
	}
	errs, err := j.inner.Settle(ctx, batch)
	if err == nil && len(errs) != len(batch) {
		err = errContract
	}
	if err != nil {
		j.allUnsettled(items)
		return err
	}
	j.settled(ctx, items, errs)
	return nil
}

// unsettled notes that an outcome is recorded, or may be, and is not known to
// be settled.
func (j *Joined) unsettled(it *item) {
	s := it.Settlement
	j.edit(it.key, func(h *held) { h.settling, h.stored = &s, it.stored })
}

// allUnsettled notes that nothing is known of the broker's part.
func (j *Joined) allUnsettled(items []item) {
	for i := range items {
		if it := &items[i]; it.err == nil && it.stored {
			j.unsettled(it)
		}
	}
}

// settled takes the broker's answers, one for each item without an error.
func (j *Joined) settled(ctx context.Context, items []item, errs []error) {
	var l late
	var lost, refused []*item
	k := 0
	for i := range items {
		it := &items[i]
		if it.err != nil {
			continue
		}
		it.err = errs[k]
		k++
		switch {
		case it.err == nil:
			l.settled(it)
		case errors.Is(it.err, broker.ErrLeaseLost):
			if it.stored && it.outbox() {
				lost = append(lost, it)
			}
		case it.stored:
			j.unsettled(it)
			if !errors.Is(it.err, broker.ErrUnavailable) && len(it.Followups) > 0 {
				refused = append(refused, it)
			}
		}
	}
	j.drop(items)
	j.write(ctx, l)
	j.leftBehind(ctx, lost)
	j.piecemeal(ctx, refused)
}

// drop forgets the deliveries that are settled, or another's.
func (j *Joined) drop(items []item) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range items {
		if err := items[i].err; err == nil || errors.Is(err, broker.ErrLeaseLost) {
			delete(j.held, items[i].key)
		}
	}
}
