//go:build unix

package redistest

import (
	"sync"
	"testing"
)

// Shared is a server that the tests of one package use together, each in a
// namespace of its own. The zero value is ready: a package variable, closed by
// its TestMain.
type Shared struct {
	Options Options

	mu     sync.Mutex
	server *Server
}

// Get returns the server, which the first call starts.
func (s *Shared) Get(t testing.TB) *Server {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		started, err := Launch(s.Options)
		if err != nil {
			t.Fatal(err)
		}
		s.server = started
	}
	return s.server
}

// Close ends the server, if there is one.
func (s *Shared) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.Close()
		s.server = nil
	}
}

// SharedCluster is a Cluster that the tests of one package use together.
type SharedCluster struct {
	Options ClusterOptions

	mu      sync.Mutex
	cluster *Cluster
}

// Get returns the Cluster, which the first call starts.
func (s *SharedCluster) Get(t testing.TB) *Cluster {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		started, err := LaunchCluster(s.Options)
		if err != nil {
			t.Fatal(err)
		}
		s.cluster = started
	}
	return s.cluster
}

// Close ends the Cluster, if there is one.
func (s *SharedCluster) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster != nil {
		s.cluster.Close()
		s.cluster = nil
	}
}
