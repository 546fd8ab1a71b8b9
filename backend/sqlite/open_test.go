package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// open opens a file, and checks and closes it at the end of the test.
func open(t testing.TB, c sqlite.Config) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("open %s: %v", c.Path, err)
	}
	t.Cleanup(func() { closeChecked(t, db) })
	return db
}

func closeChecked(t testing.TB, db *sqlite.DB) {
	t.Helper()
	if err := db.Check(context.Background()); err != nil && !errors.Is(err, broker.ErrClosed) {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "stem.db") }

// raw runs SQL on a file through a connection of its own.
func raw(t testing.TB, path, sql string) {
	t.Helper()
	c, err := sqlite3.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, "PRAGMA busy_timeout = 5000; "+sql)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, b broker.Broker, envelopes ...*task.Envelope) {
	t.Helper()
	batch := make([]broker.Publication, len(envelopes))
	for i, e := range envelopes {
		batch[i].Envelope = e
	}
	out, err := b.Publish(t.Context(), batch)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	for i, o := range out {
		if o.State != broker.Stored {
			t.Fatalf("publish %s: %+v", envelopes[i].ID, o)
		}
	}
}

func envelope(id, queue string) *task.Envelope {
	return &task.Envelope{
		ID: id, Name: "demo.task", Args: []byte(`{"n":1}`), EnqueuedAt: time.Now().UTC(),
		Priority: task.DefaultPriority, MaxRetries: 3, Queue: queue,
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	raw(t, foreign, "CREATE TABLE users (name TEXT)")
	marked := filepath.Join(dir, "marked.db")
	raw(t, marked, "PRAGMA application_id = 1234; CREATE TABLE t (x)")
	newer := filepath.Join(dir, "newer.db")
	if db, err := sqlite.Open(t.Context(), sqlite.Config{Path: newer}); err != nil {
		t.Fatal(err)
	} else if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, newer, "UPDATE stem_meta SET value = 99 WHERE key IN ('schema', 'oldest'); PRAGMA user_version = 99")
	damaged := filepath.Join(dir, "damaged.db")
	data, err := os.ReadFile(newer)
	if err != nil {
		t.Fatal(err)
	}
	write("damaged.db", string(data[:100])+strings.Repeat("\xff", len(data)-100), 0o600)

	for _, c := range []struct{ what, path, want string }{
		{"no path", "", "the path is empty"},
		{"a directory", dir, "it is a directory"},
		{"a read-only file", write("ro.db", "", 0o400), "read-only"},
		{"a text file", write("text.db", "these are words, not pages, and more than sixteen", 0o600), "not an SQLite database"},
		{"a short file", write("short.db", "SQLite", 0o600), "not an SQLite database"},
		{"no directory", filepath.Join(dir, "no", "stem.db"), "its directory"},
		{"another program's", foreign, "another program"},
		{"another program's, marked", marked, "another program"},
		{"a damaged file", damaged, "damaged"},
		{"a newer schema", newer, "use a newer stem"},
	} {
		before, _ := os.ReadFile(c.path) // a directory reads as nothing
		db, err := sqlite.Open(t.Context(), sqlite.Config{Path: c.path})
		if err == nil {
			t.Errorf("%s: it opened", c.what)
			_ = db.Close()
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %q, want it to say %q", c.what, err, c.want)
		}
		if after, _ := os.ReadFile(c.path); string(before) != string(after) {
			t.Errorf("%s: opening it changed it", c.what)
		}
	}
	for _, c := range []sqlite.Config{
		{Path: newPath(t), Namespace: "Bad-Name"}, {Path: newPath(t), Synchronous: "OFF"},
	} {
		if _, err := sqlite.Open(t.Context(), c); err == nil {
			t.Errorf("%+v: it opened", c)
		}
	}
}

// TestOpenAdditiveSchema: a file of a newer minor version, which only added,
// is used on.
func TestOpenAdditiveSchema(t *testing.T) {
	path := newPath(t)
	closeChecked(t, open(t, sqlite.Config{Path: path}))
	raw(t, path, fmt.Sprintf("CREATE TABLE stem_news (x); UPDATE stem_meta SET value = %d WHERE key = 'schema'", sqlite.SchemaVersion()+1))
	db := open(t, sqlite.Config{Path: path})
	publish(t, db.Broker(), envelope("a", "q"))
	want := fmt.Sprintf("%d, usable from 1 on", sqlite.SchemaVersion()+1)
	if got, err := db.Schema(t.Context()); got != want || err != nil {
		t.Errorf("Schema is %q, %v; want %q", got, err, want)
	}
}

func TestOpenAtOnce(t *testing.T) {
	path := newPath(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err != nil {
				t.Errorf("open at once: %v", err)
				return
			}
			publish(t, db.Broker(), envelope(fmt.Sprint("t", i), "q"))
			if err := db.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	wg.Wait()
	q, err := open(t, sqlite.Config{Path: path}).Broker().Queues(t.Context(), "q")
	if err != nil || q[0].Ready != 8 {
		t.Errorf("after eight openings with a task each: %+v, %v", q, err)
	}
}

func TestNamespacesShareAFile(t *testing.T) {
	path := newPath(t)
	one, two := open(t, sqlite.Config{Path: path}), open(t, sqlite.Config{Path: path, Namespace: "other"})
	publish(t, one.Broker(), envelope("a", "q"))
	publish(t, two.Broker(), envelope("a", "q"), envelope("b", "q"))
	for db, want := range map[*sqlite.DB]int{one: 1, two: 2} {
		q, err := db.Broker().Queues(t.Context(), "q")
		if err != nil || q[0].Ready != want {
			t.Errorf("got %+v, %v; want %d ready", q, err, want)
		}
	}
	if a, _ := broker.As[broker.Atomic](one.Broker()); a.AtomicWith(two.Results()) || !a.AtomicWith(one.Results()) {
		t.Error("a broker is atomic with its own namespace alone")
	}
}

func TestOddPaths(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("long", 20), strings.Repeat("path", 20))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(filepath.Join(dir, "real.db"), link); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{
		filepath.Join(dir, "a b?c#d%20e.db"), filepath.Join(long, "stem.db"), filepath.Join(dir, "real.db"), link,
	} {
		db := open(t, sqlite.Config{Path: path, Synchronous: sqlite.Normal})
		publish(t, db.Broker(), envelope(fmt.Sprint(i), "q"))
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	other := open(t, sqlite.Config{Path: filepath.Join(dir, "real.db")})
	q, err := other.Broker().Queues(t.Context(), "q")
	if err != nil || q[0].Ready != 2 {
		t.Errorf("a file and a link to it: %+v, %v; want two ready", q, err)
	}
}

func TestStatementsAreValid(t *testing.T) {
	path := newPath(t)
	open(t, sqlite.Config{Path: path})
	statements, err := sqlite.Statements("stem")
	if err != nil {
		t.Fatal(err)
	}
	c, err := sqlite3.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	for name, sql := range statements {
		s, tail, err := c.Prepare(sql)
		if err != nil || strings.TrimSpace(tail) != "" {
			t.Errorf("statement %s: %v, rest %q", name, err, tail)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
