package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/store"
)

// Audit returns the audit of the file, for all of its processes.
func (db *DB) Audit() store.Audit { return audit{db} }

type audit struct{ db *DB }

// Note implements store.Audit.
func (u audit) Note(ctx context.Context, a store.Action, keep time.Duration) error {
	if err := a.Check(keep); err != nil {
		return err
	}
	a.At = a.At.UTC().Truncate(time.Millisecond)
	record, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode an audit record: %w", err)
	}
	err = u.db.write(ctx, func(t *tx) error {
		until := t.now + min(keep.Milliseconds(), forever/4) + 1 // its first millisecond has begun already
		return t.exec("note-action", a.At.UnixMilli(), a.ID, until, record)
	})
	if err != nil {
		return fmt.Errorf("note in the audit: %w", err)
	}
	return nil
}

// List implements store.Audit.
func (u audit) List(ctx context.Context, q store.AuditQuery) (page []store.Action, cursor string, err error) {
	from, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	at := int64(math.MaxInt64)
	if from.ID != "" {
		at = from.At.UnixMilli()
	}
	if !q.Until.IsZero() && from.ID == "" {
		at = q.Until.UnixMilli() + 1 // Match tells those of its own millisecond apart
	}
	err = u.db.read(ctx, func(c *conn) error {
		page, cursor = nil, ""
		var wrong error
		err := c.each("actions", func(s *sqlite3.Stmt) bool {
			var a store.Action
			if wrong = json.Unmarshal(blob(s, 0), &a); wrong != nil {
				return false
			}
			if !q.Since.IsZero() && a.At.Before(q.Since.Add(-time.Millisecond)) {
				return false // all others are older
			}
			if !q.Match(&a) {
				return true
			}
			if len(page) == q.Size() {
				last := page[len(page)-1]
				cursor = store.Cursor{At: last.At, ID: last.ID}.String()
				return false
			}
			page = append(page, a)
			return true
		}, at, from.ID, time.Now().UnixMilli())
		if err == nil && wrong != nil {
			err = fmt.Errorf("decode an audit record: %w", wrong)
		}
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list the audit: %w", err)
	}
	return page, cursor, nil
}
