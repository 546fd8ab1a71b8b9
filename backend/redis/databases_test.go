package redis_test

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store"
)

// TestDatabasesDoNotHearEachOther: channels span a server's logical databases,
// and deployments with one name on two of them are two all the same.
func TestDatabasesDoNotHearEachOther(t *testing.T) {
	t.Parallel()
	name := namespace()
	dbs := []*redis.DB{open(t, redis.Config{Namespace: name}), open(t, redis.Config{Namespace: name, DB: 1})}
	var commands []store.Commands
	var beats []store.Beats
	for _, db := range dbs {
		c, err := db.Control().Listen(t.Context(), "w")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := db.Heartbeats().(store.BeatFollower).Follow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		commands, beats = append(commands, c), append(beats, b)
	}
	for i, id := range []string{"of0", "of1"} {
		replies, err := dbs[i].Control().Ask(t.Context(), store.Command{ID: id, To: "w", Kind: "ping", For: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer replies.Close()
		if c, err := commands[i].Next(t.Context()); err != nil || c.ID != id {
			t.Errorf("database %d heard %q, %v", i, c.ID, err)
		}
		if err := dbs[i].Heartbeats().Beat(t.Context(), store.Heartbeat{Worker: id, At: time.Now()}, time.Minute); err != nil {
			t.Fatal(err)
		}
		if b, err := beats[i].Next(t.Context()); err != nil || b.Worker != id {
			t.Errorf("database %d heard of %q, %v", i, b.Worker, err)
		}
	}
}
