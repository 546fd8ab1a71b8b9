package sqlite_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker/brokertest"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/store/storetest"
)

// files remembers which DB a role belongs to, so that a suite can open it
// again.
type files struct{ byRole sync.Map }

func (f *files) broker(t testing.TB, path string) brokertest.Backend {
	t.Helper()
	db := open(t, sqlite.Config{Path: path})
	b := brokertest.Backend{Broker: db.Broker(), Results: db.Results()}
	f.byRole.Store(b.Broker, path)
	return b
}

func (f *files) results(t testing.TB, path string) storetest.Backend {
	t.Helper()
	db := open(t, sqlite.Config{Path: path})
	r := db.Results()
	f.byRole.Store(r, path)
	return storetest.Backend{
		Results: r, Watcher: r.(store.Watcher), Outboxes: r.(store.Outboxes), Heartbeats: db.Heartbeats(), Control: db.Control(),
		Limiter: db.Broker().(store.Limiter),
	}
}

func (f *files) path(t testing.TB, role any) string {
	t.Helper()
	path, ok := f.byRole.Load(role)
	if !ok {
		t.Fatalf("%T is of no file that was opened", role)
	}
	return path.(string)
}

func TestBrokerConformance(t *testing.T) {
	var f files
	brokertest.Run(t, brokertest.Options{
		Open: func(t testing.TB) brokertest.Backend { return f.broker(t, filepath.Join(t.TempDir(), "stem.db")) },
		Reopen: func(t testing.TB, b brokertest.Backend) brokertest.Backend {
			return f.broker(t, f.path(t, b.Broker))
		},
		InjectMalformed: func(t testing.TB, b brokertest.Backend, queue, id string, raw []byte) {
			inject(t, f.path(t, b.Broker), queue, id, raw)
		},
	})
}

func TestResultsConformance(t *testing.T) {
	var f files
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) storetest.Backend { return f.results(t, filepath.Join(t.TempDir(), "stem.db")) },
		Reopen: func(t testing.TB, b storetest.Backend) storetest.Backend {
			return f.results(t, f.path(t, b.Results))
		},
	})
}

// inject writes an entry that no envelope can be read from, as a damaged or
// foreign writer would.
func inject(t testing.TB, path, queue, id string, raw []byte) {
	t.Helper()
	c, err := sqlite3.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, c, "PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE; UPDATE stem_meta SET value = value + 1 WHERE key = 'seq';")
	run(t, c, "INSERT INTO stem_queue (name) VALUES ('"+queue+"') ON CONFLICT DO NOTHING")
	s, _, err := c.Prepare(`INSERT INTO stem_task SELECT (SELECT value FROM stem_meta WHERE key = 'seq'), ?,
		(SELECT id FROM stem_queue WHERE name = ?), 4, 2, 0, ?, 0, 0, 0, 0, 0, 0, 0, 0, ?, ?`)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	for i, err := range []error{s.BindText(1, id), s.BindText(2, queue), s.BindInt64(3, now), s.BindInt64(4, now), s.BindBlob(5, raw), s.Exec(), s.Close()} {
		if err != nil {
			t.Fatalf("inject: step %d: %v", i, err)
		}
	}
	run(t, c, "UPDATE stem_queue SET ready = ready + 1 WHERE name = '"+queue+"'; COMMIT")
}

func run(t testing.TB, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
