package beat

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Errors that callers branch on.
var (
	// ErrConflict: an entry was changed by somebody else. It is a
	// *store.ConflictError.
	ErrConflict = store.ErrConflict
	// ErrNoSchedule: there is no entry of that id.
	ErrNoSchedule = store.ErrNoSchedule
)

// Book is how the entries of one store are looked at and changed. It is safe for
// concurrent use.
type Book struct {
	schedules store.Schedules
	locks     store.Locks
	client    *stem.Client
	tasks     map[string]stem.Registration
	loader    schedule.Loader
}

// NewBook makes a book of a store's entries; its runs by hand go through the
// client, as the tasks that are declared, if they are among them. locks may be
// nil: then nobody knows who leads.
func NewBook(client *stem.Client, schedules store.Schedules, locks store.Locks, tasks ...stem.Registration) (*Book, error) {
	if schedules == nil {
		return nil, fmt.Errorf("this store keeps no schedules: %w", broker.ErrUnsupported)
	}
	b := &Book{schedules: schedules, locks: locks, client: client, tasks: map[string]stem.Registration{}}
	for _, r := range tasks {
		b.tasks[r.Name()] = r
	}
	return b, nil
}

// Listed is an entry as the store has it.
type Listed struct {
	Entry   Entry
	Record  store.Schedule // where it stands
	Status  Status
	Problem error // its definition cannot be read: it does not fire
	When    string
}

// Status is what an entry does.
type Status string

// What an entry does.
const (
	StatusActive   Status = "active"   // it has a next moment
	StatusDisabled Status = "disabled" // by its owner
	StatusPaused   Status = "paused"   // by an operator, with a note
	StatusDone     Status = "done"     // it fires no more
	StatusBroken   Status = "broken"   // its definition cannot be read
)

// listed reads a record.
func (b *Book) listed(s store.Schedule) Listed {
	l := Listed{Record: s}
	l.Problem = l.Entry.read(s.Definition, false)
	l.Entry.ID = s.ID
	var m *moments
	if l.Problem == nil {
		m, l.Problem = l.Entry.moments(&b.loader)
	}
	if m != nil {
		l.When = m.spec.Describe()
	}
	switch e := &l.Entry; {
	case l.Problem != nil:
		l.Status = StatusBroken
	case e.Enabled != nil && !*e.Enabled:
		l.Status = StatusDisabled
	case e.Paused != nil && *e.Paused:
		l.Status = StatusPaused
	case s.NextDue.IsZero():
		l.Status = StatusDone
	default:
		l.Status = StatusActive
	}
	return l
}

// List returns a page of entries by id, and the cursor of the next page; "" after
// the last.
func (b *Book) List(ctx context.Context, p broker.Page) ([]Listed, string, error) {
	page, next, err := b.schedules.List(ctx, p)
	if err != nil {
		return nil, "", fmt.Errorf("list schedules: %w", err)
	}
	out := make([]Listed, len(page))
	for i := range page {
		out[i] = b.listed(page[i])
	}
	return out, next, nil
}

// All yields every entry by id, a page at a time.
func (b *Book) All(ctx context.Context) iter.Seq2[[]Listed, error] {
	return func(yield func([]Listed, error) bool) {
		p := broker.Page{Limit: 1000}
		for {
			page, next, err := b.List(ctx, p)
			if err != nil || len(page) > 0 {
				if !yield(page, err) || err != nil {
					return
				}
			}
			if p.Cursor = next; next == "" {
				return
			}
		}
	}
}

// Get returns an entry, or ErrNoSchedule.
func (b *Book) Get(ctx context.Context, id string) (Listed, error) {
	if err := ValidateID(id); err != nil {
		return Listed{}, err
	}
	found, err := b.schedules.Get(ctx, id)
	if err == nil {
		err = found[0].Err
	}
	if err != nil {
		return Listed{}, fmt.Errorf("schedule %s: %w", id, err)
	}
	return b.listed(found[0].Schedule), nil
}

// History returns an entry's newest firings, the newest first; limit 0 is all
// that are kept.
func (b *Book) History(ctx context.Context, id string, limit int) ([]store.FireRecord, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	return b.schedules.History(ctx, id, limit)
}

// Leader says which beat leads; a zero Lock when none does.
func (b *Book) Leader(ctx context.Context) (store.Lock, error) {
	if b.locks == nil {
		return store.Lock{}, nil
	}
	l, err := b.locks.Holder(ctx, store.LeadLock)
	if err != nil {
		return l, fmt.Errorf("ask which beat leads: %w", err)
	}
	return l, nil
}

// Now is the store's clock.
func (b *Book) Now(ctx context.Context) (time.Time, error) {
	due, err := b.schedules.Due(ctx, 1, 0)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of the schedules: %w", err)
	}
	return due.Now, nil
}

// Moment is one moment to come.
type Moment struct {
	Due   time.Time // in the time zone of its cron
	Fires time.Time // due, and its jitter
}

// Next returns the next n moments of an entry after one moment. It asks no store:
// the entry may be one that none has.
func (e *Entry) Next(after time.Time, n int) ([]Moment, error) {
	m, err := e.compile(&schedule.Loader{})
	if err != nil {
		return nil, err
	}
	var out []Moment
	for _, t := range schedule.Moments(m.spec, after, n) {
		out = append(out, Moment{Due: t, Fires: m.at(t).In(t.Location())})
	}
	return out, nil
}

