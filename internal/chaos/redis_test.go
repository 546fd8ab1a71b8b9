//go:build linux

package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/faultproxy"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/task"
)

// peace is how long a test waits in front of a fault.
func peace() time.Duration { return time.Duration(scale(300, 5_000)) * time.Millisecond }

// TestRedisIsKilled kills the server under load and starts it again: with "always"
// nothing that was acknowledged is lost, with "everysec" at most what the server had
// put off.
func TestRedisIsKilled(t *testing.T) {
	for _, policy := range []string{"always", "everysec"} {
		for name, results := range map[string]int{"": 0, ", statuses in another database": 1} {
			t.Run(policy+name, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t, redistest.Options{AOF: policy})
				c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0), Results: server.URL(results)}})
				var kills []time.Time
				for range scale(1, 10) {
					time.Sleep(peace())
					server.Kill()
					kills = append(kills, time.Now())
					time.Sleep(peace())
					server.Restart()
					c.recovers("a restart")
				}
				if policy == "always" {
					c.finish(nil)
					return
				}
				c.finish(func(id string, acked time.Time) bool { return c.putOff(id, acked, kills) })
			})
		}
	}
}

// putOff reports whether a server that was killed may not have written yet what it
// acknowledged then, and tells of what is lost. With "everysec" it puts off writing
// for two seconds while the disk is busy with what was before; a second is its
// clock's grain, and the outcome of a task comes after its acknowledgement.
func (c *crew) putOff(id string, acked time.Time, kills []time.Time) bool {
	const most = 2*time.Second + time.Second + 2*time.Second
	for _, kill := range kills {
		if age := kill.Sub(acked); age >= 0 && age <= most {
			if _, err := c.client.Get(c.t.Context(), id); err != nil {
				c.t.Logf("%s is lost: it was acknowledged %s before a kill", id, age)
			}
			return true
		}
	}
	return false
}

// TestRedisLosesPower cuts off the end of the append-only file that the system may
// not have written: with "everysec" what was acknowledged in the second before is
// lost, and nothing older, and no task is half there.
func TestRedisLosesPower(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{AOF: "everysec", Config: []string{"aof-load-truncated yes"}})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	time.Sleep(peace())
	synced, size := time.Now(), appended(t, server)
	time.Sleep(300 * time.Millisecond)
	server.Kill()
	if appended(t, server) <= size {
		t.Fatal("nothing was written since: the test proves nothing")
	}
	if err := os.Truncate(appendFile(t, server), size-7); err != nil { // amid a command
		t.Fatal(err)
	}
	server.Restart()
	c.recovers("a power cut")
	c.goneSince(synced)
}

// appendFile is the file that the server appends to.
func appendFile(t *testing.T, s *redistest.Server) string {
	t.Helper()
	for _, pattern := range []string{"appendonlydir/*.incr.aof", "appendonly.aof"} {
		if paths, err := filepath.Glob(filepath.Join(s.Dir, pattern)); err == nil && len(paths) == 1 {
			return paths[0]
		}
	}
	t.Fatal("found no append-only file")
	return ""
}

