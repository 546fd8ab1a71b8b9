//go:build linux

package chaos

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/redistest"
)

// TestRedisBackup follows the recipes of docs/redis.md under load: a copy is taken,
// the server and all that it has are lost, the copy is restored, and the workers go
// on with what it has.
func TestRedisBackup(t *testing.T) {
	for name, b := range map[string]struct {
		options redistest.Options
		take    func(t *testing.T, s *redistest.Server, to string)
	}{
		"RDB": {redistest.Options{}, takeRDB},
		"AOF": {redistest.Options{AOF: "everysec"}, takeAOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, b.options)
			c := startCrew(t, place{urls: storeURLs{Tasks: server.URL(0), Results: server.URL(1)}})
			time.Sleep(peace())
			backup, began := t.TempDir(), time.Now()
			b.take(t, server, backup)
			time.Sleep(peace())
			server.Kill()
			for _, path := range []string{"dump.rdb", "appendonlydir", "appendonly.aof"} {
				if err := os.RemoveAll(filepath.Join(server.Dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.CopyFS(server.Dir, os.DirFS(backup)); err != nil {
				t.Fatal(err)
			}
			server.Restart()
			c.recovers("a restore")
			c.goneSince(began)
		})
	}
}

func takeRDB(t *testing.T, s *redistest.Server, to string) {
	before := s.Info("rdb_saves")
	s.Do("BGSAVE")
	waitFor(t, "a saved snapshot", func() bool {
		return s.Info("rdb_bgsave_in_progress") == "0" && s.Info("rdb_saves") != before && s.Info("rdb_last_bgsave_status") == "ok"
	})
	copyTo(t, filepath.Join(s.Dir, "dump.rdb"), filepath.Join(to, "dump.rdb"))
}

// takeAOF copies the append-only files while the server appends to them. Nothing
// but a rewrite replaces them.
func takeAOF(t *testing.T, s *redistest.Server, to string) {
	s.Do("CONFIG", "SET", "auto-aof-rewrite-percentage", "0")
	defer s.Do("CONFIG", "SET", "auto-aof-rewrite-percentage", "100")
	waitFor(t, "no rewrite", func() bool { return s.Info("aof_rewrite_in_progress") == "0" })
	for _, path := range []string{"appendonlydir", "appendonly.aof"} {
		from := filepath.Join(s.Dir, path)
		info, err := os.Stat(from)
		switch {
		case err != nil: // the other version of Redis has it
		case info.IsDir():
			if err := copyDir(from, filepath.Join(to, path)); err != nil {
				t.Fatal(err)
			}
		default:
			copyTo(t, from, filepath.Join(to, path))
		}
	}
}

// copyDir copies files that may be growing.
func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + path[len(from):]
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20s: " + what)
		}
	}
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
