package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// List implements store.Results: it merges the broker's tasks and the records
// of others, both newest first by index.
func (s *results) List(ctx context.Context, q store.Query) (store.List, error) {
	if err := s.check(ctx); err != nil {
		return store.List{}, err
	}
	after, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return store.List{}, err
	}
	var list store.List
	err = s.db.scan(ctx, func(c *conn) error {
		// Both listings must be of one moment.
		tx := c.Begin()
		defer func() { _ = tx.Rollback() }() // it only read
		l := lister{db: s.db, conn: c, query: q, now: time.Now().UnixMilli(), list: store.List{}}
		err := l.run(after)
		list = l.list
		return err
	})
	if err != nil {
		return store.List{}, fmt.Errorf("list statuses: %w", err)
	}
	return list, nil
}

type lister struct {
	*conn
	db    *DB
	query store.Query
	now   int64
	list  store.List
	last  store.Cursor // of the newest record looked at
}

// from is the key that a page begins after.
func (l *lister) from(after store.Cursor) (at int64, id string) {
	at = int64(1) << 62
	if after.ID != "" {
		at, id = after.At.UnixMilli(), after.ID
	}
	if !l.query.Until.IsZero() {
		if u := millis(l.query.Until); u <= at {
			return u, ""
		}
	}
	return at, id
}

func (l *lister) run(after store.Cursor) error {
	at, id := l.from(after)
	since := int64(0)
	if !l.query.Since.IsZero() {
		since = l.query.Since.UnixMilli()
	}
	tasks, err := l.stmt("list", at, id, since)
	if err != nil {
		return err
	}
	defer func() { _ = tasks.Reset() }() // its error is Err's, looked at below
	records, err := l.stmt("list-records", at, id, since)
	if err != nil {
		return err
	}
	defer func() { _ = records.Reset() }()
	more, moreRecords := tasks.Step(), records.Step()
	for more || moreRecords {
		if full := len(l.list.Statuses) == l.query.Size(); full || l.list.Looked >= store.ScanLimit {
			l.list.Cursor, l.list.Truncated = l.last.String(), !full
			break
		}
		if more && (!moreRecords || newer(tasks, 15, 1, records, 3, 4)) {
			err = l.task(tasks)
			more = tasks.Step()
		} else {
			err = l.record(records)
			moreRecords = records.Step()
		}
		if err != nil {
			return err
		}
	}
	for _, err := range []error{tasks.Err(), records.Err()} {
		if err != nil {
			return failed("list", err)
		}
	}
	return nil
}

// newer compares the keys of two listings.
func newer(a *sqlite3.Stmt, atA, idA int, b *sqlite3.Stmt, atB, idB int) bool {
	x, y := a.ColumnInt64(atA), b.ColumnInt64(atB)
	return x > y || x == y && a.ColumnText(idA) > b.ColumnText(idB)
}

func (l *lister) task(s *sqlite3.Stmt) error {
	var r row
	scanRow(s, &r)
	l.look(r.enqueued, r.id)
	if r.gone(l.now) || r.has(flagHidden) || !l.maybe(&r) {
		return nil
	}
	st, err := l.statusOf(l.db, &r, blob(s, envelopeColumn))
	if err != nil {
		return err
	}
	l.add(&st)
	return nil
}

// maybe reports whether a row can match, by what it says itself.
func (l *lister) maybe(r *row) bool {
	if len(l.query.States) == 0 {
		return true
	}
	for _, state := range l.query.States {
		if state == stateOf(r.phase) {
			return true
		}
	}
	return false
}

func (l *lister) record(s *sqlite3.Stmt) error {
	l.look(s.ColumnInt64(3), s.ColumnText(4))
	v, err := scanRecord(s)
	if err != nil || v.gone(l.now) {
		return err
	}
	l.add(&v.Status)
	return nil
}

func (l *lister) look(at int64, id string) {
	l.list.Looked++
	l.last = store.Cursor{At: time.UnixMilli(at), ID: id}
}

func (l *lister) add(st *task.Status) {
	if l.query.Match(st) {
		l.list.Statuses = append(l.list.Statuses, *st)
	}
}
