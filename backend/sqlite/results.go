package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// results is the file as a result store. The statuses of its own broker's
// tasks are the tasks' rows; those of another store's are records of their
// own, see record.go.
type results struct {
	db     *DB
	closed atomic.Bool
}

// Close implements store.Results. The file stays open for its other roles.
func (s *results) Close() error {
	s.closed.Store(true)
	return nil
}

func (s *results) check(ctx context.Context) error {
	if s.closed.Load() || s.db.isClosed() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// Subscribe implements store.Watcher, for changes by any process.
func (s *results) Subscribe(id string) (<-chan struct{}, func()) { return s.db.hub.watch(id) }

// Get implements store.Results.
func (s *results) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	found := make([]store.Found, len(ids))
	get := func(c *conn) error {
		now := time.Now().UnixMilli()
		for i, id := range ids {
			found[i] = store.Found{Err: store.ErrNotFound}
			st, ok, err := s.db.status(c, id, now)
			if err != nil {
				return fmt.Errorf("get %s: %w", id, err)
			}
			if ok {
				found[i] = store.Found{Status: st}
			}
		}
		return nil
	}
	err := s.db.read(ctx, func(c *conn) error {
		if len(ids) == 1 {
			return get(c) // its statement is a transaction of its own
		}
		return c.together(get)
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// together runs reads in one transaction, which spares the file's locks for
// each.
func (c *conn) together(fn func(c *conn) error) error {
	if err := c.Exec("BEGIN"); err != nil {
		return fmt.Errorf("begin to read: %w", err)
	}
	err := fn(c)
	c.SetInterrupt(context.Background()) // the end is not to be interrupted
	if end := c.Exec("ROLLBACK"); end != nil && !c.GetAutocommit() {
		return errors.Join(err, fmt.Errorf("end a read: %w", end))
	}
	return err
}

// status reads one status, of whichever kind.
func (db *DB) status(c *conn, id string, now int64) (st task.Status, ok bool, err error) {
	var r row
	var envelope []byte
	found, err := c.one("full-by-id", func(s *sqlite3.Stmt) {
		scanRow(s, &r)
		envelope = blob(s, envelopeColumn)
	}, id)
	if err != nil {
		return st, false, err
	}
	if found && !r.gone(now) && !r.has(flagHidden) {
		st, err = c.statusOf(db, &r, envelope)
		return st, true, err
	}
	v, err := c.record(id, now)
	if err != nil || v == nil {
		return st, false, err
	}
	return v.Status, true, nil
}

// Delete implements store.Results. A dead letter stays with the broker; its
// status is gone.
func (s *results) Delete(ctx context.Context, ids ...string) ([]error, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	errs := make([]error, len(ids))
	err := s.db.write(ctx, func(t *tx) error {
		for i, id := range ids {
			var err error
			if errs[i], err = t.deleteStatus(id); err != nil {
				return fmt.Errorf("delete %s: %w", id, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return errs, nil
}

func (t *tx) deleteStatus(id string) (refused, err error) {
	var r row
	found, err := t.byID(id, &r)
	if err != nil {
		return nil, err
	}
	if found && !r.has(flagHidden) {
		switch r.place {
		case done:
			t.touched(id)
			return nil, t.remove(&r)
		case dead:
			t.touched(id)
			r.flags |= flagHidden
			return nil, t.save(&r)
		default:
			return store.ErrNotFinished, nil
		}
	}
	v, err := t.record(id, t.now)
	switch {
	case err != nil:
		return nil, err
	case v == nil:
		return store.ErrNotFound, nil
	case !v.Status.State.Terminal() || v.Outbox > 0:
		return store.ErrNotFinished, nil
	}
	t.touched(id)
	return nil, t.exec("delete-record", id)
}
