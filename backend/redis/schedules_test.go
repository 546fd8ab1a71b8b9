package redis_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
	"github.com/stemjobs/stem/task"
)

func TestScheduleConformance(t *testing.T) {
	for name, config := range map[string]func(t *testing.T) redis.Config{
		"one partition":   func(*testing.T) redis.Config { return redis.Config{Partitions: 1} },
		"four partitions": func(*testing.T) redis.Config { return redis.Config{Partitions: 4} },
		"cluster": func(t *testing.T) redis.Config {
			return redis.Config{Addrs: cluster.Get(t).Addrs(), Cluster: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runSchedules(t, config(t))
		})
	}
}

// runSchedules runs the suite; only schedules of one partition fire into the
// broker.
func runSchedules(t *testing.T, c redis.Config) {
	var configs sync.Map // by the schedules that were handed out
	openAt := func(t testing.TB, c redis.Config) storetest.Scheduling {
		db := open(t, c)
		s := storetest.Scheduling{
			Schedules: db.Schedules(), Locks: db.Locks(), Close: db.Close,
			Check: func() error { return db.Check(context.WithoutCancel(t.Context())) },
		}
		if into := db.Schedules().(store.FiresInto).FiresInto(db.Broker()); into != (c.Partitions == 1) {
			t.Errorf("FiresInto with %d partitions: %t", c.Partitions, into)
		}
		if c.Partitions == 1 {
			s.Broker = db.Broker()
		}
		configs.Store(s.Schedules, c)
		return s
	}
	storetest.RunSchedules(t, storetest.ScheduleOptions{
		Open: func(t testing.TB) storetest.Scheduling {
			c := c
			c.Namespace = namespace()
			return openAt(t, c)
		},
		Reopen: func(t testing.TB, s storetest.Scheduling) storetest.Scheduling {
			c, _ := configs.Load(s.Schedules)
			return openAt(t, c.(redis.Config))
		},
	})
}

// Ten thousand entries, due at one moment, fire in batches of 500; and what is
// not due costs Due nothing.
func BenchmarkSchedules(b *testing.B) {
	fill := func(b *testing.B, n int, due time.Time) (store.Schedules, store.Lock) {
		db := open(b, redis.Config{Namespace: namespace()})
		s := db.Schedules()
		var changes []store.ScheduleChange
		for i := range n {
			changes = append(changes, store.ScheduleChange{ID: fmt.Sprintf("s%06d", i), Definition: []byte("{}"), NextDue: due, NextAt: due})
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
		for b.Loop() {
			b.StopTimer()
			s, lead := fill(b, 10_000, time.Now().Add(-time.Second))
			b.StartTimer()
			fireAll(b, s, lead)
		}
	})
	b.Run("due of 100000", func(b *testing.B) {
		s, _ := fill(b, 100_000, time.Now().Add(time.Hour))
		for b.Loop() {
			if d, err := s.Due(b.Context(), 500, 0); err != nil || len(d.Entries) > 0 {
				b.Fatal(d, err)
			}
		}
	})
}

func fireAll(b *testing.B, s store.Schedules, lead store.Lock) {
	for more := true; more; {
		d, err := s.Due(b.Context(), 500, 0)
		if err != nil {
			b.Fatal(err)
		}
		batch := make([]store.Firing, len(d.Entries))
		for i, e := range d.Entries {
			batch[i] = store.Firing{
				ID: e.ID, Version: e.Version, Due: e.NextDue, Atomic: true,
				Publication: &broker.Publication{Envelope: &task.Envelope{
					ID: "sch:" + e.ID, Name: "demo.task", Queue: "q", EnqueuedAt: time.Now().UTC(), Priority: task.DefaultPriority,
				}},
			}
		}
		answers, err := s.Fire(b.Context(), lead, batch)
		if err != nil || answers[0].Err != nil {
			b.Fatal(answers, err)
		}
		more = d.More
	}
}