// Describe says in words when the entry fires.
func (e *Entry) Describe() (string, error) {
	m, err := e.moments(&schedule.Loader{})
	if err != nil {
		return "", err
	}
	return m.spec.Describe(), nil
}

// maxTries bounds how often a change is tried again since the entry fired
// meanwhile.
const maxTries = 20

// ChangeOptions are those of a change to one entry.
type ChangeOptions struct {
	// Version is the one that the change was made from: another is ErrConflict.
	// 0: whichever it is at.
	Version int64
}

// Edit changes an entry by a function of its present state.
func (b *Book) Edit(ctx context.Context, id string, o ChangeOptions, change func(*Entry)) (Listed, error) {
	for try := 0; ; try++ {
		old, err := b.Get(ctx, id)
		if err != nil {
			return old, err
		}
		if o.Version != 0 && old.Record.Version != o.Version {
			return old, &store.ConflictError{ID: id, Have: old.Record.Version, Want: o.Version}
		}
		now, err := b.Now(ctx)
		if err != nil {
			return old, err
		}
		entry := old.Entry
		change(&entry)
		c, err := b.change(&old, &entry, now)
		if err != nil {
			return old, err
		}
		stored, err := b.schedules.Apply(ctx, []store.ScheduleChange{c})
		switch {
		case err == nil:
			return b.listed(stored[0]), nil
		case !errors.Is(err, store.ErrConflict) || try == maxTries:
			return old, fmt.Errorf("change schedule %s: %w", id, err)
		}
	}
}

// Enable makes an entry fire from now on; Disable stops it. Moments of the time
// between are not made up for.
func (b *Book) Enable(ctx context.Context, id string, o ChangeOptions) (Listed, error) {
	return b.Edit(ctx, id, o, func(e *Entry) { e.Enabled = nil })
}

// Disable stops an entry until it is enabled.
func (b *Book) Disable(ctx context.Context, id string, o ChangeOptions) (Listed, error) {
	off := false
	return b.Edit(ctx, id, o, func(e *Entry) { e.Enabled = &off })
}

// Pause stops an entry for a while, and says why.
func (b *Book) Pause(ctx context.Context, id, note string, o ChangeOptions) (Listed, error) {
	on := true
	return b.Edit(ctx, id, o, func(e *Entry) { e.Paused, e.Note = &on, note })
}

// Resume ends a pause; moments of that time are not made up for.
func (b *Book) Resume(ctx context.Context, id string, o ChangeOptions) (Listed, error) {
	return b.Edit(ctx, id, o, func(e *Entry) { e.Paused, e.Note = nil, "" })
}

// Delete removes an entry and its history. One that is not there is
// ErrNoSchedule.
func (b *Book) Delete(ctx context.Context, id string, o ChangeOptions) error {
	for try := 0; ; try++ {
		old, err := b.Get(ctx, id)
		if err != nil {
			return err
		}
		c := store.ScheduleChange{ID: id, Version: old.Record.Version, Delete: true}
		if o.Version != 0 {
			c.Version = o.Version
		}
		_, err = b.schedules.Apply(ctx, []store.ScheduleChange{c})
		switch {
		case err == nil:
			return nil
		case o.Version != 0 || !errors.Is(err, store.ErrConflict) || try == maxTries:
			return fmt.Errorf("delete schedule %s: %w", id, err)
		}
	}
}

// Run enqueues an entry's task now, by hand, whether it is enabled or not, and
// notes it in its history. Its moments stay as they are.
func (b *Book) Run(ctx context.Context, id, by string) (stem.Receipt, error) {
	if b.client == nil {
		return stem.Receipt{}, fmt.Errorf("run schedule %s: there is no client: %w", id, broker.ErrUnsupported)
	}
	old, err := b.Get(ctx, id)
	switch {
	case err != nil:
		return stem.Receipt{}, err
	case old.Problem != nil:
		return stem.Receipt{}, fmt.Errorf("run schedule %s: its definition cannot be read: %w", id, old.Problem)
	}
	now, err := b.Now(ctx)
	if err != nil {
		return stem.Receipt{}, err
	}
	item := old.Entry.item(b.tasks, task.NewID(), now)
	receipts, err := b.client.EnqueueMany(ctx, []stem.Item{item})
	if err == nil {
		err = receipts[0].Err
	}
	if err != nil {
		return stem.Receipt{ID: item.ID(), Err: err}, fmt.Errorf("run schedule %s: %w", id, err)
	}
	record := store.FireRecord{Outcome: store.OutcomeManual, Task: receipts[0].ID, Beat: by}
	if err := b.noteRun(ctx, id, &record); err != nil {
		return receipts[0], fmt.Errorf("task %s was enqueued, but the history of schedule %s does not have it: %w", receipts[0].ID, id, err)
	}
	return receipts[0], nil
}

// noteRun puts a run by hand into the history.
func (b *Book) noteRun(ctx context.Context, id string, r *store.FireRecord) error {
	for try := 0; ; try++ {
		found, err := b.schedules.Get(ctx, id)
		if err == nil {
			err = found[0].Err
		}
		if err != nil {
			return err
		}
		s := &found[0].Schedule
		_, err = b.schedules.Apply(ctx, []store.ScheduleChange{{
			ID: id, Version: s.Version, LastDue: s.LastDue, NextDue: s.NextDue, NextAt: s.NextAt, Record: r,
		}})
		if err == nil || !errors.Is(err, store.ErrConflict) || try == maxTries {
			return err
		}
	}
}
