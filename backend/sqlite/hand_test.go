package sqlite_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
)

// waiting starts a wait of a consumer that has room for n, and returns when it
// waits; the channel has what the wait returned.
func waiting(ctx context.Context, t *testing.T, c broker.Consumer, n int) <-chan error {
	t.Helper()
	if x := exchange(t, c, nil, n); len(x.Deliveries) > 0 {
		t.Fatalf("got %d tasks before any was stored", len(x.Deliveries))
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait(ctx, time.Minute) }()
	deadline := time.Now().Add(time.Minute)
	for !sqlite.Waits(c) {
		if time.Now().After(deadline) {
			t.Fatal("the consumer does not wait")
		}
		<-time.After(time.Millisecond)
	}
	return ended
}

func ids(ds []broker.Delivery) (list []string) {
	for _, d := range ds {
		list = append(list, d.Receipt.ID)
	}
	return list
}

func leasedIn(t *testing.T, b broker.Broker, queue string) int {
	t.Helper()
	info, err := b.Queues(t.Context(), queue)
	if err != nil {
		t.Fatal(err)
	}
	return info[0].Leased
}

// TestWhoWaitsIsServed: what is stored for a consumer that waits is leased to
// it in the same step, and its next exchange writes nothing.
func TestWhoWaitsIsServed(t *testing.T) {
	b := open(t, sqlite.Config{Path: newPath(t)}).Broker()
	c := consumerOf(t, b, "q")
	ended := waiting(t.Context(), t, c, 5)
	publish(t, b, envelope("a", "q"), envelope("b", "q"), envelope("c", "q"))
	if n := leasedIn(t, b, "q"); n != 3 {
		t.Errorf("%d are leased once they are stored, want 3", n)
	}
	if err := <-ended; err != nil {
		t.Fatalf("wait: %v", err)
	}
	x := exchange(t, c, nil, 5)
	if got := ids(x.Deliveries); len(got) != 3 || got[0] != "a" || got[2] != "c" || x.More {
		t.Errorf("got %v, more %t", got, x.More)
	}
	for _, d := range x.Deliveries {
		if d.Lease <= broker.DefaultLease/2 || d.Lease > broker.DefaultLease || d.Redelivered || d.Receipt.Epoch != 1 {
			t.Errorf("%s: lease %s, redelivered %t, epoch %d", d.Receipt.ID, d.Lease, d.Redelivered, d.Receipt.Epoch)
		}
	}
	for i, err := range exchange(t, c, settlements(x.Deliveries, time.Hour), 0).Settled {
		if err != nil {
			t.Errorf("settle %d: %v", i, err)
		}
	}
}

// TestWhatIsNotTakenGoesBack: a consumer that was served and has no room, gives
// up waiting, or closes, keeps nothing from the others.
func TestWhatIsNotTakenGoesBack(t *testing.T) {
	for name, turn := range map[string]func(t *testing.T, c broker.Consumer, stop func()) []string{
		"less room": func(t *testing.T, c broker.Consumer, _ func()) []string {
			return ids(exchange(t, c, nil, 1).Deliveries)
		},
		"no room": func(t *testing.T, c broker.Consumer, _ func()) []string {
			return ids(exchange(t, c, nil, 0).Deliveries)
		},
		"gives up": func(_ *testing.T, _ broker.Consumer, stop func()) []string {
			stop()
			return nil
		},
		"closes": func(t *testing.T, c broker.Consumer, _ func()) []string {
			if err := c.Close(t.Context()); err != nil {
				t.Errorf("close: %v", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, sqlite.Config{Path: newPath(t)})
			b := db.Broker()
			c, other := consumerOf(t, b, "q"), consumerOf(t, b, "q")
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended := waiting(ctx, t, c, 5)
			if name == "gives up" {
				stop() // at the same time as the work comes
			}
			publish(t, b, envelope("a", "q"), envelope("b", "q"), envelope("c", "q"))
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("wait: %v", err)
			} else if err == nil && name == "gives up" {
				exchange(t, c, nil, 0)
			}
			got := turn(t, c, stop)
			x := exchange(t, other, nil, 5)
			got = append(got, ids(x.Deliveries)...)
			if len(got) != 3 || got[0] != "a" || got[1] != "b" || got[2] != "c" {
				t.Errorf("the two have %v, want a, b, c", got)
			}
			for _, d := range x.Deliveries {
				if d.Redelivered || d.Starts != 0 {
					t.Errorf("%s counts: %+v", d.Receipt.ID, d)
				}
			}
			if err := db.Check(t.Context()); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// TestWhatWasServedOutlivesAFailure: an exchange that fails leaves what the
// consumer was served where it is, and the next one has it.
func TestWhatWasServedOutlivesAFailure(t *testing.T) {
	path := newPath(t)
	b := open(t, sqlite.Config{Path: path}).Broker()
	c := consumerOf(t, b, "q")
	publish(t, b, envelope("first", "q"))
	held := exchange(t, c, nil, 1).Deliveries
	ended := waiting(t.Context(), t, c, 5)
	publish(t, b, envelope("a", "q"), envelope("b", "q"))
	if err := <-ended; err != nil {
		t.Fatalf("wait: %v", err)
	}
	lock, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := sqlite.LockFile(lock, true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Exchange(ctx, settlements(held, time.Hour), nil, broker.Want{Count: 5}); err == nil {
		t.Fatal("the exchange did not fail though another has the file")
	}
	if err := sqlite.UnlockFile(lock); err != nil {
		t.Fatal(err)
	}
	if got := ids(exchange(t, c, nil, 5).Deliveries); len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("after an exchange that failed: got %v, want a and b", got)
	}
}
