package sqlite_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
)

func TestScheduleConformance(t *testing.T) {
	var paths sync.Map // by the schedules that were handed out
	openAt := func(t testing.TB, path string) storetest.Scheduling {
		db := open(t, sqlite.Config{Path: path})
		s := storetest.Scheduling{
			Schedules: db.Schedules(), Locks: db.Locks(), Broker: db.Broker(), Close: db.Close,
			Check: func() error { return db.Check(context.WithoutCancel(t.Context())) },
		}
		paths.Store(s.Schedules, path)
		return s
	}
	storetest.RunSchedules(t, storetest.ScheduleOptions{
		Open: func(t testing.TB) storetest.Scheduling { return openAt(t, filepath.Join(t.TempDir(), "stem.db")) },
		Reopen: func(t testing.TB, s storetest.Scheduling) storetest.Scheduling {
			path, _ := paths.Load(s.Schedules)
			return openAt(t, path.(string))
		},
	})
}

// beat waits for an entry, without ever looking by itself, and fires it.
func beat(path string) error {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	ctx, s := context.Background(), db.Schedules()
	lead, err := db.Locks().Acquire(ctx, store.LeadLock, "beat", time.Minute)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		d, err := s.Due(ctx, 0, 0)
		if err != nil {
			return err
		}
		if len(d.Entries) == 0 {
			if err := s.Wait(ctx, d.Changes, time.Hour); err != nil {
				return err
			}
			continue
		}
		answers, err := s.Fire(ctx, lead, []store.Firing{firing(d.Entries[0], "t")})
		if err != nil {
			return err
		}
		fmt.Println("fired", answers[0].Record.Task, answers[0].Err)
		return db.Close()
	}
}

func firing(s store.Schedule, id string) store.Firing {
	return store.Firing{
		ID: s.ID, Version: s.Version, Due: s.NextDue, Atomic: true,
		Publication: &broker.Publication{Envelope: envelope(id, "q")},
	}
}

func newSchedule(id string, due time.Time) store.ScheduleChange {
	return store.ScheduleChange{ID: id, Definition: []byte("{}"), NextDue: due, NextAt: due}
}

