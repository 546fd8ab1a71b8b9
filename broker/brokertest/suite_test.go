package brokertest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openMemory opens the reference: a correct broker.
func openMemory(t testing.TB) Backend {
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Check(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("Check: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return Backend{Broker: db.Broker(), Results: db.Results()}
}

// A correct broker passes, in real time and in virtual time, with and without
// statuses.
func TestReference(t *testing.T) {
	t.Run("real", func(t *testing.T) { Run(t, Options{Open: openMemory}) })
	t.Run("virtual", func(t *testing.T) { Run(t, Options{Open: openMemory, Virtual: true}) })
	t.Run("without statuses", func(t *testing.T) {
		Run(t, Options{Virtual: true, Open: func(t testing.TB) Backend {
			return Backend{Broker: openMemory(t).Broker}
		}})
	})
}
