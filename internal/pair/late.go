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

// late is what is written to the result store after the step that counts. When
// that fails it is kept, and written before a later call.
type late struct {
	creates  []task.Status // never kept: a start creates a status that is missing
	queued   []store.Record
	clears   []store.Key
	requeues []broker.ReplayedTask
	cancels  []cancelled
	deletes  []string
	retryAt  time.Time // not before this moment
}

const (
	maxLate   = 10_000          // of each kind; what is more is left to the reconciler
	lateAgain = time.Second     // between two tries
	lateLimit = 5 * time.Second // for one try
)

func (l *late) empty() bool {
	return len(l.creates)+len(l.queued)+len(l.clears)+len(l.requeues)+len(l.cancels)+len(l.deletes) == 0
}

// create adds the status of a task that was just stored.
func (l *late) create(e *task.Envelope) {
	if shown(e) {
		l.creates = append(l.creates, task.NewStatus(e))
	}
}

// settled adds what follows from a settlement that the broker confirmed.
func (l *late) settled(it *item) {
	if it.stored && it.outbox() {
		l.clears = append(l.clears, it.key)
	}
	for i := range it.Followups {
		// One with claims may have been left out: its start shows it.
		if p := &it.Followups[i]; len(p.Claims) == 0 {
			l.create(p.Envelope)
		}
	}
	// Of a prefetched delivery that goes back in place the store never heard.
	prefetched := it.held.by != nil && !it.held.shown && it.Outcome.NotBefore.IsZero() &&
		it.held.reserved == it.Outcome.Reserved
	if it.Outcome.State == task.Queued && !prefetched {
		l.queued = append(l.queued, store.Record{Key: it.key, Outcome: it.Outcome})
	}
}

// after is the context of what follows a step that is done: it outlives the
// caller's, but not for long.
func after(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), lateLimit)
}

// write writes l, and keeps what failed.
func (j *Joined) write(ctx context.Context, l late) {
	if l.empty() {
		return
	}
	ctx, cancel := after(ctx)
	defer cancel()
	var failed late
	var errs []error
	if len(l.requeues) > 0 {
		if _, err := j.results.Requeue(ctx, l.requeues); err != nil {
			failed.requeues, errs = l.requeues, append(errs, fmt.Errorf("show %d replays: %w", len(l.requeues), err))
		}
	}
	if len(l.queued) > 0 {
		// An item that is stale, or without a record, has nothing to show.
		if _, err := j.results.Record(ctx, l.queued); err != nil {
			failed.queued, errs = l.queued, append(errs, fmt.Errorf("show %d releases: %w", len(l.queued), err))
		}
	}
	if len(l.creates) > 0 {
		if _, err := j.results.Create(ctx, l.creates); err != nil {
			errs = append(errs, fmt.Errorf("create %d statuses: %w", len(l.creates), err))
		}
	}
	if len(l.cancels) > 0 {
		if _, err := j.cancel(ctx, l.cancels); err != nil {
			failed.cancels, errs = l.cancels, append(errs, err)
		}
	}
	if len(l.clears) > 0 {
		if err := j.results.Clear(ctx, l.clears); err != nil {
			failed.clears, errs = l.clears, append(errs, fmt.Errorf("clear %d outboxes: %w", len(l.clears), err))
		}
	}
	if len(l.deletes) > 0 {
		if _, err := j.results.Delete(ctx, l.deletes...); err != nil {
			failed.deletes, errs = l.deletes, append(errs, fmt.Errorf("delete %d statuses: %w", len(l.deletes), err))
		}
	}
	if len(errs) == 0 {
		return
	}
	j.log.Warn("the result store is behind; will try again", "error", errors.Join(errs...))
	j.keep(failed)
}

// keep adds l to what is to be written later.
func (j *Joined) keep(l late) {
	if l.empty() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.late.queued = bounded(append(j.late.queued, l.queued...))
	j.late.clears = bounded(append(j.late.clears, l.clears...))
	j.late.requeues = bounded(append(j.late.requeues, l.requeues...))
	j.late.cancels = bounded(append(j.late.cancels, l.cancels...))
	j.late.deletes = bounded(append(j.late.deletes, l.deletes...))
	j.late.retryAt = time.Now().Add(lateAgain)
}

// bounded keeps the newest.
func bounded[T any](s []T) []T { return s[max(0, len(s)-maxLate):] }

// catchUp writes what was kept, if it is time.
func (j *Joined) catchUp(ctx context.Context) {
	if l := j.takeLate(time.Now()); !l.empty() {
		j.write(ctx, l)
	}
}

func (j *Joined) takeLate(now time.Time) late {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.late.empty() || now.Before(j.late.retryAt) {
		return late{}
	}
	l := j.late
	j.late = late{}
	return l
}
