package memory_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func publication(id, queue string) broker.Publication {
	return broker.Publication{Envelope: &task.Envelope{
		ID: id, Name: "demo.task", EnqueuedAt: time.Now(), Priority: task.DefaultPriority, Queue: queue,
	}}
}

func publish(t *testing.T, b broker.Broker, batch ...broker.Publication) {
	t.Helper()
	out, err := b.Publish(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if o.State != broker.Stored {
			t.Fatalf("publish %s: got %+v, want Stored", batch[i].Envelope.ID, o)
		}
	}
}

func consumer(t *testing.T, b broker.Broker, queues ...string) broker.Consumer {
	t.Helper()
	c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: queues, Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, c broker.Consumer, n int) broker.Batch {
	t.Helper()
	b, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: n})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// waitFor starts a Wait of an hour; the channel gets its end.
func waitFor(ctx context.Context, c broker.Consumer) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- c.Wait(ctx, time.Hour) }()
	synctest.Wait()
	return ended
}

func ended(ch <-chan error) bool {
	synctest.Wait()
	return len(ch) > 0
}

func TestOneBatchWakesOneAndWhoLeavesMoreTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		one, two := consumer(t, b, "q"), consumer(t, b, "q")
		first, second := waitFor(t.Context(), one), waitFor(t.Context(), two)
		publish(t, b, publication("a", "q"), publication("b", "q"), publication("c", "q"))
		if !ended(first) || ended(second) {
			t.Fatalf("one batch woke the first: %v, and the second: %v", ended(first), ended(second))
		}
		if got := receive(t, one, 1); len(got.Deliveries) != 1 || !got.More {
			t.Fatalf("the first one got %+v, want one of three", got)
		}
		if !ended(second) {
			t.Error("more was ready than the first one took, and the second sleeps")
		}
		receive(t, two, 2)
		if again := waitFor(t.Context(), one); ended(again) {
			t.Error("nothing is ready, and Wait returned")
		}
	})
}

func TestWhoIsFullSleepsThroughWorkButHearsOfRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		publish(t, b, publication("held", "q"), publication("ready", "q"))
		full := consumer(t, b, "q")
		receive(t, full, 1)
		if got := receive(t, full, 0); !got.More {
			t.Error("a task is ready, and More is false")
		}
		wait := waitFor(t.Context(), full)
		if ended(wait) {
			t.Fatal("a consumer that wants nothing was woken for work")
		}
		answers, err := b.(broker.Revoker).Revoke(t.Context(), []broker.Revocation{{ID: "held", Terminate: true}})
		if err != nil || answers[0].State != broker.RevokeAsked {
			t.Fatalf("revoke: got %+v, error %v", answers, err)
		}
		if !ended(wait) {
			t.Fatal("a consumer was not woken for a revocation")
		}
		got := receive(t, full, 0)
		if len(got.Revoked) != 1 || !got.Revoked[0].Terminate || got.Revoked[0].Reason != task.ReasonRevoked {
			t.Errorf("the consumer is told %+v", got.Revoked)
		}
	})
}

func TestWhoHasNoRoomWakesThoseWhoSubscribeOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		all, named, other := consumer(t, b, "*"), consumer(t, b, "b"), consumer(t, b, "c")
		waits := map[broker.Consumer]<-chan error{}
		for _, c := range []broker.Consumer{all, named, other} {
			waits[c] = waitFor(t.Context(), c)
		}
		publish(t, b, publication("b1", "b"))
		called, next := all, named
		if ended(waits[named]) {
			called, next = named, all
		}
		if !ended(waits[called]) || ended(waits[next]) {
			t.Fatal("one task woke none, or both who subscribe to its queue")
		}
		receive(t, called, 0)
		if !ended(waits[next]) {
			t.Error("one who had no room was woken, and did not wake the other")
		}
		if ended(waits[other]) {
			t.Error("one who does not subscribe to the queue was woken")
		}
	})
}

func TestCallOfOneWhoGoesAwayIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 20 { // the select between a call and an ended context is a coin's throw
			leaver, stayer := consumer(t, b, "q"), consumer(t, b, "q")
			left := waitFor(ctx, leaver)
			stays := waitFor(t.Context(), stayer)
			publish(t, b, publication(fmt.Sprint("t", i), "q")) // calls the leaver
			cancel()
			if err := <-left; err == nil {
				_ = leaver.Close(t.Context()) // it was called, and does not follow
			} else if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if !ended(stays) {
				t.Fatal("the call of one who went away is lost")
			}
			receive(t, stayer, 9)
			ctx, cancel = context.WithCancel(t.Context())
			for _, c := range []broker.Consumer{leaver, stayer} {
				if err := c.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Purge(t.Context(), broker.Purge{Queue: "q"}); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
	})
}