func appended(t *testing.T, s *redistest.Server) int64 {
	t.Helper()
	info, err := os.Stat(appendFile(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestSentinelFailover kills the master. What two servers had when it was
// acknowledged is not lost.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t, redistest.Options{})
	c := startCrew(t, place{urls: storeURLs{Tasks: set.URL(0) + "?wait_replicas=1"}})
	time.Sleep(peace())
	old := set.Master()
	old.Kill()
	c.await("another master", 2*time.Minute, func() bool {
		m := set.Master()
		return m != nil && m != old && m.Info("role") == "master"
	})
	c.recovers("a Sentinel's failover")
	c.finish(nil)
}

// TestClusterFailover kills one master of a Cluster after the other, and moves a
// slot with tasks in it to another master.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	c := startCrew(t, place{urls: storeURLs{Tasks: cluster.URL() + "?wait_replicas=1&partitions=4"}})
	time.Sleep(peace())
	moveSlot(t, cluster, "{stem:1}")
	c.recovers("a slot moved")
	cluster.Nodes[0].Kill()
	c.await("another master", 2*time.Minute, func() bool { return len(cluster.Masters()) == 3 })
	cluster.Nodes[0].Restart() // a master without a replica acknowledges nothing now
	c.recovers("a Cluster's failover")
	c.finish(nil)
}

// moveSlot moves the slot of a hash tag to a master that has it not.
func moveSlot(t *testing.T, cluster *redistest.Cluster, tag string) {
	t.Helper()
	slot, _ := cluster.Nodes[0].Do("CLUSTER", "KEYSLOT", tag).(int64)
	var from, to *redistest.Server
	for _, m := range cluster.Masters() {
		if n, _ := m.Do("CLUSTER", "COUNTKEYSINSLOT", slot).(int64); n > 0 {
			from = m
		} else {
			to = m
		}
	}
	if from == nil || to == nil {
		t.Fatalf("slot %d of %s: no master has it, or all", slot, tag)
	}
	if err := cluster.MoveSlot(int(slot), from, to); err != nil {
		t.Fatal(err)
	}
}

// TestNetworkFaults puts every fault of a network between the workers, the
// producers and the server.
func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := faultproxy.Start(t, server.Addr)
	c := startCrew(t, place{urls: storeURLs{Tasks: "redis://" + proxy.Addr + "/0"}})
	for name, f := range map[string]faultproxy.Faults{
		"a cut":     {Cut: true},
		"a delay":   {Delay: 500 * time.Millisecond},
		"throttle":  {Rate: 4 << 10},
		"blackhole": {Silent: true},
	} {
		time.Sleep(peace())
		proxy.Set(f)
		began, used, dials := time.Now(), c.cpu(), proxy.Accepted()
		time.Sleep(time.Duration(scale(1_500, 20_000)) * time.Millisecond)
		used, dials = c.cpu()-used, proxy.Accepted()-dials
		if length := time.Since(began); f.Cut && !full() {
			// 50 ms a second are promised; the race detector makes it several times that.
			t.Logf("while cut for %s: %s of processor time and %d dials of %d workers and this test", length, used, dials, len(c.workers))
			if used > length*time.Duration(len(c.workers))/4 {
				t.Errorf("while cut for %s, the workers used %s of processor time", length, used)
			}
		}
		proxy.Set(faultproxy.Faults{})
		c.recovers(name)
	}
	id := task.NewID()
	loss := proxy.LoseReply(id)
	c.insist(id, 1, 1)
	select {
	case <-loss.Done():
	case <-time.After(time.Minute):
		t.Error("no reply was lost: the test proves nothing")
	}
	c.finish(nil)
	c.executedOnce(id)
}

// executedOnce wants a task to have been executed once.
func (c *crew) executedOnce(id string) {
	c.t.Helper()
	events, err := readHistory(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == Started && e.ID == id {
			n++
		}
	}
	if n != 1 {
		c.t.Errorf("%s was started %d times, want once", id, n)
	}
}

// refusal is a state of the server in which it does not do what it is asked.
type refusal struct {
	begin, end func(t *testing.T, s *redistest.Server)
	says       string // what the workers log
}

func do(args ...any) func(t *testing.T, s *redistest.Server) {
	return func(_ *testing.T, s *redistest.Server) { s.Do(args...) }
}

func refusals() map[string]refusal {
	return map[string]refusal{
		"OOM":      {do("CONFIG", "SET", "maxmemory", "1"), do("CONFIG", "SET", "maxmemory", "0"), "OOM"},
		"READONLY": {do("REPLICAOF", "127.0.0.1", "1"), do("REPLICAOF", "NO", "ONE"), "READONLY"},
		"MISCONF": {func(t *testing.T, s *redistest.Server) {
			s.Do("CONFIG", "SET", "save", "3600 1")
			if err := os.Mkdir(filepath.Join(s.Dir, "dump.rdb"), 0o700); err != nil {
				t.Fatal(err)
			}
			s.Do("BGSAVE")
			for end := time.Now().Add(time.Minute); s.Info("rdb_last_bgsave_status") != "err"; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the server saved its data")
				}
			}
		}, func(t *testing.T, s *redistest.Server) {
			s.Do("CONFIG", "SET", "save", "")
			if err := os.Remove(filepath.Join(s.Dir, "dump.rdb")); err != nil {
				t.Fatal(err)
			}
		}, "MISCONF"},
		"a key of another type": {do("SET", "{stem:0}:pauses", "hostile"), do("DEL", "{stem:0}:pauses"), "WRONGTYPE"},
	}
}

