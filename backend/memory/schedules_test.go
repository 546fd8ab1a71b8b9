package memory_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
)

func TestScheduleConformance(t *testing.T) {
	var dbs sync.Map // by the schedules that were handed out
	roles := func(t testing.TB, db *memory.DB) storetest.Scheduling {
		s := storetest.Scheduling{
			Schedules: db.Schedules(), Locks: db.Locks(), Broker: db.Broker(), Close: db.Close,
			Check: func() error { return db.Check(context.WithoutCancel(t.Context())) },
		}
		dbs.Store(s.Schedules, db)
		return s
	}
	storetest.RunSchedules(t, storetest.ScheduleOptions{
		Virtual: true,
		Open: func(t testing.TB) storetest.Scheduling {
			db := memory.New()
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return roles(t, db)
		},
		Reopen: func(t testing.TB, s storetest.Scheduling) storetest.Scheduling {
			db, _ := dbs.Load(s.Schedules)
			return roles(t, db.(*memory.DB))
		},
	})
}

// BenchmarkDue: what is not due costs nothing, however many there are.
func BenchmarkDue(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db := memory.New()
			defer func() { _ = db.Close() }() // never an error
			s := db.Schedules()
			var changes []store.ScheduleChange
			for i := range n {
				at := time.Now().Add(time.Hour + time.Duration(i)*time.Second)
				changes = append(changes, store.ScheduleChange{ID: fmt.Sprint("s", i), Definition: []byte("{}"), NextDue: at, NextAt: at})
			}
			if _, err := s.Apply(b.Context(), changes); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if d, err := s.Due(b.Context(), 500, 0); err != nil || len(d.Entries) > 0 {
					b.Fatal(d, err)
				}
			}
		})
	}
}
