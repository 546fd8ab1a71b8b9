package redis

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// results is the store as a result store.
type results struct {
	db     *DB
	closed atomic.Bool
}

func (s *results) check(ctx context.Context) error {
	if s.closed.Load() {
		return broker.ErrClosed
	}
	return s.db.check(ctx)
}

// Close implements store.Results. The DB stays open for its other roles.
func (s *results) Close() error {
	s.closed.Store(true)
	return nil
}

// Subscribe implements store.Watcher.
func (s *results) Subscribe(id string) (changed <-chan struct{}, cancel func()) {
	return s.db.hub.watch(id)
}

// getPage is how many tasks one script reads.
const getPage = 500

// Get implements store.Results.
func (s *results) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	found := make([]store.Found, len(ids))
	shares := s.db.shares(len(ids), getPage, func(i int) string { return ids[i] })
	args := flat(func(i int) []string { return ids[i : i+1] })
	err := s.db.spread(ctx, s.db.scripts.get, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		now, list, err := timed(m, items)
		for k := range list {
			if found[items[k]], err = s.db.readStatus(&list[k], ids[items[k]], now); err != nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get statuses: %w", err)
	}
	return found, nil
}

// readStatus reads one of the get script's answers.
func (db *DB) readStatus(m *rueidis.RedisMessage, id string, now int64) (store.Found, error) {
	if m.IsNil() {
		return store.Found{Err: store.ErrNotFound}, nil
	}
	list, err := m.ToArray()
	if err != nil || len(list) != 4 {
		return store.Found{}, fmt.Errorf("the server's answer is of another form (%w)", err)
	}
	v, err := list[0].ToString()
	if err != nil {
		return store.Found{}, err
	}
	line, err := list[1].ToString()
	if err != nil {
		return store.Found{}, err
	}
	kept, err := list[2].AsInt64()
	if err != nil {
		return store.Found{}, err
	}
	errs, err := list[3].AsStrSlice()
	if err != nil {
		return store.Found{}, err
	}
	if v != "" && v[0] == kindRecord {
		return db.recordStatus(id, v), nil
	}
	p, err := parseValue(v)
	if err != nil || p.hidden {
		return store.Found{Err: store.ErrNotFound}, nil
	}
	var r *run
	if line != "" {
		if r, err = parseRun(line); err != nil {
			r = nil
		}
	}
	return store.Found{Status: p.status(id, r, errs, kept, now)}, nil
}
