package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Locks returns the locks of the deployment.
func (db *DB) Locks() store.Locks { return locks{db} }

type locks struct{ db *DB }

// longestLock is the longest time of a lock, in ms: what the scripts count with
// stays exact.
const longestLock = 1e12

// lockAnswer is what lua/lock.lua answers.
type lockAnswer struct {
	token  int64
	holder string
	left   time.Duration
}

func (s locks) ask(ctx context.Context, args ...string) (a lockAnswer, err error) {
	if err := s.db.check(ctx); err != nil {
		return a, err
	}
	m, err := s.db.run(ctx, s.db.scripts.lock, 0, args)
	if err != nil {
		return a, naming(err, s.db.tag(0)+":lock:"+args[1])
	}
	list, err := m.ToArray()
	if err != nil || len(list) != 1 && len(list) != 3 {
		return a, fmt.Errorf("%w (%w)", errForeign, err)
	}
	if a.token, err = list[0].AsInt64(); err != nil || len(list) == 1 {
		return a, err
	}
	ms := int64(0)
	if ms, err = list[2].AsInt64(); err == nil {
		a.holder, err = list[1].ToString()
	}
	a.left = time.Duration(ms) * time.Millisecond
	return a, err
}

// Acquire implements store.Locks.
func (s locks) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lock, error) {
	if err := store.CheckLock(name, holder, ttl); err != nil {
		return store.Lock{}, err
	}
	a, err := s.ask(ctx, "acquire", name, holder, strconv.FormatInt(min(ttl.Milliseconds(), longestLock), 10))
	switch {
	case err != nil:
		return store.Lock{}, fmt.Errorf("acquire lock %s: %w", name, err)
	case a.token == 0:
		return store.Lock{}, &store.HeldError{Name: name, Holder: a.holder, Left: a.left}
	}
	return store.Lock{Name: name, Holder: holder, Token: a.token, TTL: ttl}, nil
}

// Release implements store.Locks.
func (s locks) Release(ctx context.Context, l store.Lock) error {
	a, err := s.ask(ctx, "release", l.Name, strconv.FormatInt(l.Token, 10))
	if err == nil && a.token == 0 {
		err = broker.ErrLeaseLost
	}
	if err != nil {
		return fmt.Errorf("release lock %s: %w", l.Name, err)
	}
	return nil
}

// Holder implements store.Locks.
func (s locks) Holder(ctx context.Context, name string) (store.Lock, error) {
	a, err := s.ask(ctx, "holder", name)
	switch {
	case err != nil:
		return store.Lock{}, fmt.Errorf("look who holds lock %s: %w", name, err)
	case a.token == 0:
		return store.Lock{}, nil
	}
	return store.Lock{Name: name, Holder: a.holder, Token: a.token, TTL: a.left}, nil
}

// lost says that a token is not the newest of its lock, or has ended.
func lost(lead store.Lock) error {
	return fmt.Errorf("lock %s, token %d: %w", lead.Name, lead.Token, broker.ErrLeaseLost)
}
