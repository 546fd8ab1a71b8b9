package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testL1: a lock is granted when it is free, under a token that grows.
func testL1(p *planner) {
	began := time.Now()
	first := p.lock("a", "one", p.o.TTL)
	if first.Token < 1 {
		p.Errorf("the first token is %d, want one from 1 on", first.Token)
	}
	p.lock("b", "two", p.o.TTL) // another name is another lock
	q := p.other()
	last := first.Token
	for i := range 3 {
		l, asked, at := q.granted("a", fmt.Sprintf("taker-%d", i), p.o.TTL)
		if l.Token <= last {
			p.Errorf("token %d follows %d", l.Token, last)
		}
		if held := at.Sub(began); held < p.o.TTL-early {
			p.Errorf("a lock of %s was granted to another after %s", p.o.TTL, held)
		}
		last, began = l.Token, asked
	}
}

// granted tries until it gets the lock, and says between which moments it did.
func (p *planner) granted(name, holder string, within time.Duration) (l store.Lock, asked, got time.Time) {
	p.Helper()
	began := time.Now()
	for {
		asked := time.Now()
		l, err := p.Locks.Acquire(p.ctx, name, holder, p.o.TTL)
		if err == nil {
			return l, asked, time.Now()
		}
		p.is("Acquire of what another holds", err, store.ErrHeld)
		if passed := time.Since(began); passed > within+p.o.Slack {
			p.Fatalf("%s was not granted within %s, though nobody renewed it", name, passed)
		}
		time.Sleep(poll)
	}
}

// testL2: who holds a lock renews it.
func testL2(p *planner) {
	const ttl = 2 * time.Second // as long as renewing may take on a busy machine
	q, last := p.other(), time.Now()
	l := p.lock("a", "one", ttl)
	for over := time.Now().Add(ttl + ttl/2); time.Now().Before(over); time.Sleep(ttl / 20) {
		asked := time.Now()
		again := p.lock("a", "one", ttl)
		if again.Token != l.Token && time.Since(last) < ttl-early {
			p.Fatalf("renewed in time: token %d became %d", l.Token, again.Token)
		}
		won, err := q.Locks.Acquire(p.ctx, "a", "two", ttl)
		if !errors.Is(err, store.ErrHeld) && time.Since(asked) < ttl-early {
			p.Fatalf("a lock that is renewed: another gets it, error %v", err)
		}
		if err == nil { // the machine stopped for longer than the lock is held
			p.is("Release", q.Locks.Release(p.ctx, won), nil)
		}
		last, l = asked, again
	}
	short := p.lock("a", "one", p.o.TTL) // a renewal may also shorten it
	time.Sleep(p.o.TTL + 2*early)
	if again := p.lock("a", "one", p.o.TTL); again.Token <= short.Token {
		p.Errorf("a lock that had ended was renewed: token %d after %d", again.Token, short.Token)
	}
}

// testL3: what another holds.
func testL3(p *planner) {
	l := p.lock("a", "one", time.Hour)
	q := p.other()
	_, err := q.Locks.Acquire(p.ctx, "a", "two", time.Second)
	var held *store.HeldError
	if !errors.As(err, &held) || !errors.Is(err, store.ErrHeld) {
		p.Fatalf("Acquire of what another holds: got error %v, want a *HeldError", err)
	}
	if held.Name != "a" || held.Holder != "one" || held.Left <= time.Hour-time.Minute || held.Left > time.Hour {
		p.Errorf("Acquire of what another holds for an hour: got %+v", held)
	}
	if again := p.lock("a", "one", time.Hour); again.Token != l.Token {
		p.Errorf("after another asked: token %d became %d", l.Token, again.Token)
	}
}

// testL4: a lock is given back by its token.
func testL4(p *planner) {
	q := p.other()
	release := func(what string, l store.Lock, want error) {
		p.Helper()
		p.is(what, p.Locks.Release(p.ctx, l), want)
	}
	release("Release of what nobody ever held", store.Lock{Name: "a", Holder: "one", Token: 1}, broker.ErrLeaseLost)
	first := p.lock("a", "one", time.Hour)
	release("Release", first, nil)
	release("Release again", first, nil)
	second := q.lock("a", "two", time.Hour)
	if second.Token <= first.Token {
		p.Errorf("after Release: token %d follows %d", second.Token, first.Token)
	}
	release("Release of an older token", first, broker.ErrLeaseLost)
	wrong := second
	wrong.Token += 5
	release("Release of a token that was never given", wrong, broker.ErrLeaseLost)
	_, err := p.Locks.Acquire(p.ctx, "a", "one", time.Hour)
	p.is("after a Release that was too late", err, store.ErrHeld)
	release("Release by another process", second, nil)
	if third := q.lock("a", "two", time.Hour); third.Token <= second.Token {
		p.Errorf("a holder that had released it: token %d follows %d", third.Token, second.Token)
	}
}

