package beat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

const (
	dueLimit  = 1000 // entries that are read at once
	fireLimit = 500  // claims of one step
)

// fire fires what is due, or makes ready what is due soon. It says in how long the
// store is to be looked at again, 0 when nothing is known to come, and whether that
// is at once.
func (b *Beat) fire(work context.Context) (next time.Duration, more bool, err error) {
	ctx, cancel := context.WithTimeout(work, callTimeout)
	defer cancel()
	b.aims = b.aims[:0]
	asked := time.Now()
	due, err := b.schedules.Due(ctx, dueLimit+b.waiting, lookAhead)
	if err != nil {
		return 0, false, fmt.Errorf("read due schedules: %w", err)
	}
	b.changes = due.Changes
	if len(due.Pending) > 0 { // of a beat that died, or of a broker that was away
		if err := b.publish(work, due.Now, due.Pending, true); err != nil {
			return 0, false, err
		}
		return 0, true, nil
	}
	n := slices.IndexFunc(due.Entries, func(s store.Schedule) bool { return s.NextAt.After(due.Now) })
	if n < 0 {
		n = len(due.Entries)
	}
	candidates, err := b.candidates(ctx, due.Entries[:n])
	if err != nil {
		return 0, false, err
	}
	before := b.waiting
	if b.waiting = n - len(candidates); len(candidates) > 0 {
		return 0, true, b.fireAll(work, due.Now, candidates)
	}
	// All that came are waiting, and there are more behind them.
	if due.More && n == len(due.Entries) && b.waiting > before {
		return 0, true, nil
	}
	next, err = b.later(ctx, asked, &due, due.Entries[n:])
	return next, false, err
}

// later makes ready what is due soon, and says in how long to look again, 0 when
// nothing is known to come.
func (b *Beat) later(ctx context.Context, asked time.Time, due *store.Due, soon []store.Schedule) (next time.Duration, err error) {
	switch {
	case len(soon) > 0:
		next, err = b.takeAim(ctx, asked, due.Now, soon)
	case due.Next > 0 && !due.More:
		next = max(due.Next-lookAhead, time.Millisecond)
	}
	if b.waiting > 0 && (next == 0 || next > waitLook) {
		next = waitLook
	}
	return next, err
}

// fireAll fires what is due: all of it, or until the lead is to be renewed. What
// fired is due again sooner than Due's answer knew.
func (b *Beat) fireAll(work context.Context, now time.Time, candidates []candidate) error {
	var shots []shot
	for i := range candidates {
		shots = append(shots, candidates[i].decide(now)...)
		if len(shots) >= fireLimit || i == len(candidates)-1 {
			if err := b.shoot(work, now, shots); err != nil {
				return err
			}
			shots = shots[:0]
		}
		if time.Since(b.renewed) >= b.renewal() {
			return nil // first the lead
		}
	}
	return nil
}

// candidates reads the entries, and whether the tasks that they fired last have
// ended, where that matters. Those that wait for that are left out.
func (b *Beat) candidates(ctx context.Context, entries []store.Schedule) ([]candidate, error) {
	cs := make([]candidate, len(entries))
	var ids []string
	var watching []int
	for i := range entries {
		cs[i] = candidate{Schedule: entries[i], definition: b.known.of(&entries[i])}
		if cs[i].watchesOverlap() {
			ids, watching = append(ids, cs[i].LastTask), append(watching, i)
		}
	}
	if len(ids) == 0 {
		return cs, nil
	}
	running, err := b.running(ctx, ids)
	if errors.Is(err, stem.ErrNoResults) {
		for _, i := range watching {
			cs[i].err = fmt.Errorf("overlap %s: %w", cs[i].entry.Overlap, err)
		}
		return cs, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether tasks have ended: %w", err)
	}
	for k, i := range watching {
		cs[i].running = running[k]
	}
	return slices.DeleteFunc(cs, func(c candidate) bool { return c.waits() }), nil
}

// running asks whether tasks wait or run. The broker knows it of tasks that have
// no status, too; another is asked for the status.
func (b *Beat) running(ctx context.Context, ids []string) ([]bool, error) {
	if b.owner != nil {
		return b.owner.Holds(ctx, ids...)
	}
	found, err := b.client.Lookup(ctx, ids...)
	if err != nil {
		return nil, err
	}
	running := make([]bool, len(ids))
	for i := range found {
		running[i] = found[i].Err == nil && !found[i].Status.State.Terminal()
	}
	return running, nil
}

// shoot claims moments and enqueues their tasks.
func (b *Beat) shoot(work context.Context, now time.Time, shots []shot) error {
	if err := b.prepare(work, now, shots); err != nil {
		return err
	}
	for first := true; len(shots) > 0; first = false {
		if !first && time.Since(b.renewed) >= b.renewal() {
			return nil // first the lead; the rest is due still
		}
		n := min(len(shots), fireLimit)
		if err := b.claim(work, now, shots[:n]); err != nil {
			return err
		}
		shots = shots[n:]
	}
	return nil
}

