package pair_test

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	code := m.Run()
	shared.Close()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var shared redistest.Shared // one server for the tests of this package

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
	"redis":             func(t testing.TB, dir string) backend { return openRedis(t, dir, 0) },
	"redis, another db": func(t testing.TB, dir string) backend { return openRedis(t, dir, 1) },
}

// openRedis opens a logical database, in a namespace that belongs to the
// directory.
func openRedis(t testing.TB, dir string, db int) backend {
	t.Helper()
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(dir)) // it never fails
	r, err := redis.Open(t.Context(), redis.Config{
		Addrs: []string{shared.Get(t).Socket}, DB: db, Namespace: fmt.Sprintf("t%016x", sum.Sum64()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// paired reports whether two stores are tried as a pair. Of Redis there is each
// role beside a file, and two logical databases of one server.
func paired(envelopes, results string) bool {
	switch envelopes + " and " + results {
	case "redis and redis, another db", "redis and sqlite", "sqlite and redis":
		return true
	default:
		return !strings.HasPrefix(envelopes, "redis") && !strings.HasPrefix(results, "redis")
	}
}

// TestConformance runs the suite of brokers on every pair of stores.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, envelopes := range openers {
		for other, results := range openers {
			if !paired(name, other) {
				continue
			}
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
