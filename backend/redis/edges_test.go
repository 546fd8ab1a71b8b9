package redis_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func envelope(id string) *task.Envelope {
	return &task.Envelope{ID: id, Name: "n", Args: []byte("{}"), EnqueuedAt: time.Now(), Priority: 5, MaxRetries: 3, Queue: "q"}
}

func consumerOf(t *testing.T, db *redis.DB, lease time.Duration) broker.Consumer {
	t.Helper()
	c, err := db.Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func exchange(t *testing.T, c broker.Consumer, live []broker.Renewal, count int) broker.Batch {
	t.Helper()
	x, err := c.Exchange(t.Context(), nil, live, broker.Want{Count: count})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func publishAll(t *testing.T, db *redis.DB, batch ...broker.Publication) []broker.Outcome {
	t.Helper()
	out, err := db.Broker().Publish(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Lua's stack holds 8000 values; the HTTP API takes batches of 10,000.
func TestPublishManyDuplicates(t *testing.T) {
	t.Parallel()
	db := open(t, redis.Config{Namespace: namespace()})
	claims := []broker.Claim{{Key: "k", For: time.Hour}}
	publishAll(t, db, broker.Publication{Envelope: envelope("first"), Claims: claims})
	var batch []broker.Publication
	for i := range 10_000 {
		batch = append(batch, broker.Publication{Envelope: envelope(fmt.Sprintf("d%d", i)), Claims: claims})
	}
	for i, o := range publishAll(t, db, batch...) {
		if o.State != broker.Duplicate || o.ExistingID != "first" {
			t.Fatalf("item %d: %+v", i, o)
		}
	}
}

// An id that was revoked in its list, and published again, is listed twice.
func TestPublishAgainAfterRevoke(t *testing.T) {
	t.Parallel()
	db := open(t, redis.Config{Namespace: namespace()})
	again := func(e *task.Envelope) {
		t.Helper()
		publishAll(t, db, broker.Publication{Envelope: envelope(e.ID)})
		answers, err := db.Broker().(broker.Revoker).Revoke(t.Context(), []broker.Revocation{{ID: e.ID}})
		if err != nil || answers[0].State != broker.RevokeCancelled {
			t.Fatalf("revoke %s: %+v, %v", e.ID, answers, err)
		}
		publishAll(t, db, broker.Publication{Envelope: e})
	}
	later, elsewhere := envelope("later"), envelope("elsewhere")
	later.NotBefore = time.Now().Add(time.Hour)
	elsewhere.Queue = "other"
	again(envelope("twice"))
	again(later)
	again(elsewhere)
	c := consumerOf(t, db, time.Minute)
	x := exchange(t, c, nil, 10)
	if len(x.Deliveries) != 1 || x.Deliveries[0].Receipt.ID != "twice" {
		t.Errorf("received %+v, want twice alone, and once", x.Deliveries)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// The answer that tells of a revocation may be lost on its way: whoever renews
// the lease is told all the same.
func TestRevocationIsToldAgain(t *testing.T) {
	t.Parallel()
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns})
	publishAll(t, db, broker.Publication{Envelope: envelope("a")})
	c := consumerOf(t, db, time.Minute)
	d := exchange(t, c, nil, 1).Deliveries[0]
	if _, err := db.Broker().(broker.Revoker).Revoke(t.Context(), []broker.Revocation{{ID: "a", Terminate: true, Reason: "why"}}); err != nil {
		t.Fatal(err)
	}
	shared.Get(t).Do("DEL", "{"+ns+":0}:news")
	live := []broker.Renewal{{Receipt: d.Receipt}}
	x := exchange(t, c, live, 0)
	want := broker.Revoked{Receipt: d.Receipt, Terminate: true, Reason: "why"}
	if len(x.Revoked) != 1 || x.Revoked[0] != want {
		t.Errorf("told %+v, want %+v", x.Revoked, want)
	}
	if x := exchange(t, c, live, 0); len(x.Revoked) != 0 {
		t.Errorf("told a second time: %+v", x.Revoked)
	}
}

// A client that stored a task and was cut off before it kept the claim repeats
// its call.
func TestRepeatedPublishKeepsItsClaim(t *testing.T) {
	t.Parallel()
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns, Partitions: 3})
	p := broker.Publication{Envelope: envelope("a"), Claims: []broker.Claim{{Key: "k"}}}
	publishAll(t, db, p)
	s := shared.Get(t)
	key := ""
	for i := range 3 {
		if k := fmt.Sprintf("{%s:%d}:claim:k", ns, i); s.Do("EXISTS", k) == int64(1) {
			key = k
		}
	}
	s.Do("PEXPIRE", key, "30000") // as it is before it is kept
	if out := publishAll(t, db, p); out[0].State != broker.Exists {
		t.Fatalf("the same again: %+v", out)
	}
	if left := s.Do("PTTL", key); left != int64(-1) {
		t.Errorf("the claim goes in %v ms, and its task waits", left)
	}
}

// While the server is away, or says nothing, every call fails, also without a
// deadline, and says that the store is unavailable.
func TestCallsEndWhileTheServerIsAway(t *testing.T) {
	for name, leave := range map[string]func(s *redistest.Server){
		"killed": (*redistest.Server).Kill, "silent": (*redistest.Server).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, redistest.Options{})
			db := open(t, redis.Config{Addrs: []string{s.Addr}, Partitions: 2})
			leave(s)
			if name == "silent" {
				defer s.Cont()
			}
			var all sync.WaitGroup
			for what, call := range lonelyCalls(db) {
				all.Go(func() {
					if err := call(context.Background()); !errors.Is(err, broker.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: got %v", what, err)
					}
				})
			}
			all.Wait()
		})
	}
}

