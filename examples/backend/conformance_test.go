package backend_test

import (
	"testing"

	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/examples/backend"
)

func TestConformance(t *testing.T) {
	brokertest.Run(t, brokertest.Options{
		Virtual: true, // it blocks on channels, timers and a mutex alone
		Open: func(t testing.TB) brokertest.Backend {
			b := backend.New()
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			return brokertest.Backend{Broker: b}
		},
	})
}
