package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Remembering opens an empty store of memos.
type Remembering struct {
	Memos store.Memos
	Other store.Memos // the same store as another process sees it; nil: there is none
	Close func() error
}

// RunMemos tests the rules M1 to M4, each on a store of its own that open makes.
func RunMemos(t *testing.T, open func(t testing.TB) Remembering) {
	conform.Run(t, conform.Config{}, memoRules(open))
}

func memoRules(open func(t testing.TB) Remembering) []conform.Rule {
	var rules []conform.Rule
	for _, r := range []struct {
		name string
		test func(e *memoEnv)
	}{
		{"M1_swap_compares", testM1}, {"M1_one_of_many", testM1Race}, {"M2_until_its_time", testM2},
		{"M3_look_sees", testM3}, {"M4_bad_memos_and_the_end", testM4},
	} {
		rules = append(rules, conform.Rule{Name: r.name, Test: func(t testing.TB) {
			m := open(t)
			if m.Other == nil {
				m.Other = m.Memos
			}
			closeOnce, last := ending(t, m.Close)
			defer last()
			r.test(&memoEnv{TB: t, m: m.Memos, other: m.Other, close: closeOnce})
		}})
	}
	return rules
}

type memoEnv struct {
	testing.TB
	m, other store.Memos
	close    func() error
}

// swap checks what a Swap answers; nil stands for nothing.
func (e *memoEnv) swap(m store.Memos, old, value, want []byte, ttl time.Duration) {
	e.Helper()
	there, err := m.Swap(e.Context(), "k", old, value, ttl)
	if err != nil || !bytes.Equal(there, want) || (there == nil) != (want == nil) {
		e.Errorf("Swap(%q, %q): got %q, error %v; want %q", old, value, there, err, want)
	}
}

func (e *memoEnv) look(m store.Memos, key string, want []byte) {
	e.Helper()
	there, err := m.Look(e.Context(), key)
	if err != nil || !bytes.Equal(there, want) || (there == nil) != (want == nil) {
		e.Errorf("Look(%q): got %q, error %v; want %q", key, there, err, want)
	}
}

func testM1(e *memoEnv) {
	odd := []byte("\x00\xff \n'\"a")
	e.swap(e.m, nil, nil, nil, 0)                             // nothing stays nothing
	e.swap(e.m, []byte("x"), odd, nil, time.Hour)             // there is no x
	e.swap(e.m, nil, odd, odd, time.Hour)                     // the first
	e.swap(e.other, nil, []byte("b"), odd, time.Hour)         // is there
	e.swap(e.other, odd[:3], []byte("b"), odd, time.Hour)     // and is longer
	e.swap(e.other, odd, []byte("b"), []byte("b"), time.Hour) // replaced
	e.swap(e.m, []byte("b"), []byte("b"), []byte("b"), 2*time.Hour)
	e.swap(e.m, odd, nil, []byte("b"), 0) // not removed
	e.swap(e.m, []byte("b"), nil, nil, 0) // removed
	e.look(e.other, "k", nil)
	e.swap(e.other, nil, odd, odd, time.Hour)
}

// testM1Race: of many at once who find nothing, one puts his value there.
func testM1Race(e *memoEnv) {
	const n = 20
	won := make([]bool, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			m, mine := e.m, fmt.Appendf(nil, "value-%d", i)
			if i%2 == 1 {
				m = e.other
			}
			there, err := m.Swap(e.Context(), "k", nil, mine, time.Hour)
			if err != nil || there == nil {
				e.Errorf("Swap: got %q, error %v", there, err)
			}
			won[i] = bytes.Equal(there, mine)
		})
	}
	wg.Wait()
	winners := 0
	for i, w := range won {
		if w {
			winners++
			e.look(e.other, "k", fmt.Appendf(nil, "value-%d", i))
		}
	}
	if winners != 1 {
		e.Errorf("%d of %d put their value into one place", winners, n)
	}
}