func TestWhatBecomesDueWakesWithoutAnybodyLooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		holder, waiter := consumer(t, b, "q"), consumer(t, b, "q")
		publish(t, b, publication("leased", "q"))
		receive(t, holder, 1)
		began := time.Now()
		wait := waitFor(t.Context(), waiter)
		late := publication("late", "q")
		late.Envelope.NotBefore = began.Add(10 * time.Second)
		publish(t, b, late)
		if err := <-wait; err != nil || time.Since(began) != 10*time.Second {
			t.Errorf("a delayed task woke its waiter after %s, error %v", time.Since(began), err)
		}
		if got := receive(t, waiter, 9); len(got.Deliveries) != 1 || got.Next != 50*time.Second {
			t.Errorf("got %d deliveries and Next %s, want 1 and 50s", len(got.Deliveries), got.Next)
		}
		if err := waiter.Wait(t.Context(), time.Hour); err != nil || time.Since(began) != time.Minute {
			t.Errorf("a lease that ended woke a waiter after %s, error %v", time.Since(began), err)
		}
	})
}

func TestCloseEndsWaiting(t *testing.T) {
	for name, closing := range map[string]func(*memory.DB, broker.Broker, broker.Consumer) error{
		"DB":       func(db *memory.DB, _ broker.Broker, _ broker.Consumer) error { return db.Close() },
		"Broker":   func(_ *memory.DB, b broker.Broker, _ broker.Consumer) error { return b.Close() },
		"Consumer": func(_ *memory.DB, _ broker.Broker, c broker.Consumer) error { return c.Close(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := memory.New()
				b := db.Broker()
				c := consumer(t, b, "q")
				wait := waitFor(t.Context(), c)
				if err := closing(db, b, c); err != nil {
					t.Fatal(err)
				}
				if err := <-wait; !errors.Is(err, broker.ErrClosed) {
					t.Errorf("Wait returned %v, want ErrClosed", err)
				}
			})
		})
	}
}

func TestBrokersOfOneDBShareTasksAndCloseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t)
		one, two := db.Broker(), db.Broker()
		wait := waitFor(t.Context(), consumer(t, two, "q"))
		publish(t, one, publication("a", "q"))
		if !ended(wait) {
			t.Error("what one broker published did not wake another's consumer")
		}
		d := receive(t, consumer(t, one, "q"), 1).Deliveries[0]
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		errs, err := two.Settle(t.Context(), []broker.Settlement{{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: task.Forever}}})
		if err != nil || errs[0] != nil {
			t.Errorf("settling a closed broker's delivery by another: %v, %v", errs, err)
		}
		if a := two.(broker.Atomic); !a.AtomicWith(db.Results()) || a.AtomicWith(memory.New().Results()) {
			t.Error("a broker is atomic with the results of its own DB, and of no other")
		}
	})
}

func TestHoldsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		publish(t, b, publication("a", "q"))
		holds := func(what string, want bool) {
			t.Helper()
			got, err := b.(broker.Owner).Holds(t.Context(), "a", "unknown")
			if err != nil || got[0] != want || got[1] {
				t.Errorf("%s: Holds is %v, error %v; want %v and false", what, got, err, want)
			}
		}
		settle := func(s task.State) {
			t.Helper()
			d := receive(t, consumer(t, b, "q"), 1).Deliveries[0]
			holds("leased", true)
			errs, err := b.Settle(t.Context(), []broker.Settlement{{
				Receipt: d.Receipt, Outcome: task.Outcome{State: s, NotBefore: time.Now().Add(time.Second), Keep: task.Forever},
			}})
			if err != nil || errs[0] != nil {
				t.Fatal(err, errs)
			}
			time.Sleep(time.Second)
		}
		holds("published", true)
		settle(task.Retried)
		holds("retried", true)
		settle(task.Failed)
		holds("dead", false)
		if _, err := b.DeadLetters().ReplayDeadLetters(t.Context(), broker.DeadFilter{}, broker.ReplayOptions{}); err != nil {
			t.Fatal(err)
		}
		holds("replayed", true)
		settle(task.Succeeded)
		holds("succeeded", false)
	})
}

