package pair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A reconciliation looks at so many records a page, and at no more than so many
// a second.
const (
	reconcilePage = 500
	reconcileRate = 2000
)

// Reconciled says what a reconciliation did.
type Reconciled struct {
	Looked   int // records looked at
	Outboxes int // outboxes that nobody was going to clear, delivered
	Orphans  int // statuses that had not ended and whose task nobody owned, ended
}

// Reconcile brings to their end what crashes between the two stores left and no
// delivery would: outboxes of outcomes whose task the broker does not hold any
// more, and statuses that are not terminal although nobody owns their task.
// Such a status becomes what the broker knows of the task (a dead letter, a
// revocation), else failed with reason orphaned: its envelope is gone.
//
// It looks only at what has not changed for two leases, in pages, at most 2,000
// records a second; each change compares the epoch, so it overwrites nothing
// newer. It needs a broker that is an Owner: ErrUnsupported otherwise. One
// process at a time does it.
func (j *Joined) Reconcile(ctx context.Context, lease time.Duration) (Reconciled, error) {
	return j.reconcile(ctx, lease, false)
}

// Orphans counts what Reconcile would bring to its end, and changes nothing.
func (j *Joined) Orphans(ctx context.Context, lease time.Duration) (Reconciled, error) {
	return j.reconcile(ctx, lease, true)
}

func (j *Joined) reconcile(ctx context.Context, lease time.Duration, dry bool) (Reconciled, error) {
	var done Reconciled
	if j.owner == nil {
		return done, fmt.Errorf("reconcile: the broker cannot tell which tasks it owns: %w", broker.ErrUnsupported)
	}
	if lease <= 0 {
		lease = broker.DefaultLease
	}
	before := time.Now().Add(-2 * lease)
	if err := j.reconcileOutboxes(ctx, before, dry, &done); err != nil {
		return done, fmt.Errorf("reconcile outboxes: %w", err)
	}
	if err := j.reconcileStatuses(ctx, before, dry, &done); err != nil {
		return done, fmt.Errorf("reconcile statuses: %w", err)
	}
	return done, nil
}

func (j *Joined) reconcileOutboxes(ctx context.Context, before time.Time, dry bool, done *Reconciled) error {
	o, ok := j.results.(store.Outboxes)
	if !ok {
		return nil // they keep their records, and harm nothing
	}
	cursor := ""
	for {
		records, next, err := o.ListOutboxes(ctx, before, broker.Page{Limit: reconcilePage, Cursor: cursor})
		if err != nil {
			return err
		}
		ids := make([]string, len(records))
		for i := range records {
			ids[i] = records[i].ID
		}
		owned, err := j.holds(ctx, ids)
		if err != nil {
			return err
		}
		var boxes []outbox
		for i := range records {
			if r := &records[i]; !owned[i] && r.Outcome.State.Terminal() {
				boxes = append(boxes, outbox{r.Key, r.Followups})
			}
		}
		if !dry {
			err = j.deliver(ctx, boxes)
		}
		if err != nil {
			return err
		}
		done.Looked += len(records)
		done.Outboxes += len(boxes)
		if cursor = next; cursor == "" {
			return nil
		}
		if err := rest(ctx, len(records)); err != nil {
			return err
		}
	}
}

func (j *Joined) reconcileStatuses(ctx context.Context, before time.Time, dry bool, done *Reconciled) error {
	q := store.Query{
		States: []task.State{task.Queued, task.Running, task.Retried}, Until: before, Limit: reconcilePage,
	}
	for {
		list, err := j.results.List(ctx, q)
		if err != nil {
			return err
		}
		var ids []string
		for i := range list.Statuses {
			if s := &list.Statuses[i]; unchanged(s, before) {
				ids = append(ids, s.ID)
			}
		}
		n, err := j.adopt(ctx, ids, dry)
		done.Looked += len(list.Statuses)
		done.Orphans += n
		if err != nil {
			return err
		}
		if q.Cursor = list.Cursor; q.Cursor == "" {
			return nil
		}
		if err := rest(ctx, max(list.Looked, len(list.Statuses))); err != nil {
			return err
		}
	}
}

// unchanged reports whether nothing was noted of the task since then.
func unchanged(s *task.Status, since time.Time) bool {
	if s.Error != nil && !s.Error.At.Before(since) || s.Progress != nil && !s.Progress.At.Before(since) {
		return false
	}
	return s.EnqueuedAt.Before(since) && s.StartedAt.Before(since) && s.LastReplayAt.Before(since)
}

