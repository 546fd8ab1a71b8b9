package beat

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

// MaxBackfill is how many moments one Backfill takes.
const MaxBackfill = 1000

// Backfilled is one moment of a range that passed, and what became of it.
type Backfilled struct {
	Due   time.Time // in the time zone of its cron
	Task  string    // TaskID of the moment
	Known bool      // its task was there already, and was not enqueued again
	Err   error     // its task was not enqueued
}

// Backfill enqueues the tasks of an entry's moments from one to another, both
// included, which have passed: those of a time at which it was not there yet,
// disabled, or passed over. A moment's task has the id that its firing gives it:
// what is known still, since it fired or was backfilled, is not enqueued again. It
// does not matter whether the entry is enabled, and its moments stay as they are;
// its history has one line for all.
//
// With preview nothing is enqueued: the answer is which moments there are. More
// than MaxBackfill are refused, as stem.ErrInvalid. An error beside an answer means
// that of those with neither Known nor Err nothing is known: asking again is safe.
func (b *Book) Backfill(ctx context.Context, id, by string, from, to time.Time, preview bool) ([]Backfilled, error) {
	l, err := b.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	now, err := b.Now(ctx)
	switch {
	case err != nil:
		return nil, err
	case l.Problem != nil:
		return nil, fmt.Errorf("backfill schedule %s: its definition cannot be read: %w", id, l.Problem)
	case from.After(to):
		return nil, wrong("from", "%s is after %s", from.Format(time.RFC3339), to.Format(time.RFC3339))
	case to.After(now):
		return nil, wrong("to", "%s has not come yet: want moments that have passed", to.Format(time.RFC3339))
	}
	done, err := l.Entry.passed(from, to)
	if err != nil || preview || len(done) == 0 {
		return done, err
	}
	if b.client == nil {
		return nil, fmt.Errorf("backfill schedule %s: there is no client: %w", id, broker.ErrUnsupported)
	}
	if err := b.enqueuePassed(ctx, &l.Entry, done, now); err != nil {
		return done, fmt.Errorf("backfill schedule %s: %w", id, err)
	}
	last := &done[len(done)-1]
	record := store.FireRecord{
		Due: last.Due, Outcome: store.OutcomeManual, Task: last.Task, Beat: by,
		Error: fmt.Sprintf("backfill of %d moments from %s on", len(done), done[0].Due.Format(time.RFC3339)),
	}
	if err := b.noteRun(ctx, id, &record); err != nil {
		return done, fmt.Errorf("%d moments were enqueued, but the history of schedule %s does not say so: %w", len(done), id, err)
	}
	return done, nil
}

// passed are the moments from one to another.
func (e *Entry) passed(from, to time.Time) ([]Backfilled, error) {
	m, err := e.compile(&schedule.Loader{})
	if err != nil {
		return nil, err
	}
	var out []Backfilled
	for _, t := range schedule.Moments(m.spec, from.Add(-time.Nanosecond), MaxBackfill+1) {
		if t.After(to) {
			break
		}
		out = append(out, Backfilled{Due: t, Task: TaskID(e.ID, t)})
	}
	if len(out) > MaxBackfill {
		return nil, wrong("to", "there are more than %d moments until %s: want a shorter range", MaxBackfill, to.Format(time.RFC3339))
	}
	return out, nil
}

// enqueuePassed enqueues the tasks of moments, each with its own outcome.
func (b *Book) enqueuePassed(ctx context.Context, e *Entry, moments []Backfilled, now time.Time) error {
	items := make([]stem.Item, len(moments))
	for i := range moments {
		items[i] = e.item(b.tasks, moments[i].Task, now)
	}
	made, err := b.client.Prepare(ctx, now, items...)
	if err != nil {
		return fmt.Errorf("make the tasks: %w", err)
	}
	var batch []broker.Publication
	var of []int
	for i := range made {
		if moments[i].Err = made[i].Err; made[i].Err == nil {
			batch, of = append(batch, made[i].Publication), append(of, i)
		}
	}
	outcomes, err := b.client.Broker().Publish(ctx, batch)
	if err != nil {
		return fmt.Errorf("enqueue the tasks: %w", err)
	}
	for k, i := range of {
		var r store.FireRecord
		switch r.Settle(outcomes[k]); r.Outcome {
		case store.OutcomeFired:
		case store.OutcomeDuplicate:
			moments[i].Known = true
		default:
			moments[i].Err = fmt.Errorf("task %s: %s", moments[i].Task, r.Error)
		}
	}
	return nil
}
