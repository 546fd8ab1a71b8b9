package redis_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// TestCheckFindsSchedules: what is broken by hand in the scheduler's keys is
// told.
func TestCheckFindsSchedules(t *testing.T) {
	s := shared.Get(t)
	for name, c := range map[string]struct {
		command []string // %T: the tag
		want    string
	}{
		"nothing":                   {},
		"an entry is gone":          {[]string{"DEL", "%T:entry:b"}, "schedule b is listed, and is not there"},
		"an entry cannot be read":   {[]string{"HSET", "%T:entry:b", "version", "x"}, "read schedule b"},
		"an entry is not in line":   {[]string{"ZREM", "%T:entries:due", "b"}, "schedule b, version 1"},
		"nothing is in line":        {[]string{"ZADD", "%T:entries:due", "1", "c"}, "schedule c is in line"},
		"a history of nothing":      {[]string{"RPUSH", "%T:history:c", "x"}, "history of schedule c"},
		"a line cannot be read":     {[]string{"RPUSH", "%T:history:a", "x"}, "read the history of schedule a"},
		"what is pending is gone":   {[]string{"DEL", "%T:pending", "%T:pending:firings"}, "says that it is pending, and is not"},
		"pending is out of line":    {[]string{"DEL", "%T:pending"}, "1 firings are pending, and 0 are in line"},
		"something else is pending": {[]string{"ZADD", "%T:pending", "1", "1 a"}, "pending firing 1 a"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace()
			db := open(t, redis.Config{Namespace: ns})
			pendingSchedule(t, db)
			if c.command != nil {
				args := make([]any, len(c.command))
				for i, word := range c.command {
					args[i] = strings.ReplaceAll(word, "%T", "{"+ns+":0}")
				}
				s.Do(args...)
			}
			err := db.Check(t.Context())
			if c.command == nil && err != nil || c.command != nil && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

// TestUnreadableSchedules: a pending firing, or an entry, that cannot be read is
// passed over, and the log says so once: it keeps nobody else from firing.
func TestUnreadableSchedules(t *testing.T) {
	s, ns := shared.Get(t), namespace()
	var log bytes.Buffer
	db := open(t, redis.Config{Namespace: ns, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	pendingSchedule(t, db)
	at := time.Now().Add(-time.Minute)
	if _, err := db.Schedules().Apply(t.Context(), []store.ScheduleChange{{ID: "c", Definition: []byte("{}"), NextDue: at, NextAt: at}}); err != nil {
		t.Fatal(err)
	}
	tag := "{" + ns + ":0}"
	s.Do("HSET", tag+":pending:firings", "1 x", "garbage")
	s.Do("ZADD", tag+":pending", "0", "1 x")
	s.Do("HSET", tag+":entry:b", "next_due", "garbage")
	schedules := db.Schedules()
	for range 3 {
		d, err := schedules.Due(t.Context(), 0, 0)
		if err != nil || len(d.Pending) != 1 || d.Pending[0].Record.ID != "a" || len(d.Entries) != 1 || d.Entries[0].ID != "c" {
			t.Fatalf("Due: %+v, %v", d, err)
		}
	}
	if strings.Count(log.String(), "entry b") != 1 || strings.Count(log.String(), "level=ERROR") != 2 {
		t.Errorf("the log says: %s", &log)
	}
	if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "pending firing 1 x") {
		t.Errorf("Check: %v", err)
	}
}

// pendingSchedule stores the entries a, which has a pending firing, and b.
func pendingSchedule(t *testing.T, db *redis.DB) {
	t.Helper()
	at := time.Now().Add(-time.Minute)
	var changes []store.ScheduleChange
	for _, id := range []string{"a", "b"} {
		changes = append(changes, store.ScheduleChange{ID: id, Definition: []byte("{}"), NextDue: at, NextAt: at})
	}
	list, err := db.Schedules().Apply(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	lead, err := db.Locks().Acquire(t.Context(), store.LeadLock, "beat", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	next := at.Add(time.Hour)
	answers, err := db.Schedules().Fire(t.Context(), lead, []store.Firing{{
		ID: "a", Version: list[0].Version, Due: list[0].NextDue, Next: next, NextAt: next,
		Publication: &broker.Publication{Envelope: &task.Envelope{ID: "t", Name: "demo.task", Queue: "q", EnqueuedAt: at}},
	}})
	if err != nil || answers[0].Err != nil {
		t.Fatal(answers, err)
	}
}