// prepare makes the publications of the shots that fire.
func (b *Beat) prepare(ctx context.Context, now time.Time, shots []shot) error {
	var items []stem.Item
	var of []int
	for i := range shots {
		if s := &shots[i]; s.fires {
			items = append(items, s.entry.item(b.tasks, TaskID(s.firing.ID, s.firing.Due), now))
			of = append(of, i)
		}
	}
	if len(items) == 0 {
		return nil
	}
	made, err := b.client.Prepare(ctx, now, items...)
	if err != nil {
		return fmt.Errorf("make the tasks of schedules: %w", err)
	}
	for k, i := range of {
		f := &shots[i].firing
		if made[k].Err != nil {
			f.Outcome, f.Error = store.OutcomeFailed, made[k].Err.Error()
			continue
		}
		p := made[k].Publication
		if !b.atomic && b.claims {
			p.Claims = append(p.Claims, broker.Claim{Key: "schedule:" + p.Envelope.ID, For: memory})
		}
		f.Publication = &p
	}
	return nil
}

// claim makes one batch of claims.
func (b *Beat) claim(work context.Context, now time.Time, shots []shot) error {
	ctx, cancel := context.WithTimeout(work, callTimeout)
	defer cancel()
	batch := make([]store.Firing, len(shots))
	for i := range shots {
		batch[i] = shots[i].firing
		batch[i].Beat, batch[i].Atomic = b.opts.ID, b.atomic
	}
	claimed := time.Now()
	answers, err := b.schedules.Fire(ctx, b.lock, batch)
	if err != nil {
		return fmt.Errorf("fire %d schedules: %w", len(batch), err)
	}
	var pending []store.Pending
	var refused error
	for i := range answers {
		a, p := &answers[i], shots[i].firing.Publication
		switch {
		case errors.Is(a.Err, store.ErrNotDue):
			b.lookAgain() // by the store's clock
		case a.Err != nil && !errors.Is(a.Err, store.ErrConflict) && !errors.Is(a.Err, store.ErrNoSchedule):
			refused = fmt.Errorf("fire schedule %s: %w", shots[i].firing.ID, a.Err)
		case a.Err != nil:
			b.opts.Logger.LogAttrs(ctx, slog.LevelDebug, "schedule not fired: it changed meanwhile",
				slog.String("schedule", shots[i].firing.ID), slog.Time("due", shots[i].firing.Due), slog.Any("error", a.Err))
		case a.Record.Outcome == store.OutcomePending && p != nil:
			pending = append(pending, store.Pending{Record: a.Record, Publication: *p})
		default:
			b.tell(ctx, &a.Record, shots[i].entry, p)
		}
	}
	if len(pending) == 0 {
		return refused
	}
	// A process that was stopped here for hours must not publish what another
	// has long published and the broker forgotten.
	if time.Since(claimed) > memory/2 {
		return refused
	}
	return errors.Join(refused, b.publish(work, now, pending, false))
}

// publish brings the tasks of claims to a broker on another store than the
// claims', and says so there. Again is for claims of which it is not known
// whether they were published.
func (b *Beat) publish(work context.Context, now time.Time, pending []store.Pending, again bool) error {
	ctx, cancel := context.WithTimeout(work, callTimeout)
	defer cancel()
	records := make([]store.FireRecord, len(pending))
	var batch []broker.Publication
	var of []int
	for i := range pending {
		records[i] = pending[i].Record
		if now.Sub(records[i].Fired) >= memory {
			records[i].Outcome = store.OutcomeUnknown
			records[i].Error = "whether its task was enqueued is not known: the broker was away for longer than it remembers"
			continue
		}
		batch, of = append(batch, pending[i].Publication), append(of, i)
	}
	if len(batch) > 0 {
		outcomes, err := b.client.Broker().Publish(ctx, batch)
		if err != nil {
			return fmt.Errorf("enqueue the tasks of %d schedules: %w", len(batch), err)
		}
		for k, i := range of {
			settle(&records[i], outcomes[k], again)
		}
	}
	if err := b.schedules.Finish(ctx, b.lock, records); err != nil {
		return fmt.Errorf("note what became of %d schedules: %w", len(records), err)
	}
	for i := range records {
		b.tell(ctx, &records[i], nil, &pending[i].Publication)
	}
	return nil
}

// settle writes what the broker said into the record.
func settle(r *store.FireRecord, o broker.Outcome, again bool) {
	if again && (o.State == broker.Exists || o.State == broker.Duplicate) {
		o = broker.Outcome{State: broker.Stored} // by whoever claimed it
	}
	r.Settle(o)
}