// TestRedisRefuses has the server refuse everything for a while, for each reason
// that it may have: the workers say so, wait, and go on.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	for name, r := range refusals() {
		time.Sleep(peace())
		r.begin(t, server)
		began, used := time.Now(), c.cpu()
		c.await("a log of "+r.says, time.Minute, func() bool { return c.logged(r.says) >= len(c.workers) })
		time.Sleep(time.Second)
		length := time.Since(began)
		if used = c.cpu() - used; used > length*time.Duration(len(c.workers))/3 {
			t.Errorf("%s: the workers used %s of processor time in %s", name, used, length)
		}
		if n := c.logged(r.says); n > 12*len(c.workers)*(1+int(length/(5*time.Second))) {
			t.Errorf("%s: %d lines of log in %s", name, n, length)
		}
		r.end(t, server)
		c.recovers(name)
	}
	c.finish(nil)
}

// TestRedisForgets takes from the server, under load, what it may forget: scripts,
// and who waits.
func TestRedisForgets(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	for range scale(3, 100) {
		time.Sleep(peace() / 3)
		server.Do("SCRIPT", "FLUSH")
		server.Do("DEL", "{stem:0}:idle", "{stem:0}:keepers", "{stem:0}:watch", "{stem:0}:news")
		server.Do("CLIENT", "KILL", "TYPE", "pubsub")
	}
	c.recovers("its loss of memory")
	c.finish(nil)
}

// TestRedisIsFlushed throws everything away under load: what was there is gone, and
// the workers go on with what comes.
func TestRedisIsFlushed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	var last time.Time
	for range scale(2, 20) {
		time.Sleep(peace())
		server.Do("FLUSHALL")
		last = time.Now()
		c.recovers("FLUSHALL")
	}
	time.Sleep(2 * time.Second)
	c.finish(func(_ string, acked time.Time) bool { return acked.Before(last.Add(time.Second)) })
}

// TestRedisLoads starts a server that takes long to read its data: it answers
// LOADING meanwhile.
func TestRedisLoads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Config: []string{
		"enable-debug-command yes", "key-load-delay 2000", "loading-process-events-interval-bytes 1024",
	}})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	time.Sleep(peace())
	for i := range 1000 {
		server.Do("SET", "filler"+task.NewID(), strings.Repeat("x", 1024+i))
	}
	server.Do("CLIENT", "PAUSE", "60000", "WRITE") // what is acknowledged now is in the file
	server.Do("SAVE")
	server.Kill()
	server.Restart()
	c.recovers("loading")
	if c.logged("LOADING") == 0 {
		t.Error("no worker told of LOADING: the test proves nothing")
	}
	c.finish(nil)
}

// TestHostileEntries writes by hand what is none of ours into every place from which
// tasks are taken.
func TestHostileEntries(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0)}})
	const tag = "{stem:0}"
	for _, junk := range []string{"", "no-such-task", "\x00\xff\n%s", strings.Repeat("z", 5000)} {
		server.Do("LPUSH", tag+":q:default:5", junk)
		server.Do("ZADD", tag+":b:default:5", 1, junk)
		server.Do("ZADD", tag+":d:default", 1, "5:"+junk)
		server.Do("ZADD", tag+":d:default", 2, junk)
		server.Do("ZADD", tag+":due", 1, "default", 2, junk)
		server.Do("ZADD", tag+":lease", 1, junk)
		server.Do("HSET", tag+":run", junk, junk)
		server.Do("HSET", tag+":filled", "default", "5e"+junk)
		server.Do("ZADD", tag+":idle", 9e15, junk)
		server.Do("RPUSH", tag+":j:m001700000000", junk)
		server.Do("ZADD", tag+":journal", 1, junk)
		server.Do("ZADD", tag+":sweep", 1, junk)
		server.Do("PUBLISH", "stem:control", junk)
	}
	for i, value := range []string{"", "w", "junk", "w@x", "wA1700000000000 000001700000000000 5 default 0 0 0 0 0\nnull"} {
		id := "hostile-" + string(rune('a'+i))
		server.Do("SET", tag+id, value)
		server.Do("RPUSH", tag+":q:default:5", id)
		server.Do("HSET", tag+":filled", "default", "5")
	}
	server.Do("LPUSH", tag+"list", "x")
	server.Do("RPUSH", tag+":q:default:5", "list")
	c.recovers("hostile entries")
	c.silence()
	for _, id := range c.ids {
		status, err := c.client.Get(t.Context(), id)
		for end := time.Now().Add(time.Minute); err != nil || status.State != stem.Succeeded; status, err = c.client.Get(t.Context(), id) {
			if time.Now().After(end) {
				t.Fatalf("task %s: %+v, %v; the workers said: %s", id, status, err, c.lastError())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, w := range c.workers {
		if w.ended() {
			t.Errorf("%s has ended: %s", w.name, w.cmd.ProcessState)
		}
	}
}
