//go:build unix

package redistest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// MasterName is how the Sentinels of these tests call the master.
const MasterName = "stem"

// Sentinel is a master with two replicas, and three Sentinels that watch them.
type Sentinel struct {
	Servers   []*Server // the master first, as it was at the start
	Sentinels []*Server
}

// StartSentinel starts all of them, and returns when the Sentinels know each
// other and the replicas follow. The servers have the options given.
func StartSentinel(t testing.TB, o Options) *Sentinel {
	t.Helper()
	const replicas, sentinels = 2, 3
	s := &Sentinel{Servers: []*Server{Start(t, o)}}
	master := s.Servers[0].Port()
	for range replicas {
		r := o
		r.Config = append([]string{"replicaof 127.0.0.1 " + strconv.Itoa(master)}, o.Config...)
		s.Servers = append(s.Servers, Start(t, r))
	}
	known := []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", MasterName, master),
		"sentinel down-after-milliseconds " + MasterName + " 1000",
		"sentinel failover-timeout " + MasterName + " 3000",
	}
	if o.Password != "" {
		known = append(known, "sentinel auth-pass "+MasterName+" "+o.Password)
	}
	for range sentinels {
		s.Sentinels = append(s.Sentinels, Start(t, Options{sentinel: true, known: known}))
	}
	for _, n := range s.Sentinels {
		await(t, 30*time.Second, "the Sentinels know all", func() bool {
			f := fields(n.Do("SENTINEL", "MASTER", MasterName))
			return f["num-slaves"] == strconv.Itoa(replicas) && f["num-other-sentinels"] == strconv.Itoa(sentinels-1)
		})
	}
	for _, r := range s.Servers[1:] {
		await(t, 30*time.Second, "the replicas follow", func() bool { return r.Info("master_link_status") == "up" })
	}
	return s
}

// URL is the redis+sentinel:// URL of a logical database.
func (s *Sentinel) URL(db int) string {
	addrs := make([]string, len(s.Sentinels))
	for i, n := range s.Sentinels {
		addrs[i] = n.Addr
	}
	return fmt.Sprintf("redis+sentinel://%s/%s/%d", strings.Join(addrs, ","), MasterName, db)
}

// Master is the server that the Sentinels call the master now, or nil.
func (s *Sentinel) Master() *Server {
	for _, n := range s.Sentinels {
		reply, err := n.Try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
		addr, _ := reply.([]any)
		if err != nil || len(addr) != 2 {
			continue
		}
		for _, server := range s.Servers {
			if strconv.Itoa(server.Port()) == addr[1] {
				return server
			}
		}
	}
	return nil
}

func fields(reply any) map[string]string {
	list, _ := reply.([]any)
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return m
}

// await polls until the condition holds.
func await(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", within, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
