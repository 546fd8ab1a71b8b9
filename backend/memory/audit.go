package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/store"
)

// audit is the store of what people changed.
type audit struct{ db *DB }

// noted is one record and the end of its time.
type noted struct {
	store.Action
	until int64
}

// Audit returns the audit of this DB.
func (db *DB) Audit() store.Audit { return audit{db} }

// oldestFirst is the order in which records are kept.
func oldestFirst(a, b noted) int {
	return cmp.Or(cmp.Compare(a.At.UnixMilli(), b.At.UnixMilli()), cmp.Compare(a.ID, b.ID))
}

// Note keeps one record; see store.Audit.
func (u audit) Note(ctx context.Context, a store.Action, keep time.Duration) error {
	if err := a.Check(keep); err != nil {
		return err
	}
	now, err := u.db.enter(ctx, nil)
	if err != nil {
		return fmt.Errorf("note in the audit in memory: %w", err)
	}
	defer u.db.leave()
	a.At = a.At.UTC().Truncate(time.Millisecond)
	n := noted{a, after(now.UnixNano(), keep)}
	list := slices.DeleteFunc(u.db.audit, func(x noted) bool { return now.UnixNano() >= x.until })
	if i, there := slices.BinarySearchFunc(list, n, oldestFirst); !there {
		list = slices.Insert(list, i, n)
	}
	u.db.audit = list
	return nil
}

// List returns a page of records; see store.Audit.
func (u audit) List(ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
	from, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	now, err := u.db.enter(ctx, nil)
	if err != nil {
		return nil, "", fmt.Errorf("list the audit in memory: %w", err)
	}
	defer u.db.leave()
	var page []store.Action
	for _, n := range slices.Backward(u.db.audit) {
		if now.UnixNano() >= n.until || !from.Before(n.At, n.ID) || !q.Match(&n.Action) {
			continue
		}
		if len(page) == q.Size() {
			last := page[len(page)-1]
			return page, store.Cursor{At: last.At, ID: last.ID}.String(), nil
		}
		page = append(page, n.Action)
	}
	return page, "", nil
}
