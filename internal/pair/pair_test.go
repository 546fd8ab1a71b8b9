package pair_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/internal/pair"
	"time"
)

func TestConformanceMemoryMemory(t *testing.T) {
	brokertest.Run(t, brokertest.Options{Virtual: true, Slack: 2 * time.Second, Open: func(t testing.TB) brokertest.Backend {
		b, r := memory.New(), memory.New()
		t.Cleanup(func() { b.Close(); r.Close() })
		return brokertest.Backend{Broker: pair.Join(b.Broker(), r.Results(), pair.Options{}), Results: r.Results()}
	}})
}
