package memory

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/store"
)

// memos is the store of memos.
type memos struct{ db *DB }

// memo is one value.
type memo struct {
	value []byte
	until int64
}

// Memos returns the memos of this DB.
func (db *DB) Memos() store.Memos { return memos{db} }

// memo is what is there, nil for nothing.
func (db *DB) memo(key string, now time.Time) []byte {
	if m, ok := db.memos[key]; ok && now.UnixNano() < m.until {
		return m.value
	}
	return nil
}

// Swap puts one value in the place of another; see store.Memos.
func (s memos) Swap(ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
	if err := store.CheckMemo(key, value, ttl); err != nil {
		return nil, err
	}
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("swap a memo in memory: %w", err)
	}
	defer s.db.leave()
	if there := s.db.memo(key, now); !bytes.Equal(there, old) {
		return bytes.Clone(there), nil
	}
	if value == nil {
		delete(s.db.memos, key)
		return nil, nil
	}
	if len(s.db.memos) >= s.db.memoLimit {
		s.db.dropMemos(now)
	}
	s.db.memos[key] = memo{bytes.Clone(value), after(now.UnixNano(), ttl)}
	return bytes.Clone(value), nil
}

// dropMemos forgets those whose time has passed.
func (db *DB) dropMemos(now time.Time) {
	if db.memos == nil {
		db.memos = map[string]memo{}
	}
	for key := range db.memos {
		if db.memo(key, now) == nil {
			delete(db.memos, key)
		}
	}
	db.memoLimit = max(1000, 2*len(db.memos))
}

// Look returns what is there; see store.Memos.
func (s memos) Look(ctx context.Context, key string) ([]byte, error) {
	if err := store.CheckMemo(key, nil, 0); err != nil {
		return nil, err
	}
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("look for a memo in memory: %w", err)
	}
	defer s.db.leave()
	return bytes.Clone(s.db.memo(key, now)), nil
}
