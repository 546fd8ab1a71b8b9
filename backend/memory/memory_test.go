package memory_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a DB that is checked and closed when the test ends.
func open(t testing.TB) *memory.DB {
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Check(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestBrokerConformance(t *testing.T) {
	brokertest.Run(t, brokertest.Options{Virtual: true, Open: func(t testing.TB) brokertest.Backend {
		db := open(t)
		return brokertest.Backend{Broker: db.Broker(), Results: db.Results()}
	}})
}

func TestStoreConformance(t *testing.T) {
	backend := func(db *memory.DB) storetest.Backend {
		r := db.Results()
		return storetest.Backend{
			Results: r, Watcher: r.(store.Watcher), Outboxes: r.(store.Outboxes), Heartbeats: db.Heartbeats(), Control: db.Control(),
			Limiter: db.Broker().(store.Limiter),
		}
	}
	storetest.Run(t, storetest.Options{
		Virtual: true, Fill: true,
		Open: func(t testing.TB) storetest.Backend { return backend(open(t)) },
	})
}