func testM2(e *memoEnv) {
	age := 100 * 365 * 24 * time.Hour // what has no end of its own
	e.swap(e.m, nil, []byte("old"), []byte("old"), age)
	e.look(e.other, "k", []byte("old"))
	e.swap(e.m, []byte("old"), nil, nil, age)
	const ttl = 150 * time.Millisecond
	began := time.Now()
	e.swap(e.m, nil, []byte("a"), []byte("a"), ttl)
	for {
		asked := time.Now()
		there, err := e.other.Look(e.Context(), "k")
		if err != nil {
			e.Fatalf("Look: %v", err)
		}
		if there == nil {
			if passed := time.Since(began); passed < ttl-early {
				e.Errorf("a memo of %s was gone after %s", ttl, passed)
			}
			break
		}
		if passed := asked.Sub(began); passed > 20*time.Second {
			e.Fatalf("a memo of %s is there after %s", ttl, passed)
		}
		time.Sleep(poll)
	}
	e.swap(e.m, []byte("a"), []byte("b"), nil, time.Hour) // it is not there any more
	e.swap(e.m, nil, []byte("b"), []byte("b"), time.Hour)
	e.swap(e.m, []byte("b"), []byte("c"), []byte("c"), ttl) // another time
	time.Sleep(ttl + 50*time.Millisecond)
	e.look(e.m, "k", nil)
}

func testM3(e *memoEnv) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range 50 {
		value := fmt.Appendf(big[:i:i], "value of %d", i)
		if _, err := e.m.Swap(e.Context(), fmt.Sprintf("key %d", i), nil, value, time.Hour); err != nil {
			e.Fatalf("Swap: %v", err)
		}
		e.look(e.other, fmt.Sprintf("key %d", i), value)
	}
	e.swap(e.m, nil, big, big, time.Hour)
	e.look(e.other, "k", big)
	e.look(e.m, "KEY 1", nil)
	e.look(e.m, "key 1", []byte("0value of 1"))
	there, err := e.m.Look(e.Context(), "key 1")
	if err == nil && len(there) > 0 {
		there[0] = '!' // the caller's own
		e.look(e.m, "key 1", []byte("0value of 1"))
	}
}

func testM4(e *memoEnv) {
	ctx, long := e.Context(), string(bytes.Repeat([]byte("k"), store.MaxMemoKey+1))
	for _, bad := range []struct {
		key   string
		value []byte
		ttl   time.Duration
	}{
		{"", []byte("a"), time.Hour}, {long, []byte("a"), time.Hour}, {"k", []byte{}, time.Hour},
		{"k", make([]byte, store.MaxMemo+1), time.Hour}, {"k", []byte("a"), 0}, {"k", []byte("a"), -time.Hour},
	} {
		if _, err := e.m.Swap(ctx, bad.key, nil, bad.value, bad.ttl); !errors.Is(err, task.ErrInvalid) {
			e.Errorf("Swap of a key of %d bytes, %d bytes, for %s: %v", len(bad.key), len(bad.value), bad.ttl, err)
		}
	}
	if _, err := e.m.Look(ctx, ""); !errors.Is(err, task.ErrInvalid) {
		e.Errorf("Look without a key: %v", err)
	}
	e.look(e.m, "k", nil)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.m.Swap(gone, "k", nil, []byte("a"), time.Hour); !errors.Is(err, context.Canceled) {
		e.Errorf("Swap without time: %v", err)
	}
	if _, err := e.m.Look(gone, "k"); !errors.Is(err, context.Canceled) {
		e.Errorf("Look without time: %v", err)
	}
	e.look(e.m, "k", nil)
	if err := e.close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	if _, err := e.m.Swap(ctx, "k", nil, []byte("a"), time.Hour); !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Swap after Close: %v", err)
	}
	if _, err := e.m.Look(ctx, "k"); !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Look after Close: %v", err)
	}
}
