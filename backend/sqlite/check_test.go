package sqlite_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// zoo fills a file with a task in every place there is.
func zoo(t *testing.T, path string) {
	t.Helper()
	db := open(t, sqlite.Config{Path: path})
	b := db.Broker()
	later := envelope("delayed", "q")
	later.NotBefore = time.Now().Add(time.Hour)
	publish(t, b, envelope("succeeded", "q"), envelope("failed", "q"), envelope("revoked", "q"), envelope("running", "q"), later)
	c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 4})
	if err != nil || len(x.Deliveries) != 4 {
		t.Fatalf("exchange: %+v, %v", x, err)
	}
	end := func(i int, state task.State) broker.Settlement {
		return broker.Settlement{Receipt: x.Deliveries[i].Receipt, Outcome: task.Outcome{
			State: state, Reason: "test", Error: &task.Error{Type: "t"}, Keep: task.Forever, Worker: "w",
		}}
	}
	start := func(i int) broker.Renewal {
		return broker.Renewal{Receipt: x.Deliveries[i].Receipt, Start: true, Worker: "w"}
	}
	_, err = c.Exchange(t.Context(), []broker.Settlement{end(0, task.Succeeded), end(1, task.Failed)},
		[]broker.Renewal{start(2), start(3)}, broker.Want{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.(broker.Revoker).Revoke(t.Context(), []broker.Revocation{{ID: "revoked"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), []broker.Publication{{Envelope: envelope("ready", "q"), Claims: []broker.Claim{{Key: "k"}}}}); err != nil {
		t.Fatal(err)
	}
	e := envelope("elsewhere", "q")
	_, err = db.Results().Record(t.Context(), []store.Record{{
		Key: store.Key{ID: e.ID, Epoch: 1}, Envelope: e, Release: []string{"k"},
		Outcome: task.Outcome{State: task.Succeeded, Keep: time.Hour},
	}})
	if err != nil {
		t.Fatal(err)
	}
	closeChecked(t, db)
}

func TestCheckFinds(t *testing.T) {
	whole := newPath(t)
	zoo(t, whole)
	animals, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, sql, want string }{
		{"a counter", "UPDATE stem_queue SET leased = 7", "its counters say"},
		{"a row that is gone", "DELETE FROM stem_task WHERE id = 'ready'", "its counters say"},
		{"no such place", "UPDATE stem_task SET place = 9 WHERE id = 'ready'", "do not go together"},
		{"ready and succeeded", "UPDATE stem_task SET phase = 3 WHERE id = 'ready'", "do not go together"},
		{"a lease without epoch", "UPDATE stem_task SET epoch = 0 WHERE id = 'running'", "leased without epoch"},
		{"a lease without end", "UPDATE stem_task SET at = 0 WHERE id = 'running'", "leased without epoch"},
		{"a lease of nobody", "UPDATE stem_task SET worker = 99 WHERE id = 'running'", "leased without epoch"},
		{"running, never started", "UPDATE stem_task SET starts = 0 WHERE id = 'running'", "was not started"},
		{"a priority of 12", "UPDATE stem_task SET rank = -3 WHERE id = 'ready'", "out of range"},
		{"a number past the last", "UPDATE stem_meta SET value = 0 WHERE key = 'seq'", "past the last one"},
		{"no queue", "UPDATE stem_task SET queue = 99 WHERE id = 'succeeded'", "is not there"},
		{"no envelope", "UPDATE stem_task SET envelope = x'' WHERE id = 'delayed'", "no envelope"},
		{"a dead letter without its end", "UPDATE stem_note SET ended = 0", "dead letter failed"},
		{"a note that is gone", "DELETE FROM stem_note", "its note is missing"},
		{"a note of nobody", "INSERT INTO stem_note (seq) VALUES (77)", "note 77"},
		{"a claim of nobody", "INSERT INTO stem_claim VALUES ('stuck', 'gone', 0)", "claim stuck"},
		{"a claim of one that ended", "UPDATE stem_claim SET task = 'succeeded'", "claim k"},
		{"a revocation that is gone", "DELETE FROM stem_revoke", "its revocation is missing"},
		{"a revocation of nobody", "INSERT INTO stem_revoke VALUES (77, 0, '', 0)", "revocation 77"},
		{"an id in two tables", "UPDATE stem_record SET id = 'ready'", "recorded as held elsewhere"},
		{"a record that is no status", "UPDATE stem_record SET status = 'x'", "cannot be read"},
		{"an outbox without outcome", "UPDATE stem_record SET outcome = NULL", "an outbox without"},
		{"a bad page", "PRAGMA writable_schema = on; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'stem_note') WHERE name = 'stem_claim_task'", "check"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			if err := os.WriteFile(path, animals, 0o600); err != nil {
				t.Fatal(err)
			}
			raw(t, path, c.sql)
			db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
