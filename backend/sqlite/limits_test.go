package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/store"
)

// The limit that two processes share, and the tasks under it.
const (
	limitedRate  = 40 // a second
	limitedTasks = 120
)

func limitedTask() stem.Task[int, stem.None] {
	return stem.NewTask[int, stem.None]("limited", stem.Rate(fmt.Sprintf("%d/s", limitedRate)))
}

// limited is a worker that prints when its handlers start, until it is killed.
func limited(path string) error {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	c, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		return err
	}
	w := stem.NewWorker(c, stem.WorkerOptions{Concurrency: 8})
	err = w.Handle(limitedTask().Do(func(context.Context, int) error {
		fmt.Println(time.Now().UnixMicro())
		return nil
	}))
	if err != nil {
		return err
	}
	return w.Run(context.Background())
}

// TestProcessesShareARate: workers in two processes keep to one rate between
// them. A start may come up to a second after its slot, and what was later asks
// again in a line of its own: only the whole is sure to take its time.
func TestProcessesShareARate(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	c, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range limitedTasks {
		if _, err := limitedTask().Enqueue(t.Context(), c, i); err != nil {
			t.Fatal(err)
		}
	}
	lines := make(chan string, limitedTasks)
	for range 2 {
		p := startProcess(t, "limited", path)
		go func() {
			for p.lines.Scan() {
				lines <- p.lines.Text()
			}
		}()
	}
	var starts []int64
	over := time.After(time.Minute)
	for len(starts) < limitedTasks {
		select {
		case text := <-lines:
			us, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatalf("a worker said %q", text)
			}
			starts = append(starts, us)
		case <-over:
			t.Fatalf("%d of %d started", len(starts), limitedTasks)
		}
	}
	slices.Sort(starts)
	took := time.Duration(starts[limitedTasks-1]-starts[0]) * time.Microsecond
	if least := time.Duration(limitedTasks-1)*time.Second/limitedRate - time.Second; took < least {
		t.Errorf("%d tasks at %d/s started within %s, want %s or more", limitedTasks, limitedRate, took, least)
	}
	t.Logf("%d tasks at %d/s in two processes: %s", limitedTasks, limitedRate, took)
}

// BenchmarkRateLimitStorm has a backlog of a limited task go back for its slots
// once each, and one task without a limit behind it.
func BenchmarkRateLimitStorm(b *testing.B) {
	const backlog = 100_000
	slow, free := stem.NewTask[int, stem.None]("slow", stem.Rate("10/s")), stem.NewTask[int, stem.None]("free")
	ended := make(chan struct{}, 1)
	for b.Loop() {
		b.StopTimer()
		db, err := sqlite.Open(b.Context(), sqlite.Config{Path: newPath(b)})
		if err != nil {
			b.Fatal(err)
		}
		c, err := stem.NewClient(db, stem.ClientOptions{})
		if err != nil {
			b.Fatal(err)
		}
		items := make([]stem.Item, backlog, backlog+1)
		for i := range items {
			items[i] = slow.Item(i)
		}
		if _, err := c.EnqueueMany(b.Context(), append(items, free.Item(1))); err != nil {
			b.Fatal(err)
		}
		w := stem.NewWorker(c, stem.WorkerOptions{Concurrency: 8})
		nothing := func(context.Context, int) error { return nil }
		err = w.Handle(slow.Do(nothing), free.Do(func(context.Context, int) error { ended <- struct{}{}; return nil }))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began, done := time.Now(), make(chan error, 1)
		go func() { done <- w.Run(context.Background()) }()
		<-ended
		b.ReportMetric(backlog/time.Since(began).Seconds(), "put-off/s")
		b.StopTimer()
		w.Shutdown(stem.Warm)
		if err := errors.Join(<-done, db.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// A clock that was ahead and is set back does not leave the limits in the future.
func TestLimitsFollowTheClock(t *testing.T) {
	path := newPath(t)
	limiter := open(t, sqlite.Config{Path: path}).Broker().(store.Limiter)
	reserve := func() store.Slot {
		t.Helper()
		slots, err := limiter.Reserve(t.Context(), []store.Reservation{{Key: "k", Rate: store.Rate{Count: 1, Per: time.Minute}}})
		if err != nil {
			t.Fatal(err)
		}
		return slots[0]
	}
	reserve()
	raw(t, path, "UPDATE stem_limit SET first = first + 3600000000; UPDATE stem_meta SET value = value + 3600000000 WHERE key = 'limit_clock'")
	if s := reserve(); s.Wait > time.Minute {
		t.Errorf("after a step of an hour the next slot is in %s", s.Wait)
	}
	if s := reserve(); s.Wait > 2*time.Minute {
		t.Errorf("the slot after that is in %s", s.Wait)
	}
}
