package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/stemjobs/stem/store"
)

// Audit returns the audit of the deployment.
func (db *DB) Audit() store.Audit { return audit{db} }

type audit struct{ db *DB }

// auditPage is how many records one script reads.
const auditPage = 500

// place is where a record stands in the order of moments and ids.
func place(at time.Time, id string) string { return fmt.Sprintf("%013d~%s", at.UnixMilli(), id) }

// Note implements store.Audit.
func (u audit) Note(ctx context.Context, a store.Action, keep time.Duration) error {
	if err := a.Check(keep); err != nil {
		return err
	}
	if err := u.db.check(ctx); err != nil {
		return err
	}
	a.At = a.At.UTC().Truncate(time.Millisecond)
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("note in the audit: %w", err)
	}
	_, err = u.db.run(ctx, u.db.scripts.audit, 0, []string{place(a.At, a.ID), strconv.FormatInt(ceilMillis(keep), 10), string(data)})
	if err != nil {
		return fmt.Errorf("note in the audit: %w", err)
	}
	return nil
}

// List implements store.Audit.
func (u audit) List(ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
	from, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	if err := u.db.check(ctx); err != nil {
		return nil, "", err
	}
	after := ""
	if from.ID != "" {
		after = place(from.At, from.ID)
	}
	var page []store.Action
	for {
		m, err := u.db.run(ctx, u.db.scripts.audits, 0, []string{after, strconv.Itoa(auditPage)})
		if err != nil {
			return nil, "", fmt.Errorf("list the audit: %w", err)
		}
		reply, err := m.AsStrSlice()
		if err != nil || len(reply) == 0 {
			return nil, "", fmt.Errorf("list the audit: %w (%w)", errForeign, err)
		}
		for _, text := range reply[1:] {
			var a store.Action
			if err := json.Unmarshal([]byte(text), &a); err != nil {
				return nil, "", fmt.Errorf("list the audit: %w", err)
			}
			if !q.Match(&a) {
				continue
			}
			if len(page) == q.Size() {
				last := page[len(page)-1]
				return page, store.Cursor{At: last.At, ID: last.ID}.String(), nil
			}
			page = append(page, a)
		}
		if after = reply[0]; after == "" {
			return page, "", nil
		}
	}
}

// Clock is the server's time: what all processes of the deployment go by.
func (db *DB) Clock(ctx context.Context) (time.Time, error) {
	if err := db.check(ctx); err != nil {
		return time.Time{}, err
	}
	return db.serverTime(ctx)
}