// rest keeps to the rate after so many records.
func rest(ctx context.Context, records int) error {
	t := time.NewTimer(time.Duration(records) * time.Second / reconcileRate)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adopt ends those of the tasks that nobody owns, or dry only counts them, and
// says how many.
func (j *Joined) adopt(ctx context.Context, ids []string, dry bool) (int, error) {
	orphans, err := j.unowned(ctx, ids)
	if err != nil || len(orphans) == 0 {
		return 0, err
	}
	// Only now read again: whoever settled one in the meantime had recorded
	// its outcome before the broker let go of it.
	found, err := j.get(ctx, orphans)
	if err != nil {
		return 0, err
	}
	if dry {
		n := 0
		for i := range found {
			if found[i].Err == nil && !found[i].Status.State.Terminal() {
				n++
			}
		}
		return n, nil
	}
	ends, err := j.ends(ctx, orphans)
	if err != nil {
		return 0, err
	}
	var records []store.Record
	var of []*task.Status
	for i := range found {
		if s := &found[i].Status; found[i].Err == nil && !s.State.Terminal() {
			o := ends[i]
			o.Attempt = max(o.Attempt, s.Attempt)
			records = append(records, store.Record{Key: store.Key{ID: s.ID, Epoch: s.Epoch}, Outcome: o})
			of = append(of, s)
		}
	}
	if len(records) == 0 {
		return 0, nil
	}
	errs, err := j.results.Record(ctx, records)
	if err == nil && len(errs) != len(records) {
		err = errContract
	}
	if err != nil {
		return 0, fmt.Errorf("record %d orphans: %w", len(records), err)
	}
	n := 0
	for i, s := range of {
		if errs[i] != nil {
			continue // it moved on
		}
		n++
		j.meter.Counter(measure.OrphansFixed, s.Queue).Add(1)
		j.log.Warn("a task that nobody owned was ended", "task", s.Name, "task_id", s.ID, "queue", s.Queue,
			"was", s.State, "state", records[i].Outcome.State, "reason", records[i].Outcome.Reason)
	}
	return n, nil
}

// unowned returns those of the tasks that the broker does not hold.
func (j *Joined) unowned(ctx context.Context, ids []string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	owned, err := j.holds(ctx, ids)
	if err != nil {
		return nil, err
	}
	var orphans []string
	for i, id := range ids {
		if !owned[i] {
			orphans = append(orphans, id)
		}
	}
	return orphans, nil
}

// ends says how each task ended that the broker does not hold.
func (j *Joined) ends(ctx context.Context, ids []string) ([]task.Outcome, error) {
	now := time.Now().UTC()
	ends := make([]task.Outcome, len(ids))
	at := make(map[string]int, len(ids))
	for i, id := range ids {
		at[id] = i
		ends[i] = task.Outcome{
			State: task.Failed, Reason: task.ReasonOrphaned, EndedAt: now, Keep: task.Forever,
			Error: &task.Error{Type: task.ReasonOrphaned, Message: "no broker holds this task any more", At: now},
		}
	}
	if err := j.revokedEnds(ctx, ids, ends); err != nil {
		return nil, err
	}
	dead, _, err := j.inner.DeadLetters().ListDeadLetters(ctx, broker.DeadFilter{IDs: ids}, broker.Page{Limit: 1000})
	if err != nil && !errors.Is(err, broker.ErrUnsupported) {
		return nil, fmt.Errorf("look for dead letters: %w", err)
	}
	for i := range dead {
		if k, ok := at[dead[i].Envelope.ID]; ok {
			d := &dead[i]
			ends[k] = task.Outcome{
				State: task.Failed, Reason: d.Reason, Error: d.Error, Attempt: d.Attempt, EndedAt: d.DeadAt, Keep: task.Forever,
			}
		}
	}
	return ends, nil
}

// revokedEnds finds what the broker itself cancelled: a task that was revoked
// while a worker held it, and whose worker died. Asked to revoke it again, the
// broker says that it is too late.
func (j *Joined) revokedEnds(ctx context.Context, ids []string, ends []task.Outcome) error {
	r, ok := broker.As[broker.Revoker](j.inner)
	if !ok {
		return nil
	}
	batch := make([]broker.Revocation, len(ids))
	for i, id := range ids {
		batch[i] = broker.Revocation{ID: id, Reason: task.ReasonOrphaned, Keep: revokedKeep}
	}
	answers, err := r.Revoke(ctx, batch)
	if err != nil {
		return fmt.Errorf("look for revoked tasks: %w", err)
	}
	if len(answers) != len(batch) {
		return errContract
	}
	for i, a := range answers {
		if a.State == broker.RevokeTooLate {
			ends[i] = task.Outcome{State: task.Cancelled, Reason: task.ReasonRevoked, EndedAt: ends[i].EndedAt, Keep: revokedKeep}
		}
	}
	return nil
}
