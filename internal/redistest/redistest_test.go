//go:build unix

package redistest_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/redistest"
)

func TestServerKeepsWhatItPersists(t *testing.T) {
	s := redistest.Start(t, redistest.Options{AOF: "always"})
	s.Do("SET", "a", "1")
	s.Kill()
	if s.Running() {
		t.Fatal("it runs after Kill")
	}
	s.Restart()
	if got := s.Do("GET", "a"); got != "1" {
		t.Errorf("after a kill: %v", got)
	}
	s.Restart()
	if got := s.Do("GET", "a"); got != "1" {
		t.Errorf("after a restart: %v", got)
	}
	if got := s.Info("process_id"); got == "" {
		t.Error("INFO has no process_id")
	}
}

func TestServerPauses(t *testing.T) {
	s := redistest.Start(t, redistest.Options{Password: "hunter2"})
	s.Pause()
	c, err := redistest.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := make(chan any, 1)
	go func() {
		if _, err := c.Do("AUTH", "hunter2"); err != nil {
			answered <- err
			return
		}
		reply, _ := c.Do("PING")
		answered <- reply
	}()
	select {
	case got := <-answered:
		t.Errorf("a paused server said %v", got)
	case <-time.After(50 * time.Millisecond):
	}
	s.Cont()
	if got := <-answered; got != "PONG" {
		t.Errorf("got %v", got)
	}
}

func TestServerSpeaksTLS(t *testing.T) {
	ca := redistest.NewAuthority(t)
	s := redistest.Start(t, redistest.Options{TLS: ca, TLSClients: true})
	mine := ca.MustIssue(t, redistest.Subject{})
	pair, err := tls.LoadX509KeyPair(mine.CertFile, mine.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(ca.CertFile)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate", err)
	}
	c, err := tls.Dial("tcp", s.TLSAddr, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestSharedIsOne(t *testing.T) {
	var shared redistest.Shared
	defer shared.Close()
	if a, b := shared.Get(t), shared.Get(t); a != b {
		t.Error("two servers")
	}
}

func TestSentinelFailsOver(t *testing.T) {
	s := redistest.StartSentinel(t, redistest.Options{})
	old := s.Master()
	if old != s.Servers[0] {
		t.Fatalf("the master is %v", old)
	}
	old.Kill()
	deadline := time.Now().Add(20 * time.Second)
	for s.Master() == old {
		if time.Now().After(deadline) {
			t.Fatal("no other master after 20s")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestClusterServesAllSlots(t *testing.T) {
	c := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	if n := len(c.Masters()); n != 3 {
		t.Errorf("%d masters", n)
	}
	const slot = 13907 // of {0}; the third master's at first
	first, third := c.Nodes[0], c.Nodes[2]
	third.Do("SET", "{0}", "moved")
	if _, err := first.Try("GET", "{0}"); err == nil {
		t.Error("the first master has every slot")
	}
	if err := c.MoveSlot(slot, third, first); err != nil {
		t.Fatal(err)
	}
	if got := first.Do("GET", "{0}"); got != "moved" {
		t.Errorf("after the slot moved: %v", got)
	}
}

// Parallel tests share a server: their replies do not get mixed up.
func TestConcurrentCommands(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				if got := s.Do("ECHO", i); got != strconv.Itoa(i) {
					t.Errorf("ECHO %d: %v", i, got)
				}
			}
		})
	}
	all.Wait()
}
