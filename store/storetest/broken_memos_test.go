package storetest

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
)

// bentMemos is correct memos but for what a fake replaces.
type bentMemos struct {
	store.Memos
	swap func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error)
	look func(m store.Memos, ctx context.Context, key string) ([]byte, error)
}

func (b bentMemos) Swap(ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
	if b.swap == nil {
		return b.Memos.Swap(ctx, key, old, value, ttl)
	}
	return b.swap(b.Memos, ctx, key, old, value, ttl)
}

func (b bentMemos) Look(ctx context.Context, key string) ([]byte, error) {
	if b.look == nil {
		return b.Memos.Look(ctx, key)
	}
	return b.look(b.Memos, ctx, key)
}

func openBentMemos(bend func() bentMemos) func(testing.TB) Remembering {
	return func(testing.TB) Remembering {
		db, b := memory.New(), bend()
		b.Memos = db.Memos()
		return Remembering{Memos: b, Close: db.Close}
	}
}

func TestMemosReference(t *testing.T) {
	RunMemos(t, openBentMemos(func() bentMemos { return bentMemos{} }))
}

// TestBrokenMemos: every broken fake is caught by the rule that it breaks.
func TestBrokenMemos(t *testing.T) {
	for _, x := range []struct {
		name, rule, also string
		bend             func() bentMemos
	}{
		{"compare nothing", "M1", "M2", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, _, value []byte, ttl time.Duration) ([]byte, error) {
				there, err := m.Look(ctx, key)
				if err != nil {
					return nil, err
				}
				return m.Swap(ctx, key, there, value, ttl)
			}}
		}},
		{"compare beginnings", "M1", "", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
				if there, err := m.Look(ctx, key); err == nil && old != nil && bytes.HasPrefix(there, old) {
					old = there
				}
				return m.Swap(ctx, key, old, value, ttl)
			}}
		}},
		{"say what was given", "M1", "M2", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
				_, err := m.Swap(ctx, key, old, value, ttl)
				return value, err
			}}
		}},
		{"forget too soon", "M2", "", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
				if ttl > time.Millisecond {
					ttl /= 2
				}
				return m.Swap(ctx, key, old, value, ttl)
			}}
		}},
		{"never forget", "M2", "", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
				if ttl > 0 {
					ttl = 1000 * time.Hour
				}
				return m.Swap(ctx, key, old, value, ttl)
			}}
		}},
		{"look into what was there", "M3", "M1 M2", func() bentMemos {
			var mu sync.Mutex
			seen := map[string][]byte{}
			return bentMemos{look: func(m store.Memos, ctx context.Context, key string) ([]byte, error) {
				there, err := m.Look(ctx, key)
				mu.Lock()
				defer mu.Unlock()
				if old, ok := seen[strings.ToLower(key)]; ok && err == nil {
					return old, nil
				}
				seen[strings.ToLower(key)] = there
				return there, err
			}}
		}},
		{"take keys for words", "M3", "", func() bentMemos {
			return bentMemos{look: func(m store.Memos, ctx context.Context, key string) ([]byte, error) {
				return m.Look(ctx, strings.ToLower(key))
			}}
		}},
		{"take nothing for a value", "M4", "", func() bentMemos {
			return bentMemos{swap: func(m store.Memos, ctx context.Context, key string, old, value []byte, ttl time.Duration) ([]byte, error) {
				if value != nil && len(value) == 0 {
					return value, ctx.Err()
				}
				return m.Swap(ctx, key, old, value, ttl)
			}}
		}},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			failed := conform.Failures(t, memoRules(openBentMemos(x.bend)))
			if complaint := conform.Unexpected(failed, x.rule, strings.Fields(x.also)...); complaint != "" {
				t.Errorf("memos that %s:\n%s", x.name, complaint)
			}
		})
	}
}
