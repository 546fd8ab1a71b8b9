package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// topicSchedules is told with each change of entries.
const topicSchedules = "schedules"

// Schedules returns the file as the place of the scheduler's entries, which
// fire into the file's own brokers in the step that claims (store.FiresInto).
func (db *DB) Schedules() store.Schedules { return &schedules{db: db} }

type schedules struct {
	db *DB

	mu     sync.Mutex
	passed map[int64]bool // pending firings that cannot be read, of which the log has said so
}

// FiresInto implements store.FiresInto: true for the brokers of the same file
// and namespace, also when they were opened apart.
func (s *schedules) FiresInto(b broker.Broker) bool {
	own, ok := b.(*fileBroker)
	return ok && own.db.path == s.db.path && own.db.config.Namespace == s.db.config.Namespace
}

// plan is a row of the table of schedules.
type plan struct {
	store.Schedule
	seq     int64
	records int64
}

// entryColumns is what {entry} stands for in the statements; see scanEntry.
const entryColumns = "seq, id, version, updated, next_due, next_at, last_due, last_fired, jitter, drift, fired, misfired, records, last_task, last_error, definition"

func scanEntry(s *sqlite3.Stmt) plan {
	return plan{
		seq: s.ColumnInt64(0), records: s.ColumnInt64(12),
		Schedule: store.Schedule{
			ID: s.ColumnText(1), Version: s.ColumnInt64(2), UpdatedAt: moment(s.ColumnInt64(3)),
			NextDue: dueMoment(s.ColumnInt64(4)), NextAt: dueMoment(s.ColumnInt64(5)), LastDue: dueMoment(s.ColumnInt64(6)),
			LastFired: moment(s.ColumnInt64(7)), Jitter: time.Duration(s.ColumnInt64(8)), Drift: time.Duration(s.ColumnInt64(9)),
			Fired: s.ColumnInt64(10), Misfired: s.ColumnInt64(11),
			LastTask: s.ColumnText(13), LastError: s.ColumnText(14), Definition: json.RawMessage(s.ColumnText(15)),
		},
	}
}

// dueMoment and dueMillis translate between a due moment and its ms in the
// file.
func dueMoment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func dueMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// entry returns the entry of that id, nil if there is none.
func (c *conn) entry(id string) (e *plan, err error) {
	_, err = c.one("schedule", func(s *sqlite3.Stmt) {
		v := scanEntry(s)
		e = &v
	}, id)
	return e, err
}

// schedule is the part of an entry that the contract knows, nil of none.
func (e *plan) schedule() *store.Schedule {
	if e == nil {
		return nil
	}
	return &e.Schedule
}

