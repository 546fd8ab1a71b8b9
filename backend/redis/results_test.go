package redis_test

import (
	"sync"
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
)

// resultStores remembers how each result store was opened.
type resultStores struct{ configs sync.Map }

func (s *resultStores) open(t testing.TB, c redis.Config) storetest.Backend {
	t.Helper()
	db := open(t, c)
	r := db.Results()
	s.configs.Store(r, c)
	return storetest.Backend{
		Results: r, Watcher: r.(store.Watcher), Outboxes: r.(store.Outboxes),
		Heartbeats: db.Heartbeats(), Control: db.Control(), Limiter: db.Broker().(store.Limiter),
	}
}

func (s *resultStores) reopen(t testing.TB, b storetest.Backend) storetest.Backend {
	t.Helper()
	c, _ := s.configs.Load(b.Results)
	return s.open(t, c.(redis.Config))
}

func TestResultsConformance(t *testing.T) {
	for name, partitions := range map[string]int{"one partition": 1, "three partitions": 3} {
		t.Run(name, func(t *testing.T) {
			var s resultStores
			storetest.Run(t, storetest.Options{
				Open: func(t testing.TB) storetest.Backend {
					return s.open(t, redis.Config{Namespace: namespace(), Partitions: partitions})
				},
				Reopen: s.reopen,
			})
		})
	}
}
