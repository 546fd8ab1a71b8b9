package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/store"
)

// Memos returns the memos of the file, for all of its processes.
func (db *DB) Memos() store.Memos { return memos{db} }

type memos struct{ db *DB }

// memo is what is there at that moment, nil for nothing.
func (c *conn) memo(key string, now int64) (there []byte, err error) {
	_, err = c.one("memo", func(s *sqlite3.Stmt) { there = blob(s, 0) }, key, now)
	return there, err
}

// Swap implements store.Memos.
func (m memos) Swap(ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
	if err := store.CheckMemo(key, value, ttl); err != nil {
		return nil, err
	}
	var there []byte
	err := m.db.write(ctx, func(t *tx) (err error) {
		if there, err = t.memo(key, t.now); err != nil || !bytes.Equal(there, old) {
			return err
		}
		there = value
		if value == nil {
			return t.exec("drop-memo", key)
		}
		return t.exec("set-memo", key, value, t.now+min(ttl.Milliseconds(), forever/4)+1) // its first millisecond has begun already
	})
	if err != nil {
		return nil, fmt.Errorf("swap a memo: %w", err)
	}
	return bytes.Clone(there), nil
}

// Look implements store.Memos.
func (m memos) Look(ctx context.Context, key string) (there []byte, err error) {
	if err := store.CheckMemo(key, nil, 0); err != nil {
		return nil, err
	}
	err = m.db.read(ctx, func(c *conn) (err error) {
		there, err = c.memo(key, time.Now().UnixMilli())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for a memo: %w", err)
	}
	return there, nil
}