// Apply implements store.Schedules.
func (s *schedules) Apply(ctx context.Context, changes []store.ScheduleChange) ([]store.Schedule, error) {
	if err := store.CheckChanges(changes); err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	if err := s.check(ctx); err != nil || len(changes) == 0 {
		return nil, err
	}
	var list []store.Schedule
	var refused error
	err := s.db.write(ctx, func(t *tx) (err error) {
		list, refused, err = t.applyChanges(changes)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	return list, nil
}

func (s *schedules) check(ctx context.Context) error {
	if s.db.isClosed() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// applyChanges applies all changes, or none when one of them is refused.
func (t *tx) applyChanges(changes []store.ScheduleChange) (list []store.Schedule, refused, err error) {
	entries := make([]*plan, len(changes))
	for i := range changes {
		if entries[i], err = t.entry(changes[i].ID); err != nil {
			return nil, nil, err
		}
		if refused = changes[i].Conflict(entries[i].schedule()); refused != nil {
			return nil, refused, nil
		}
	}
	floor := int64(0)
	if _, err := t.one("schedule-floor", func(s *sqlite3.Stmt) { floor = s.ColumnInt64(0) }); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	list = make([]store.Schedule, len(changes))
	for i := range changes {
		e := entries[i]
		if e == nil {
			e = &plan{Schedule: store.Schedule{Version: floor}}
		}
		if err := t.applyChange(e, &changes[i], now); err != nil {
			return nil, nil, fmt.Errorf("schedule %s: %w", changes[i].ID, err)
		}
		list[i] = e.Schedule
	}
	t.topics = append(t.topics, topicSchedules)
	return list, nil, t.exec("count-schedule-change")
}

// applyChange applies a change that nothing conflicts with.
func (t *tx) applyChange(e *plan, c *store.ScheduleChange, now time.Time) error {
	if c.Delete {
		if err := t.exec("delete-firings", e.seq); err != nil {
			return err
		}
		if err := t.exec("raise-schedule-floor", e.Version); err != nil {
			return err
		}
		return t.exec("delete-schedule", e.seq)
	}
	e.Change(c, now)
	e.Version++
	updated, due, at, definition := micros(e.UpdatedAt), dueMillis(e.NextDue), dueMillis(e.NextAt), string(e.Definition)
	if e.seq == 0 {
		_, err := t.one("add-schedule", func(s *sqlite3.Stmt) { e.seq = s.ColumnInt64(0) },
			e.ID, e.Version, updated, due, at, definition)
		if err != nil {
			return err
		}
	} else if err := t.exec("change-schedule", e.Version, updated, due, at, definition, e.seq); err != nil {
		return err
	}
	if c.Record == nil {
		return nil
	}
	r := c.Record.ByHand(e.ID, now)
	if err := t.addFiring(e, &r); err != nil {
		return err
	}
	return t.markEntry(e)
}

// Get implements store.Schedules.
func (s *schedules) Get(ctx context.Context, ids ...string) ([]store.FoundSchedule, error) {
	found := make([]store.FoundSchedule, len(ids))
	err := s.db.read(ctx, func(c *conn) error {
		for i, id := range ids {
			e, err := c.entry(id)
			switch {
			case err != nil:
				return err
			case e == nil:
				found[i] = store.FoundSchedule{Err: store.ErrNoSchedule}
			default:
				found[i] = store.FoundSchedule{Schedule: e.Schedule}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get schedules: %w", err)
	}
	return found, nil
}

// List implements store.Schedules.
func (s *schedules) List(ctx context.Context, p broker.Page) ([]store.Schedule, string, error) {
	var list []store.Schedule
	size, next := p.Size(), ""
	err := s.db.read(ctx, func(c *conn) error {
		list, next = nil, ""
		return c.each("schedules", func(s *sqlite3.Stmt) bool {
			if len(list) == size {
				next = list[size-1].ID
				return false
			}
			list = append(list, scanEntry(s).Schedule)
			return true
		}, p.Cursor, size+1)
	})
	if err != nil {
		return nil, "", fmt.Errorf("list schedules: %w", err)
	}
	return list, next, nil
}

// History implements store.Schedules.
func (s *schedules) History(ctx context.Context, id string, limit int) ([]store.FireRecord, error) {
	if limit <= 0 || limit > store.MaxHistory {
		limit = store.MaxHistory
	}
	var list []store.FireRecord
	err := s.db.read(ctx, func(c *conn) error {
		list = nil
		e, err := c.entry(id)
		if err != nil {
			return err
		}
		if e == nil {
			return store.ErrNoSchedule
		}
		return c.each("firings", func(s *sqlite3.Stmt) bool {
			list = append(list, store.FireRecord{
				ID: id, Due: dueMoment(s.ColumnInt64(0)), Fired: moment(s.ColumnInt64(1)), Outcome: store.FireOutcome(s.ColumnText(2)),
				Jitter: time.Duration(s.ColumnInt64(3)), Drift: time.Duration(s.ColumnInt64(4)), Missed: s.ColumnInt(5),
				Task: s.ColumnText(6), Error: s.ColumnText(7), Beat: s.ColumnText(8),
			})
			return true
		}, e.seq, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("history of schedule %s: %w", id, err)
	}
	return list, nil
}

// Due implements store.Schedules.
func (s *schedules) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	if limit <= 0 {
		limit = store.DueLimit
	}
	var d store.Due
	err := s.db.read(ctx, func(c *conn) (err error) {
		d = store.Due{Now: time.Now().UTC()}
		// First, so that what is applied meanwhile is rather seen twice than never.
		if d.Changes, err = c.scheduleChanges(); err != nil {
			return err
		}
		err = c.each("schedules-due", func(s *sqlite3.Stmt) bool {
			e := scanEntry(s)
			if due := !e.NextAt.After(d.Now.Add(ahead)); !due || len(d.Entries) == limit {
				d.More, d.Next = due, max(e.NextAt.Sub(d.Now), 1)
				return false
			}
			d.Entries = append(d.Entries, e.Schedule)
			return true
		}, limit+1)
		if err != nil {
			return err
		}
		d.Pending, err = s.pending(c, limit)
		return err
	})
	if err != nil {
		return store.Due{}, fmt.Errorf("look for due schedules: %w", err)
	}
	return d, nil
}

func (c *conn) scheduleChanges() (n int64, err error) {
	_, err = c.one("schedule-changes", func(s *sqlite3.Stmt) { n = s.ColumnInt64(0) })
	return n, err
}

// entriesLook is how often who waits looks by himself: what tells him may be lost.
// Who calls Wait more often than that wakes for nothing else.
const entriesLook = 2 * time.Second

// Wait implements store.Schedules. It is woken by whoever applies changes, and
// looks whether there was one, which costs one row.
func (s *schedules) Wait(ctx context.Context, since int64, atMost time.Duration) error {
	if err := s.check(ctx); err != nil || atMost <= 0 {
		return err
	}
	ear, deafen := s.db.hub.hearTold(topicSchedules)
	defer deafen()
	end := time.Now().Add(atMost)
	timer := time.NewTimer(min(atMost, entriesLook))
	defer timer.Stop()
	for {
		var changes int64
		err := s.db.read(ctx, func(c *conn) (err error) {
			changes, err = c.scheduleChanges()
			return err
		})
		if err != nil {
			return fmt.Errorf("wait for schedules: %w", err)
		}
		if changes != since {
			return nil
		}
		select {
		case <-ear:
		case <-timer.C:
			left := time.Until(end)
			if left <= 0 {
				return nil
			}
			timer.Reset(min(left, entriesLook))
		case <-ctx.Done():
			return ctx.Err()
		case <-s.db.closed:
			return broker.ErrClosed
		}
	}
}
