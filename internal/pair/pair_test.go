package pair_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// backend is one store of a pair.
type backend interface {
	Broker() broker.Broker
	Results() store.Results
	Close() error
}

// opener opens a store, in the directory given where it is a file.
type opener func(t testing.TB, dir string) backend

var openers = map[string]opener{
	"memory": func(testing.TB, string) backend { return memory.New() },
	"sqlite": func(t testing.TB, dir string) backend {
		t.Helper()
		db, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "stem.db"), Synchronous: sqlite.Normal})
		if err != nil {
			t.Fatal(err)
		}
		return db
	},
}

// TestConformance runs the suite of brokers on every pair of stores.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, envelopes := range openers {
		for other, results := range openers {
			t.Run(name+" and "+other, func(t *testing.T) {
				t.Parallel() // it mostly waits for leases to end
				o := brokertest.Options{Parallel: 16, Lease: 500 * time.Millisecond}
				if name == "memory" && other == "memory" {
					o.Virtual, o.Slack = true, 2*time.Second
				}
				conform(t, o, envelopes, results)
			})
		}
	}
}

// twoStores is what a joined backend of the suite is made of, so that another
// handle on it can be opened.
type twoStores struct {
	brokerDir, resultsDir string
	b, r                  backend
}

func conform(t *testing.T, o brokertest.Options, envelopes, results opener) {
	t.Helper()
	var all sync.Map // of broker.Broker: twoStores
	join := func(t testing.TB, s twoStores) brokertest.Backend {
		j := pair.Join(s.b.Broker(), s.r.Results(), pair.Options{})
		all.Store(broker.Broker(j), s)
		return brokertest.Backend{Broker: j, Results: s.r.Results()}
	}
	closes := func(t testing.TB, b backend) backend {
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return b
	}
	o.Open = func(t testing.TB) brokertest.Backend {
		s := twoStores{brokerDir: t.TempDir(), resultsDir: t.TempDir()}
		s.b = closes(t, envelopes(t, s.brokerDir))
		s.r = closes(t, results(t, s.resultsDir))
		return join(t, s)
	}
	o.Reopen = func(t testing.TB, b brokertest.Backend) brokertest.Backend {
		v, _ := all.Load(b.Broker)
		s := v.(twoStores)
		s.b = closes(t, envelopes(t, s.brokerDir))
		if _, ok := s.r.(*memory.DB); !ok {
			s.r = closes(t, results(t, s.resultsDir))
		}
		return join(t, s)
	}
	brokertest.Run(t, o)
}
