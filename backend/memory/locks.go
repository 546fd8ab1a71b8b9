package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// locks is the store of locks.
type locks struct{ db *DB }

// lock is a name's newest grant. It stays when it has ended: its token is never
// used again.
type lock struct {
	store.Lock
	until int64
}

// Locks returns the locks of this DB.
func (db *DB) Locks() store.Locks { return &locks{db: db} }

// ended reports whether the grant is over. A clock that was stepped back would
// make it last: such a grant is over too.
func (l *lock) ended(now time.Time) bool {
	left := time.Duration(l.until - now.UnixNano())
	return left <= 0 || left/2 > l.TTL
}

// Acquire takes or renews a lock; see store.Locks.
func (s *locks) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lock, error) {
	if err := store.CheckLock(name, holder, ttl); err != nil {
		return store.Lock{}, err
	}
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return store.Lock{}, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	defer s.db.leave()
	l := s.db.plans.locks[name]
	switch {
	case l == nil:
		l = &lock{Lock: store.Lock{Name: name, Holder: holder, Token: 1}}
		s.db.plans.init()
		s.db.plans.locks[name] = l
	case l.ended(now):
		l.Holder = holder
		l.Token++
	case l.Holder != holder:
		return store.Lock{}, &store.HeldError{Name: name, Holder: l.Holder, Left: time.Duration(l.until - now.UnixNano())}
	}
	l.TTL, l.until = ttl, after(now.UnixNano(), ttl)
	return l.Lock, nil
}

// Release gives a lock back; see store.Locks.
func (s *locks) Release(ctx context.Context, l store.Lock) error {
	_, err := s.db.enter(ctx, nil)
	if err != nil {
		return fmt.Errorf("release lock %s: %w", l.Name, err)
	}
	defer s.db.leave()
	held := s.db.plans.locks[l.Name]
	if held == nil || held.Token != l.Token {
		return fmt.Errorf("release lock %s: %w", l.Name, broker.ErrLeaseLost)
	}
	held.until = 0
	return nil
}

// Holder says who has a lock; see store.Locks.
func (s *locks) Holder(ctx context.Context, name string) (store.Lock, error) {
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return store.Lock{}, fmt.Errorf("look who holds lock %s: %w", name, err)
	}
	defer s.db.leave()
	l := s.db.plans.locks[name]
	if l == nil || l.ended(now) {
		return store.Lock{}, nil
	}
	held := l.Lock
	held.TTL = time.Duration(l.until - now.UnixNano())
	return held, nil
}

// leads says why what is done under a lock's token is refused, or nil.
func (db *DB) leads(l store.Lock, now time.Time, alive bool) error {
	held := db.plans.locks[l.Name]
	switch {
	case held == nil, held.Token != l.Token, alive && held.ended(now):
		return fmt.Errorf("lock %s, token %d: %w", l.Name, l.Token, broker.ErrLeaseLost)
	}
	return nil
}
