package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A namespace goes, and leaves its neighbours, and may come again.
func TestDropNamespace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stem.db")
	open := func(namespace string) *sqlite.DB {
		t.Helper()
		db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Namespace: namespace})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	put := func(db *sqlite.DB) {
		t.Helper()
		e := &task.Envelope{ID: "a", Name: "t", Queue: "q", EnqueuedAt: time.Now().UTC()}
		out, err := db.Broker().Publish(t.Context(), []broker.Publication{{Envelope: e}})
		if err != nil || out[0].State != broker.Stored {
			t.Fatalf("Publish: %+v, %v", out, err)
		}
		if err := db.Heartbeats().Beat(t.Context(), store.Heartbeat{Worker: "w", At: time.Now()}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	ready := func(db *sqlite.DB, want int) {
		t.Helper()
		q, err := db.Broker().Queues(t.Context(), "q")
		if err != nil || q[0].Ready != want {
			t.Errorf("queue q: %+v, %v, want %d ready", q, err, want)
		}
	}
	closes := func(db *sqlite.DB) {
		t.Helper()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	stays, goes := open("stem"), open("stem_bench")
	defer closes(stays)
	put(stays)
	put(goes)
	if err := goes.DropNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := goes.Broker().Queues(t.Context()); err == nil {
		t.Error("the namespace is there still")
	}
	closes(goes)
	if err := goes.DropNamespace(t.Context()); err == nil {
		t.Error("a closed DB drops")
	}
	ready(stays, 1)
	put2 := open("stem_bench")
	defer closes(put2)
	ready(put2, 0)
	put(put2)
	for _, db := range []*sqlite.DB{stays, put2} {
		if err := db.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