// TestManyQueues: a pattern serves each of its queues a share, and what is no
// longer used is forgotten.
func TestManyQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t).Broker()
		all := consumer(t, b, "tenant-*")
		const tenants = 3000
		for i := range tenants {
			q := fmt.Sprint("tenant-", i)
			var batch []broker.Publication
			for j := range 3 {
				p := publication(fmt.Sprintf("%s-%d", q, j), q)
				p.Claims = []broker.Claim{{Key: "once-" + p.Envelope.ID, For: time.Second}}
				batch = append(batch, p)
			}
			publish(t, b, batch...)
		}
		seen := map[string]int{}
		for range 3 {
			got := receive(t, all, tenants)
			for _, d := range got.Deliveries {
				seen[d.Queue]++
			}
			if len(seen) != tenants {
				t.Fatalf("%d deliveries came from %d of %d queues", len(got.Deliveries), len(seen), tenants)
			}
			if got.Next <= 0 || got.Next > time.Minute {
				t.Errorf("Next is %s, want at most a minute", got.Next)
			}
			settleAll(t, b, got.Deliveries)
		}
		time.Sleep(2 * time.Second)
		for i := range tenants {
			p := publication(fmt.Sprint("later-", i), fmt.Sprint("later-", i))
			p.Claims = []broker.Claim{{Key: p.Envelope.ID, For: time.Second}}
			publish(t, b, p)
		}
		if infos, err := b.Queues(t.Context()); err != nil || len(infos) != tenants {
			t.Errorf("%d queues hold something, error %v; want %d", len(infos), err, tenants)
		}
	})
}

func settleAll(t *testing.T, b broker.Broker, ds []broker.Delivery) {
	t.Helper()
	batch := make([]broker.Settlement, len(ds))
	for i, d := range ds {
		batch[i] = broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded}}
	}
	errs, err := b.Settle(t.Context(), batch)
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
}

// TestListGoesOnWhileTasksCome reads pages of a store that is written to.
func TestListGoesOnWhileTasksCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t)
		b := db.Broker()
		began := time.Now()
		old := func(i int) broker.Publication { // out of order, many to a moment
			p := publication(fmt.Sprintf("old-%03d", i*7%500), "q")
			p.Envelope.EnqueuedAt = began.Add(time.Duration(i*7%500/10) * time.Millisecond)
			return p
		}
		for i := range 500 {
			publish(t, b, old(i))
		}
		var got []string
		q := store.Query{Limit: 37, Name: "demo.*"}
		for page := 0; ; page++ {
			list, err := db.Results().List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list.Statuses {
				got = append(got, s.ID)
			}
			if q.Cursor = list.Cursor; q.Cursor == "" {
				break
			}
			p := publication(fmt.Sprint("new-", page), "q")
			p.Envelope.EnqueuedAt = began.Add(time.Hour)
			publish(t, b, p)
		}
		if len(got) != 500 {
			t.Fatalf("listed %d of 500", len(got))
		}
		for i, id := range got {
			if want := fmt.Sprintf("old-%03d", 499-i); id != want {
				t.Fatalf("status %d is %s, want %s", i, id, want)
			}
		}
	})
}

// TestStorm has producers, workers that come and go, and readers at once, in
// real time: each task ends once.
func TestStorm(t *testing.T) {
	db := open(t)
	b := db.Broker()
	const producers, each = 4, 500
	var ends atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work, produce sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for ctx.Err() == nil {
				consume(ctx, t, b, &ends, producers*each, stop)
			}
		})
	}
	for p := range producers {
		produce.Go(func() {
			for i := 0; i < each; i += 5 {
				var batch []broker.Publication
				for j := range 5 {
					batch = append(batch, publication(fmt.Sprintf("%d-%d", p, i+j), fmt.Sprint("q", j%2)))
				}
				publish(t, b, batch...)
				if _, err := db.Results().List(ctx, store.Query{Limit: 3}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	produce.Wait()
	work.Wait()
	if n := ends.Load(); n != producers*each {
		t.Errorf("%d ends of %d tasks", n, producers*each)
	}
	infos, err := b.Queues(context.WithoutCancel(ctx))
	if err != nil || len(infos) != 0 {
		t.Errorf("left: %+v, error %v", infos, err)
	}
}

// consume works for a while, as a worker that is closed with deliveries in its
// hands.
func consume(ctx context.Context, t *testing.T, b broker.Broker, ends *atomic.Int64, all int64, stop func()) {
	c, err := b.Open(ctx, broker.Subscription{Queues: []string{"q0", "q*"}})
	if err != nil {
		return
	}
	var done []broker.Settlement
	for range 10 {
		got, err := c.Exchange(ctx, done, nil, broker.Want{Count: 4})
		if err != nil {
			break
		}
		for _, err := range got.Settled {
			if err != nil {
				t.Error(err)
			}
		}
		if ends.Add(int64(len(got.Settled))) == all {
			stop()
		}
		done = done[:0]
		for i, d := range got.Deliveries {
			s := task.Outcome{State: task.Succeeded, Keep: time.Hour}
			if i == 3 && d.Attempt == 0 {
				continue // given back when it closes
			}
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: s})
		}
		if len(got.Deliveries) == 0 && c.Wait(ctx, time.Millisecond) != nil {
			break
		}
	}
	if err := c.Close(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
}
