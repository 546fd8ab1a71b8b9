package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/store"
)

// Memos returns the store as a place of memos.
func (db *DB) Memos() store.Memos { return memos{db} }

type memos struct{ db *DB }

// Swap implements store.Memos.
func (s memos) Swap(ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	if err := store.CheckMemo(key, value, ttl); err != nil {
		return nil, err
	}
	m, err := s.db.run(ctx, s.db.scripts.memo, s.db.partition(key), []string{
		key, given(old), string(old), given(value), string(value), strconv.FormatInt(max(ttl.Milliseconds(), 1), 10),
	})
	if err != nil {
		return nil, fmt.Errorf("swap memo: %w", naming(err, s.db.tags[s.db.partition(key)]+":memo:"+key))
	}
	return there(m)
}

func given(value []byte) string {
	if value == nil {
		return "0"
	}
	return "1"
}

// there is a memo's value: one that is empty is none.
func there(m rueidis.RedisMessage) ([]byte, error) {
	value, err := m.AsBytes()
	if err != nil || len(value) == 0 {
		return nil, err
	}
	return value, nil
}

// Look implements store.Memos.
func (s memos) Look(ctx context.Context, key string) ([]byte, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	if err := store.CheckMemo(key, nil, time.Second); err != nil {
		return nil, err
	}
	tag := s.db.tags[s.db.partition(key)]
	r := s.db.do(ctx, s.db.client.B().Get().Key(tag+":memo:"+key).Build())
	switch {
	case rueidis.IsRedisNil(r.err):
		return nil, nil
	case r.err != nil:
		return nil, fmt.Errorf("look at memo: %w", r.err)
	}
	return there(r.message)
}
