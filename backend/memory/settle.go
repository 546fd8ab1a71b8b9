package memory

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Settle ends deliveries by receipt; see broker.Broker.
func (t *tasks) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("settle in memory: %w", err)
	}
	defer t.db.leave()
	return t.db.settleAll(batch, now), nil
}

// Renew extends leases; see broker.Broker.
func (t *tasks) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("renew in memory: %w", err)
	}
	defer t.db.leave()
	return t.db.renewAll(batch, now), nil
}

func (db *DB) settleAll(batch []broker.Settlement, now time.Time) []error {
	if len(batch) == 0 {
		return nil
	}
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = db.settle(&batch[i], now)
	}
	return errs
}

func (db *DB) renewAll(batch []broker.Renewal, now time.Time) []error {
	if len(batch) == 0 {
		return nil
	}
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = db.renew(&batch[i], now)
	}
	return errs
}

// heldBy returns the record that a receipt is the right to settle, or nil.
func (db *DB) heldBy(rc broker.Receipt) *record {
	if r := db.held[rc.Epoch]; r != nil && r.id == rc.ID {
		return r
	}
	return nil
}

// letGo makes the receipt of a record's newest lease worthless.
func (db *DB) letGo(r *record) {
	if r.held {
		delete(db.held, r.epoch)
		r.held, r.holder = false, nil
	}
}

func (db *DB) renew(rn *broker.Renewal, now time.Time) error {
	r := db.heldBy(rn.Receipt)
	if r == nil {
		return broker.ErrLeaseLost
	}
	length := r.lease()
	if rn.Extend > 0 {
		length = rn.Extend
	}
	r.q.prolong(r, after(now.UnixNano(), length))
	if rn.Start && !r.started {
		r.start(rn.Worker, now)
	}
	if rn.Progress != nil {
		r.setProgress(rn.Progress)
	}
	if rn.Start || rn.Progress != nil {
		db.notify(r)
	}
	return nil
}

// prolong makes a held record's lease end at that moment. If the lease has
// ended, but nobody took the task since, it lives again.
func (q *queue) prolong(r *record, end int64) {
	if r.place == ready {
		q.unready(r)
		r.place = leased
		q.leases.push(r, end)
	} else {
		q.leases.change(r.index, end)
	}
	q.reschedule()
}

// start counts a start.
func (r *record) start(worker string, now time.Time) {
	if worker == "" {
		worker = r.holder.sub.Worker
	}
	r.started, r.state, r.worker, r.startedAt = true, running, worker, now.UnixNano()
	r.starts++
	if r.extra != nil {
		r.extra.progress = nil // the last run's
	}
}

// settle applies one settlement whole, or not at all.
func (db *DB) settle(s *broker.Settlement, now time.Time) error {
	r := db.heldBy(s.Receipt)
	if r == nil {
		return broker.ErrLeaseLost
	}
	if err := checkOutcome(r.state.name(), &s.Outcome); err != nil {
		return err
	}
	followups, err := inspectFollowups(s.Followups)
	if err != nil {
		return err
	}
	q := r.q
	q.detach(r)
	q.reschedule()
	db.letGo(r)
	for _, key := range s.Release {
		db.release(key, r.id)
	}
	db.apply(r, &s.Outcome, now)
	db.notify(r)
	for i, f := range followups {
		db.publish(&s.Followups[i], f, now)
	}
	return nil
}

// checkOutcome says why a task in that state cannot be settled so.
func checkOutcome(from task.State, o *task.Outcome) error {
	// An outcome implies the start that was not reported yet.
	if o.State == task.Succeeded || o.State == task.Retried {
		from = task.Running
	}
	if o.State == task.Running || o.State != task.Queued && !task.CanMove(from, o.State) {
		return fmt.Errorf("%w outcome: a task that is %s cannot become %q", task.ErrInvalid, from, o.State)
	}
	return task.ValidateTime("notBefore", o.NotBefore)
}

func inspectFollowups(batch []broker.Publication) ([]*record, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	records := make([]*record, len(batch))
	for i := range batch {
		size, err := inspect(&batch[i])
		if err != nil {
			return nil, fmt.Errorf("follow-up %d: %w", i, err)
		}
		records[i] = newRecord(batch[i].Envelope, size)
	}
	return records, nil
}

// apply moves a record that is nowhere to where its outcome sends it.
func (db *DB) apply(r *record, o *task.Outcome, now time.Time) {
	r.note(o)
	revoked := r.revocation() != nil
	switch o.State {
	case task.Queued, task.Retried:
		if revoked {
			db.cancelRevoked(r, now)
			return
		}
		db.putBack(r, o, now)
	case task.Failed:
		db.bury(r, o, now)
	default:
		db.finish(r, o, now)
	}
}

// note takes over what every outcome says.
func (r *record) note(o *task.Outcome) {
	if o.Worker != "" {
		r.worker = o.Worker
	}
	if !o.StartedAt.IsZero() {
		r.startedAt = momentOf(o.StartedAt)
	}
	r.reserved = o.State == task.Queued && o.Reserved
	if o.State != task.Queued {
		r.attempt = max(r.attempt, o.Attempt)
		r.addError(o.Error)
	}
}

// putBack makes a released or retried task wait.
func (db *DB) putBack(r *record, o *task.Outcome, now time.Time) {
	r.state = stateOf(o.State)
	if o.State == task.Retried || !o.NotBefore.IsZero() {
		r.setNotBefore(o.NotBefore)
		if !r.reserved {
			r.starts, r.redelivered = 0, false
		}
	}
	if due := dueAt(o.NotBefore, now); due != 0 {
		db.delay(r, due)
	} else {
		db.ready(r, now.UnixNano())
	}
}

// finish makes a task that succeeded or was cancelled a status alone.
func (db *DB) finish(r *record, o *task.Outcome, now time.Time) {
	r.end(o, now)
	if r.extra != nil {
		r.extra.revoke = nil
	}
	r.place = done
	r.trim()
	db.retain(r, o.Keep, now)
}

// end takes over what a terminal outcome says.
func (r *record) end(o *task.Outcome, now time.Time) {
	r.state, r.finishedAt = stateOf(o.State), momentOf(o.EndedAt)
	if r.finishedAt == 0 {
		r.finishedAt = now.UnixNano()
	}
	if o.State == task.Succeeded {
		r.result = bytes.Clone(o.Result)
	}
	r.setReason(o.Reason)
}

// retain keeps a done record for its retention.
func (db *DB) retain(r *record, keep time.Duration, now time.Time) {
	switch {
	case keep == 0:
		db.remove(r)
	case keep > 0:
		r.expires = after(now.UnixNano(), keep)
		db.finished.push(r, r.expires)
	}
}

// cancel ends a task that nobody holds, and with it all its claims but those
// that have their own time.
func (db *DB) cancel(r *record, reason string, keep time.Duration, now time.Time) {
	db.letGo(r)
	r.reserved = false
	db.endClaims(r)
	db.finish(r, &task.Outcome{State: task.Cancelled, Reason: reason, Keep: keep, EndedAt: now}, now)
	db.notify(r)
}

func (db *DB) cancelRevoked(r *record, now time.Time) {
	rv := r.revocation()
	db.cancel(r, rv.Reason, rv.Keep, now)
}
