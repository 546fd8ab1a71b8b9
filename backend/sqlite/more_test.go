package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func consumerOf(t *testing.T, b broker.Broker, queues ...string) broker.Consumer {
	t.Helper()
	c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: queues})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("close consumer: %v", err)
		}
	})
	return c
}

func exchange(t *testing.T, c broker.Consumer, done []broker.Settlement, n int) broker.Batch {
	t.Helper()
	x, err := c.Exchange(t.Context(), done, nil, broker.Want{Count: n})
	if err != nil {
		t.Fatalf("exchange: %v", err)
	}
	return x
}

func settlements(ds []broker.Delivery, keep time.Duration) (list []broker.Settlement) {
	for _, d := range ds {
		list = append(list, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: keep, Worker: "w"}})
	}
	return list
}

func number(t *testing.T, path, sql string) (n int64) {
	t.Helper()
	c, err := sqlite3.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := c.Prepare(sql)
	if err != nil || !s.Step() {
		t.Fatalf("%s: %v", sql, err)
	}
	n = s.ColumnInt64(0)
	for _, err := range []error{s.Close(), c.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestExpiredIsRemoved: whoever writes removes what expired, of every kind.
func TestExpiredIsRemoved(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	b := db.Broker()
	c := consumerOf(t, b, "q")
	for i := range 30 {
		e := envelope(fmt.Sprint("t", i), "q")
		_, err := b.Publish(t.Context(), []broker.Publication{{Envelope: e, Claims: []broker.Claim{{Key: e.ID, For: time.Millisecond}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, c, settlements(exchange(t, c, nil, 30).Deliveries, time.Millisecond), 0)
	_, err := db.Results().Record(t.Context(), []store.Record{{
		Key: store.Key{ID: "r", Epoch: 1}, Envelope: envelope("r", "q"), Outcome: task.Outcome{State: task.Cancelled, Keep: time.Millisecond},
	}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "tasks, notes, claims and records are gone", func() bool {
		if err := db.Heartbeats().Beat(t.Context(), store.Heartbeat{Worker: "w", At: time.Now()}, time.Second); err != nil {
			t.Fatal(err)
		}
		return number(t, path, `SELECT (SELECT count(*) FROM stem_task) + (SELECT count(*) FROM stem_note)
			+ (SELECT count(*) FROM stem_claim) + (SELECT count(*) FROM stem_record)`) == 0
	})
}

// TestFinishedEnvelopesAreCut: a status keeps the first KiB of large arguments,
// and the file no more than that.
func TestFinishedEnvelopesAreCut(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	e := envelope("big", "q")
	e.Args = []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	publish(t, db.Broker(), e)
	c := consumerOf(t, db.Broker(), "q")
	before, err := db.Results().Get(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, settlements(exchange(t, c, nil, 1).Deliveries, time.Hour), 0)
	after, err := db.Results().Get(t.Context(), "big")
	if err != nil || after[0].Err != nil || string(after[0].Status.Args) != string(before[0].Status.Args) {
		t.Errorf("kept arguments: %d bytes while it was queued, %d after, %v, %v",
			len(before[0].Status.Args), len(after[0].Status.Args), after[0].Err, err)
	}
	if n := number(t, path, "SELECT length(envelope) FROM stem_task"); n > 3000 {
		t.Errorf("the file keeps %d bytes of the envelope", n)
	}
}

// TestPatternsShareFairly: one queue of a pattern does not hold up the others.
func TestPatternsShareFairly(t *testing.T) {
	b := open(t, sqlite.Config{Path: newPath(t)}).Broker()
	for i := range 100 {
		publish(t, b, envelope(fmt.Sprint("a", i), "tenant-a"))
	}
	publish(t, b, envelope("b", "tenant-b"), envelope("c", "tenant-c"), envelope("other", "else"))
	c := consumerOf(t, b, "tenant-*")
	got := make(map[string]int)
	for _, d := range exchange(t, c, nil, 12).Deliveries {
		got[d.Queue]++
	}
	if got["tenant-a"] != 10 || got["tenant-b"] != 1 || got["tenant-c"] != 1 {
		t.Errorf("twelve of three queues: %v", got)
	}
}

// TestManyDueAtOnce: what comes due together is moved in pages, and nothing is
// left behind or delivered twice.
func TestManyDueAtOnce(t *testing.T) {
	b := open(t, sqlite.Config{Path: newPath(t)}).Broker()
	due := time.Now().Add(300 * time.Millisecond)
	var batch []broker.Publication
	for i := range 2500 {
		e := envelope(fmt.Sprint("t", i), "q")
		e.NotBefore = due
		batch = append(batch, broker.Publication{Envelope: e})
	}
	if _, err := b.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	waited := time.Now().Before(due) // else they were ready at once, on a slow machine
	c := consumerOf(t, b, "q")
	got := make(map[string]bool)
	var done []broker.Settlement
	eventually(t, "all are delivered", func() bool {
		x := exchange(t, c, done, 400)
		done = settlements(x.Deliveries, time.Hour)
		for _, d := range x.Deliveries {
			if got[d.Receipt.ID] || time.Now().Before(due.Add(-2*time.Millisecond)) || waited && d.NotBefore.IsZero() {
				t.Fatalf("%s: twice %v, at %s, due %s", d.Receipt.ID, got[d.Receipt.ID], time.Now(), d.NotBefore)
			}
			got[d.Receipt.ID] = true
		}
		return len(got) == len(batch)
	})
	exchange(t, c, done, 0)
}

// TestIdleConsumersDoNotWrite: with nothing to do, nobody takes the lock.
func TestIdleConsumersDoNotWrite(t *testing.T) {
	path := newPath(t)
	b := open(t, sqlite.Config{Path: path}).Broker()
	c := consumerOf(t, b, "q", "tenant-*")
	lock, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := sqlite.LockFile(lock, true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		if _, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 10}); err != nil {
			t.Fatalf("exchange while another process holds the lock: %v", err)
		}
		if err := c.Wait(ctx, time.Millisecond); err != nil {
			t.Fatalf("wait while another process holds the lock: %v", err)
		}
	}
}

// TestWithoutSockets: where the directory of sockets cannot be made, consumers
// and watchers learn of other processes' work by looking.
func TestWithoutSockets(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path+"-wake", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, other := open(t, sqlite.Config{Path: path}), open(t, sqlite.Config{Path: path})
	c := consumerOf(t, db.Broker(), "q")
	exchange(t, c, nil, 1)
	changed, cancel := db.Results().(store.Watcher).Subscribe("a")
	defer cancel()
	publish(t, other.Broker(), envelope("a", "q"))
	eventually(t, "a waiting consumer is woken", func() bool {
		if err := c.Wait(t.Context(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		return len(exchange(t, c, nil, 1).Deliveries) == 1
	})
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Error("nobody told of the change")
	}
}

// TestWakeDirectoryIsTidy: closed consumers leave nothing, and what a killed
// process left is removed by the next.
func TestWakeDirectoryIsTidy(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	p := startProcess(t, "consume", path)
	p.line(t)
	eventually(t, "the process waits", func() bool {
		idle, err := filepath.Glob(path + "-wake/*.idle")
		return err == nil && len(idle) == 1
	})
	p.killed(t)
	c, err := db.Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(path + "-wake")
	if err != nil || len(entries) != 2 { // a socket, and its queues
		t.Errorf("one open consumer: %v, %v", entries, err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err = os.ReadDir(path + "-wake"); err != nil || len(entries) != 0 {
		t.Errorf("no consumer: %v, %v", entries, err)
	}
}

// TestRevokedNeverComesBack: a leased task that was revoked is cancelled when
// it is given back, retried, or its lease ends.
func TestRevokedNeverComesBack(t *testing.T) {
	db := open(t, sqlite.Config{Path: newPath(t)})
	b := db.Broker()
	ids := []string{"closed", "released", "retried"}
	for _, id := range ids {
		publish(t, b, envelope(id, "q"))
	}
	c := consumerOf(t, b, "q")
	ds := exchange(t, c, nil, 3).Deliveries
	var revocations []broker.Revocation
	for _, id := range ids {
		revocations = append(revocations, broker.Revocation{ID: id, Reason: "unwanted", Keep: time.Hour})
	}
	answers, err := b.(broker.Revoker).Revoke(t.Context(), revocations)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if a.State != broker.RevokeAsked || a.Worker != "w" {
			t.Errorf("revoking the leased %s: %+v", ids[i], a)
		}
	}
	released, retried := settlements(ds[1:2], time.Hour), settlements(ds[2:3], time.Hour)
	released[0].Outcome.State, retried[0].Outcome.State = task.Queued, task.Retried
	x := exchange(t, c, append(released, retried...), 5)
	if len(x.Deliveries) != 0 || len(x.Revoked) != 1 || x.Revoked[0].Receipt.ID != "closed" || x.Revoked[0].Reason != "unwanted" {
		t.Errorf("after giving back two of three revoked: %+v", x)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := db.Results().Get(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range found {
		if f.Err != nil || f.Status.State != task.Cancelled || f.Status.Reason != "unwanted" {
			t.Errorf("%s: %+v, %v", ids[i], f.Status, f.Err)
		}
	}
}

// TestCallsArePassedOn: who is called and has no room calls another, and so
// does who is closed before it answered.
func TestCallsArePassedOn(t *testing.T) {
	b := open(t, sqlite.Config{Path: newPath(t)}).Broker()
	waiters := map[string]broker.Consumer{"all": consumerOf(t, b, "*"), "named": consumerOf(t, b, "q"), "third": consumerOf(t, b, "q", "r")}
	woken := make(chan string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	for name, c := range waiters {
		exchange(t, c, nil, 1)
		go func() {
			if c.Wait(ctx, time.Hour) == nil {
				woken <- name
			}
		}()
	}
	defer cancel()
	publish(t, b, envelope("a", "q"))
	first := <-woken
	if _, err := waiters[first].Exchange(ctx, nil, nil, broker.Want{}); err != nil {
		t.Fatal(err)
	}
	second := <-woken
	if err := waiters[second].Close(ctx); err != nil {
		t.Fatal(err)
	}
	if third := <-woken; len(exchange(t, waiters[third], nil, 1).Deliveries) != 1 {
		t.Error("the third found nothing")
	}
}

// TestCallsAreNeverLost: a consumer that lies down and gets up all the time is
// called by another process for each task, whichever of the two is faster.
func TestCallsAreNeverLost(t *testing.T) {
	path := newPath(t)
	here, there := open(t, sqlite.Config{Path: path}).Broker(), open(t, sqlite.Config{Path: path}).Broker()
	c := consumerOf(t, here, "q")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(chan string)
	go func() {
		var done []broker.Settlement
		for {
			x, err := c.Exchange(ctx, done, nil, broker.Want{Count: 5})
			if err != nil {
				return
			}
			done = settlements(x.Deliveries, 0)
			for _, d := range x.Deliveries {
				got <- d.Receipt.ID
			}
			if len(done) == 0 && c.Wait(ctx, time.Hour) != nil {
				return
			}
		}
	}()
	for i := range 300 {
		id := fmt.Sprint("t", i)
		publish(t, there, envelope(id, "q"))
		select {
		case d := <-got:
			if d != id {
				t.Fatalf("got %s, want %s", d, id)
			}
		case <-ctx.Done():
			t.Fatalf("nobody came for %s", id)
		}
	}
}

// TestRemovedSocket: a consumer whose socket somebody removed looks by itself.
func TestRemovedSocket(t *testing.T) {
	path := newPath(t)
	here, there := open(t, sqlite.Config{Path: path}).Broker(), open(t, sqlite.Config{Path: path}).Broker()
	c := consumerOf(t, here, "q")
	if err := os.RemoveAll(path + "-wake"); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, nil, 1)
	wait := together(1, func(int) error {
		_, err := there.Publish(t.Context(), []broker.Publication{{Envelope: envelope("a", "q")}})
		return err
	})
	eventually(t, "the task is delivered", func() bool {
		if err := c.Wait(t.Context(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		return len(exchange(t, c, nil, 1).Deliveries) == 1
	})
	if err := wait()[0]; err != nil {
		t.Error(err)
	}
}
