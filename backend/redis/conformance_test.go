package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/internal/redistest"
)

var shared redistest.Shared // one server for the tests of this package

func TestMain(m *testing.M) {
	shared.Options.Config = []string{leastRights()}
	code := m.Run()
	shared.Close()
	cluster.Close()
	if code == 0 {
		// The client closes connections that a Cluster's change made useless some
		// seconds later, also when it is closed itself.
		late := goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2")
		if err := goleak.Find(late); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leastRights is a line of redis.conf with the ACL user that the documentation
// gives, for all namespaces of these tests in place of one.
func leastRights() string {
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		panic(err)
	}
	_, rule, _ := strings.Cut(string(page), "\nACL SETUSER ")
	rule, _, _ = strings.Cut(rule, "\n")
	return "user " + strings.ReplaceAll(strings.ReplaceAll(rule, "~{stem:", "~{*:"), "&stem:", "&*:")
}

var namespaces atomic.Int64 // of this package's tests

// namespace returns one that no other test uses.
func namespace() string { return fmt.Sprintf("t%d", namespaces.Add(1)) }

// open opens a namespace on the shared server.
func open(t testing.TB, c redis.Config) *redis.DB {
	t.Helper()
	if c.Addrs == nil {
		c.Addrs = []string{shared.Get(t).Socket}
		c.Username, c.Password = "stem", "PASSWORD" // see leastRights
	}
	db, err := redis.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

func backend(t testing.TB, c redis.Config) brokertest.Backend {
	t.Helper()
	db := open(t, c)
	t.Cleanup(func() {
		if err := db.Check(context.Background()); err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("after the test: %v", err)
		}
	})
	return brokertest.Backend{Broker: db.Broker(), Results: db.Results(), Handle: c}
}

// inject writes an entry that no envelope can be read from, as a damaged or
// foreign writer would.
func inject(t testing.TB, b brokertest.Backend, queue, id string, raw []byte) {
	t.Helper()
	c := b.Handle.(redis.Config)
	tag := "{" + c.Namespace + ":0}"
	s := shared.Get(t)
	s.Do("SET", tag+id, "w@1700000000000 000001700000000000 5 "+queue+" 0 0 0 0 0\n"+string(raw))
	s.Do("RPUSH", tag+":q:"+queue+":5", id)
	s.Do("HSET", tag+":filled", queue, "5")
}

func TestBrokerConformance(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, brokertest.Options{
		Open: func(t testing.TB) brokertest.Backend { return backend(t, redis.Config{Namespace: namespace()}) },
		Reopen: func(t testing.TB, b brokertest.Backend) brokertest.Backend {
			return backend(t, b.Handle.(redis.Config))
		},
		InjectMalformed: inject,
	})
}

func TestBrokerConformanceOnPartitions(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, brokertest.Options{
		Open: func(t testing.TB) brokertest.Backend {
			return backend(t, redis.Config{Namespace: namespace(), Partitions: 3})
		},
		Partition: func(id string) int { return redis.Partition(id, 3) },
		Reopen: func(t testing.TB, b brokertest.Backend) brokertest.Backend {
			return backend(t, b.Handle.(redis.Config))
		},
	})
}

var cluster redistest.SharedCluster // one for the tests of this package

// TestBrokerConformanceOnCluster runs the whole suite in one partition of a
// Cluster, and in as many as there are without a word.
func TestBrokerConformanceOnCluster(t *testing.T) {
	t.Parallel()
	for partitions, many := range map[int]int{1: 1, 0: 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			brokertest.Run(t, brokertest.Options{
				Open: func(t testing.TB) brokertest.Backend {
					return backend(t, redis.Config{
						Addrs: cluster.Get(t).Addrs(), Cluster: true, Namespace: namespace(), Partitions: partitions,
					})
				},
				Reopen: func(t testing.TB, b brokertest.Backend) brokertest.Backend {
					return backend(t, b.Handle.(redis.Config))
				},
				Partition: func(id string) int { return redis.Partition(id, many) },
			})
		})
	}
}