// An entry that one process adds wakes the beat of another, whose task wakes a
// consumer here.
func TestScheduleAcrossProcesses(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	other := startProcess(t, "beat", path)
	if line := other.line(t); line != "ready" {
		t.Fatal(line)
	}
	if _, err := db.Locks().Acquire(t.Context(), store.LeadLock, "here", time.Minute); err == nil {
		t.Error("the lock that another process holds was granted")
	}
	c, err := db.Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Schedules().Apply(t.Context(), []store.ScheduleChange{newSchedule("a", time.Now())}); err != nil {
		t.Fatal(err)
	}
	if line := other.line(t); line != "fired t <nil>" {
		t.Fatal(line)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		x, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(x.Deliveries) == 1 {
			break
		}
		if err := c.Wait(ctx, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
}

// Where no socket can be made, who waits sees a change by looking at the file.
func TestScheduleWaitWithoutSockets(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("l", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long) // where they would be made instead
	path := filepath.Join(long, "stem.db")
	s := open(t, sqlite.Config{Path: path}).Schedules()
	other := open(t, sqlite.Config{Path: path}).Schedules()
	d, err := s.Due(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() { woken <- s.Wait(t.Context(), d.Changes, time.Hour) }()
	if _, err := other.Apply(t.Context(), []store.ScheduleChange{newSchedule("a", time.Now())}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-woken:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a change was not seen")
	}
}

// What a check finds in the tables of schedules and locks.
func TestCheckFindsSchedules(t *testing.T) {
	whole := newPath(t)
	db := open(t, sqlite.Config{Path: whole})
	s := db.Schedules()
	lead, err := db.Locks().Acquire(t.Context(), store.LeadLock, "beat", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Apply(t.Context(), []store.ScheduleChange{newSchedule("a", time.Now()), newSchedule("b", time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	pending := firing(list[0], "t")
	pending.Atomic = false
	if _, err := s.Fire(t.Context(), lead, []store.Firing{pending}); err != nil {
		t.Fatal(err)
	}
	closeChecked(t, db)
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, sql, want string }{
		{"a token of 0", "UPDATE stem_lock SET token = 0", "lock beat"},
		{"no version", "UPDATE stem_schedule SET version = 0 WHERE id = 'b'", "schedule b: version 0"},
		{"due and never looked at", "UPDATE stem_schedule SET next_at = 0 WHERE id = 'b'", "schedule b"},
		{"due again", "UPDATE stem_schedule SET next_due = last_due, next_at = 1 WHERE id = 'a'", "schedule a"},
		{"a definition of no JSON", "UPDATE stem_schedule SET definition = '{' WHERE id = 'b'", "cannot be read"},
		{"a history of nothing", "DELETE FROM stem_schedule WHERE id = 'a'", "line 0"},
		{"a line in the wrong slot", "UPDATE stem_firing SET slot = 7", "line 0"},
		{"more lines than were written", "UPDATE stem_schedule SET records = 0 WHERE id = 'a'", "schedule a"},
		{"pending is gone", "DELETE FROM stem_pending", "and is not"},
		{"pending without envelope", "UPDATE stem_pending SET envelope = x''", "cannot be read"},
		{"pending of another", "UPDATE stem_pending SET record = '{}'", "cannot be read"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			raw(t, path, c.sql)
			db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A pending firing that cannot be read is passed over, and the log says so once: it
// keeps nobody else from firing.
func TestUnreadablePending(t *testing.T) {
	path := newPath(t)
	var log bytes.Buffer
	db := open(t, sqlite.Config{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s := db.Schedules()
	lead, err := db.Locks().Acquire(t.Context(), store.LeadLock, "beat", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Apply(t.Context(), []store.ScheduleChange{newSchedule("a", time.Now()), newSchedule("b", time.Now()), newSchedule("c", time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	batch := []store.Firing{firing(list[0], "a"), firing(list[1], "b")}
	batch[0].Atomic, batch[1].Atomic = false, false
	if _, err := s.Fire(t.Context(), lead, batch); err != nil {
		t.Fatal(err)
	}
	raw(t, path, "UPDATE stem_pending SET envelope = x'00' WHERE schedule = 'a'")
	for range 3 {
		d, err := s.Due(t.Context(), 1, 0)
		if err != nil || len(d.Pending) != 1 || d.Pending[0].Record.ID != "b" || len(d.Entries) != 1 || d.Entries[0].ID != "c" {
			t.Fatalf("Due: %+v, %v", d, err)
		}
	}
	if n := strings.Count(log.String(), "schedule a"); n != 1 {
		t.Errorf("the log says it %d times: %s", n, &log)
	}
	if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "schedule a") {
		t.Errorf("Check: %v", err)
	}
	raw(t, path, "DELETE FROM stem_pending WHERE schedule = 'a'")
	if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "is not") { // its history is alone
		t.Errorf("Check, when the row is gone: %v", err)
	}
	raw(t, path, "UPDATE stem_firing SET outcome = 'unknown' WHERE outcome = 'pending' AND task = 'a'")
}

// Ten thousand entries, due at one moment, fire in batches of 500; and what is
// not due costs Due nothing.
func BenchmarkSchedules(b *testing.B) {
	const entries = 10_000
	fill := func(b *testing.B, n int, due time.Time) (store.Schedules, store.Lock) {
		db := open(b, sqlite.Config{Path: newPath(b)})
		s := db.Schedules()
		var changes []store.ScheduleChange
		for i := range n {
			changes = append(changes, newSchedule(fmt.Sprintf("s%06d", i), due))
		}
		if _, err := s.Apply(b.Context(), changes); err != nil {
			b.Fatal(err)
		}
		lead, err := db.Locks().Acquire(b.Context(), store.LeadLock, "beat", time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		return s, lead
	}
	b.Run("fire 10000", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			s, lead := fill(b, entries, time.Now().Add(-time.Second))
			b.StartTimer()
			for more := true; more; {
				d, err := s.Due(b.Context(), 500, 0)
				if err != nil {
					b.Fatal(err)
				}
				var batch []store.Firing
				for _, e := range d.Entries {
					batch = append(batch, firing(e, fmt.Sprintf("%s-%d", e.ID, n)))
				}
				answers, err := s.Fire(b.Context(), lead, batch)
				if err != nil || answers[0].Err != nil {
					b.Fatal(err, answers)
				}
				more = d.More
			}
		}
	})
	b.Run("due of 100000", func(b *testing.B) {
		s, _ := fill(b, 10*entries, time.Now().Add(time.Hour))
		for b.Loop() {
			if d, err := s.Due(b.Context(), 500, 0); err != nil || len(d.Entries) > 0 {
				b.Fatal(d, err)
			}
		}
	})
}