// lonelyCalls have one of each kind that is no script, and one that is.
func lonelyCalls(db *redis.DB) map[string]func(ctx context.Context) error {
	b := db.Broker()
	return map[string]func(ctx context.Context) error{
		"Pauses": func(ctx context.Context) error { _, err := b.(broker.Pauser).Pauses(ctx); return err },
		"Revocations": func(ctx context.Context) error {
			_, _, err := b.(broker.RevocationLister).Revocations(ctx, broker.Page{})
			return err
		},
		"RevokedOf": func(ctx context.Context) error {
			_, err := b.(broker.RevocationTeller).RevokedOf(ctx, broker.Receipt{ID: "a"})
			return err
		},
		"Holds": func(ctx context.Context) error { _, err := b.(broker.Owner).Holds(ctx, "a", "b", "c"); return err },
		"Look":  func(ctx context.Context) error { _, err := db.Memos().Look(ctx, "k"); return err },
		"Swap": func(ctx context.Context) error {
			_, err := db.Memos().Swap(ctx, "k", nil, []byte("v"), time.Minute)
			return err
		},
		"Clock":    func(ctx context.Context) error { _, err := db.Clock(ctx); return err },
		"Check":    db.Check,
		"Warnings": func(ctx context.Context) error { _, err := db.Warnings(ctx); return err },
		"List":     func(ctx context.Context) error { _, err := db.Results().List(ctx, store.Query{}); return err },
		"ListOutboxes": func(ctx context.Context) error {
			_, _, err := db.Results().(store.Outboxes).ListOutboxes(ctx, time.Now(), broker.Page{})
			return err
		},
		"Schedules": func(ctx context.Context) error { _, _, err := db.Schedules().List(ctx, broker.Page{}); return err },
		"History":   func(ctx context.Context) error { _, err := db.Schedules().History(ctx, "a", 1); return err },
	}
}

// A consumer whose deliveries are settled by other processes, as those of an
// API are, remembers them no longer than their leases last.
func TestConsumerForgetsWhatOthersSettle(t *testing.T) {
	ns := namespace()
	db, other := open(t, redis.Config{Namespace: ns}), open(t, redis.Config{Namespace: ns})
	c := consumerOf(t, db, time.Second)
	const tasks = 20_000
	var batch []broker.Publication
	for i := range tasks {
		e := envelope(fmt.Sprintf("t%d", i))
		e.Args = []byte(`"` + strings.Repeat("x", 1000) + `"`)
		batch = append(batch, broker.Publication{Envelope: e})
	}
	publishAll(t, db, batch...)
	before := heap()
	for got := 0; got < tasks; {
		x := exchange(t, c, nil, 1000)
		var done []broker.Settlement
		for _, d := range x.Deliveries {
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded}})
		}
		got += len(done)
		if _, err := other.Broker().Settle(t.Context(), done); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		exchange(t, c, nil, 1)
		grown := heap() - before
		if grown < 5<<20 {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("the heap has grown by %d bytes", grown)
		}
	}
	runtime.KeepAlive(c)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
