package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Locks returns the locks of the file, for all of its processes.
func (db *DB) Locks() store.Locks { return locks{db} }

type locks struct{ db *DB }

// lock is a name's newest grant.
type lock struct {
	holder string
	token  int64 // 0: nobody ever held it
	ttl    int64 // ms
	until  int64 // ms
}

// left is for how long the grant lasts. A clock that was stepped back would
// make it last longer than it was given for: such a grant is over.
func (l *lock) left(now int64) time.Duration {
	left := l.until - now
	if left <= 0 || left/2 > l.ttl {
		return 0
	}
	return time.Duration(min(left, l.ttl)) * time.Millisecond
}

func (c *conn) lock(name string) (l lock, err error) {
	_, err = c.one("lock", func(s *sqlite3.Stmt) {
		l = lock{s.ColumnText(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)}
	}, name)
	return l, err
}

// Acquire implements store.Locks. It looks before it takes the file's own lock,
// so that those who stand by hinder nobody.
func (s locks) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lock, error) {
	if err := store.CheckLock(name, holder, ttl); err != nil {
		return store.Lock{}, err
	}
	var held *store.HeldError
	err := s.db.read(ctx, func(c *conn) error {
		l, err := c.lock(name)
		held = l.heldBy(name, holder, time.Now().UnixMilli())
		return err
	})
	token := int64(0)
	if err == nil && held == nil {
		err = s.db.write(ctx, func(t *tx) (err error) {
			token, held, err = t.acquire(name, holder, ttl)
			return err
		})
	}
	switch {
	case err != nil:
		return store.Lock{}, fmt.Errorf("acquire lock %s: %w", name, err)
	case held != nil:
		return store.Lock{}, held
	}
	return store.Lock{Name: name, Holder: holder, Token: token, TTL: ttl}, nil
}

// heldBy says that another holds it, or nil.
func (l *lock) heldBy(name, holder string, now int64) *store.HeldError {
	if left := l.left(now); left > 0 && l.holder != holder {
		return &store.HeldError{Name: name, Holder: l.holder, Left: left}
	}
	return nil
}

func (t *tx) acquire(name, holder string, ttl time.Duration) (token int64, held *store.HeldError, err error) {
	l, err := t.lock(name)
	if err != nil {
		return 0, nil, err
	}
	if held = l.heldBy(name, holder, t.now); held != nil {
		return 0, held, nil
	}
	token = l.token
	if l.left(t.now) == 0 {
		token++
	}
	ms := min(ttl.Milliseconds(), forever/4)
	return token, nil, t.exec("set-lock", name, holder, token, ms, t.now+ms+1) // its first millisecond has begun already
}

// Release implements store.Locks.
func (s locks) Release(ctx context.Context, l store.Lock) error {
	var lost error
	err := s.db.write(ctx, func(t *tx) error {
		held, err := t.lock(l.Name)
		if lost = nil; err != nil {
			return err
		}
		if held.token == 0 || held.token != l.Token {
			lost = broker.ErrLeaseLost
			return nil
		}
		return t.exec("release-lock", l.Name)
	})
	if err == nil {
		err = lost
	}
	if err != nil {
		return fmt.Errorf("release lock %s: %w", l.Name, err)
	}
	return nil
}

// Holder implements store.Locks.
func (s locks) Holder(ctx context.Context, name string) (held store.Lock, err error) {
	err = s.db.read(ctx, func(c *conn) error {
		l, err := c.lock(name)
		if err != nil {
			return err
		}
		if left := l.left(time.Now().UnixMilli()); left > 0 {
			held = store.Lock{Name: name, Holder: l.holder, Token: l.token, TTL: left}
		}
		return nil
	})
	if err != nil {
		return store.Lock{}, fmt.Errorf("look who holds lock %s: %w", name, err)
	}
	return held, nil
}

// leads says why what is done under a lock's token is refused, or nil.
func (t *tx) leads(lead store.Lock, alive bool) (refused, err error) {
	l, err := t.lock(lead.Name)
	if err != nil {
		return nil, err
	}
	if l.token == 0 || l.token != lead.Token || alive && l.left(t.now) == 0 {
		return fmt.Errorf("lock %s, token %d: %w", lead.Name, lead.Token, broker.ErrLeaseLost), nil
	}
	return nil, nil
}
