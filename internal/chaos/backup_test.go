//go:build linux

package chaos

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/redistest"
)

// TestRedisBackup backs up a server by deploy/backup/redis.sh under load: the server
// and all that it has are lost, the copy is restored, and the workers go on with what
// it has.
func TestRedisBackup(t *testing.T) {
	for name, b := range map[string]struct {
		options redistest.Options
		form    string
	}{
		"RDB":                          {redistest.Options{}, "rdb"},
		"RDB of a server that appends": {redistest.Options{AOF: "everysec"}, "rdb"},
		"AOF":                          {redistest.Options{AOF: "everysec"}, "aof"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, b.options)
			c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0), Results: server.URL(1)}})
			time.Sleep(peace())
			backup, began := filepath.Join(t.TempDir(), "copy"), time.Now()
			redisScript(t, server, "backup", b.form, backup)
			time.Sleep(peace())
			server.Kill()
			for _, path := range []string{"dump.rdb", "appendonlydir", "appendonly.aof"} {
				if err := os.RemoveAll(filepath.Join(server.Dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			redisScript(t, server, "restore", backup, server.Dir)
			server.Restart()
			c.recovers("a restore")
			c.goneSince(began)
		})
	}
}

func redisScript(t *testing.T, s *redistest.Server, args ...string) {
	t.Helper()
	script(t, "redis.sh", []string{"REDIS=-s " + s.Socket}, args...)
}

// script runs a script of deploy/backup.
func script(t *testing.T, name string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "deploy", "backup", name), args...)
	cmd.Env = append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, said)
	}
}

// TestSQLiteBackup backs up the file by deploy/backup/sqlite.sh under load: all
// processes and the file are lost, the copy is restored, and processes that start
// anew go on with what it has. While one has the file open nothing is restored.
func TestSQLiteBackup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "it's stem.db")
	where := place{urls: storeURLs{Tasks: "sqlite:" + path}}
	c := startCrew(t, where)
	time.Sleep(peace())
	backup, began := filepath.Join(t.TempDir(), "copy.db"), time.Now()
	script(t, "sqlite.sh", nil, "backup", path, backup)
	time.Sleep(peace())
	said, err := exec.CommandContext(t.Context(), "../../deploy/backup/sqlite.sh", "restore", backup, path).CombinedOutput()
	if err == nil {
		t.Errorf("it was restored under the feet of workers: %s", said)
	}
	c.silence()
	for _, w := range c.workers {
		w.stop(t, syscall.SIGKILL)
	}
	if err := c.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("what a broken disk has left"), 0o600); err != nil {
		t.Fatal(err)
	}
	script(t, "sqlite.sh", nil, "restore", backup, path)
	if c.db, c.client, err = where.urls.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.begin()
	c.recovers("a restore")
	c.goneSince(began)
}

// goneSince judges a crew whose store went back to an earlier moment: what was
// acknowledged before that is there; what was acknowledged around it may be lost, or
// run again, since its outcome was lost; and what came later is as ever.
func (c *crew) goneSince(moment time.Time) {
	c.t.Helper()
	back := time.Now()
	time.Sleep(2 * time.Second)
	c.silence()
	c.await("all have ended", 30*time.Second, func() bool { return c.remaining() == 0 })
	lost := 0
	for _, id := range c.ids {
		if _, err := c.client.Get(c.t.Context(), id); err == nil {
			continue
		}
		lost++
		if acked := c.acked[id]; acked.Before(moment.Add(-100 * time.Millisecond)) {
			c.t.Errorf("%s is lost, and was acknowledged %s before", id, moment.Sub(acked))
		}
	}
	c.t.Logf("%d acknowledged tasks are lost", lost)
	if lost == 0 {
		c.t.Error("no task is lost: the test proves nothing")
	}
	c.finish(func(_ string, acked time.Time) bool { return acked.Before(back) })
}