// testL5: many at once, and what is refused.
func testL5(p *planner) {
	for what, err := range map[string]error{
		"no name":         p.tryLock("", "one", time.Second),
		"no holder":       p.tryLock("a", "", time.Second),
		"a long name":     p.tryLock(strings.Repeat("n", 257), "one", time.Second),
		"a long holder":   p.tryLock("a", strings.Repeat("h", 257), time.Second),
		"no time":         p.tryLock("a", "one", 0),
		"a negative time": p.tryLock("a", "one", -time.Second),
	} {
		p.is(what, err, task.ErrInvalid)
	}
	if err := p.tryLock("ü \x00/~%", strings.Repeat("h", 256), time.Second); err != nil {
		p.Errorf("a lock of unusual names: %v", err)
	}
	q := p.other()
	const holders, turns = 6, 15
	var mu sync.Mutex
	owner, tokens := "", make(map[int64]string)
	var wg sync.WaitGroup
	for h := range holders {
		wg.Go(func() {
			by := p
			if h%2 == 1 {
				by = q
			}
			holder := fmt.Sprintf("holder-%d", h)
			for range turns {
				l, err := by.Locks.Acquire(p.ctx, "shared", holder, time.Hour)
				if errors.Is(err, store.ErrHeld) {
					time.Sleep(poll / 5)
					continue
				}
				if err != nil {
					p.Errorf("Acquire beside others: %v", err)
					return
				}
				mu.Lock()
				if owner != "" || tokens[l.Token] != "" {
					p.Errorf("%s got token %d, which %q has; the owner is %q", holder, l.Token, tokens[l.Token], owner)
				}
				owner, tokens[l.Token] = holder, holder
				mu.Unlock()
				mu.Lock()
				owner = ""
				mu.Unlock()
				if err := by.Locks.Release(p.ctx, l); err != nil {
					p.Errorf("Release beside others: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if len(tokens) == 0 {
		p.Errorf("of %d holders none ever got the lock", holders)
	}
}

func (p *planner) tryLock(name, holder string, ttl time.Duration) error {
	_, err := p.Locks.Acquire(p.ctx, name, holder, ttl)
	return err
}

// testL6: who holds a lock can be asked.
func testL6(p *planner) {
	q := p.other()
	holder := func() store.Lock {
		p.Helper()
		l, err := q.Locks.Holder(p.ctx, "a")
		if err != nil {
			p.Fatalf("Holder: %v", err)
		}
		return l
	}
	if l := holder(); l != (store.Lock{}) {
		p.Errorf("nobody holds it: got %+v", l)
	}
	l := p.lock("a", "one", time.Hour)
	for range 2 { // to ask changes nothing
		if got := holder(); got.Name != "a" || got.Holder != "one" || got.Token != l.Token || got.TTL > time.Hour || got.TTL < time.Hour-time.Minute {
			p.Errorf("Holder: got %+v, want %+v", got, l)
		}
	}
	if err := p.Locks.Release(p.ctx, l); err != nil {
		p.Fatal(err)
	}
	if got := holder(); got != (store.Lock{}) {
		p.Errorf("after Release: got %+v", got)
	}
	p.lock("a", "two", p.o.TTL)
	time.Sleep(p.o.TTL + 2*early)
	if got := holder(); got != (store.Lock{}) {
		p.Errorf("after its end: got %+v", got)
	}
}

// lockCalls has one call of each method.
func lockCalls(s Scheduling) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Acquire": func(ctx context.Context) error {
			_, err := s.Locks.Acquire(ctx, "a", "one", time.Second)
			return err
		},
		"Release": func(ctx context.Context) error { return s.Locks.Release(ctx, store.Lock{Name: "a", Token: 1}) },
		"Holder":  func(ctx context.Context) error { _, err := s.Locks.Holder(ctx, "a"); return err },
	}
}
