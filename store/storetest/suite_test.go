package storetest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openMemory opens the reference: a correct store.
func openMemory(t testing.TB) Backend {
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	r := db.Results()
	w, _ := r.(store.Watcher)
	o, _ := r.(store.Outboxes)
	return Backend{Results: r, Watcher: w, Outboxes: o, Heartbeats: db.Heartbeats(), Control: db.Control(), Limiter: db.Broker().(store.Limiter)}
}

// A correct store passes, in real time and in virtual time.
func TestReference(t *testing.T) {
	t.Run("real", func(t *testing.T) { Run(t, Options{Open: openMemory}) })
	t.Run("virtual", func(t *testing.T) { Run(t, Options{Open: openMemory, Virtual: true, Fill: true}) })
}

// openScheduling opens the reference of schedules and locks.
func openScheduling(t testing.TB) Scheduling {
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return Scheduling{Schedules: db.Schedules(), Locks: db.Locks(), Broker: db.Broker(), Close: db.Close}
}

// Correct schedules pass, in real time and in virtual time.
func TestScheduleReference(t *testing.T) {
	t.Run("real", func(t *testing.T) { RunSchedules(t, ScheduleOptions{Open: openScheduling}) })
	t.Run("virtual", func(t *testing.T) { RunSchedules(t, ScheduleOptions{Open: openScheduling, Virtual: true}) })
}
