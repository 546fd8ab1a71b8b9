package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// zoo fills a namespace with a task in every place there is.
func zoo(t *testing.T, db *redis.DB) {
	t.Helper()
	b := db.Broker()
	envelope := func(id string) *task.Envelope {
		return &task.Envelope{ID: id, Name: "demo.task", Queue: "q", Priority: 5, EnqueuedAt: time.Now()}
	}
	later := envelope("delayed")
	later.NotBefore = time.Now().Add(time.Hour)
	var batch []broker.Publication
	for _, e := range []*task.Envelope{envelope("succeeded"), envelope("failed"), envelope("back"), envelope("running"), later} {
		batch = append(batch, broker.Publication{Envelope: e})
	}
	publish := func(batch ...broker.Publication) {
		if _, err := b.Publish(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	publish(batch...)
	c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 4})
	if err != nil || len(x.Deliveries) != 4 {
		t.Fatalf("exchange: %+v, %v", x, err)
	}
	var done []broker.Settlement
	for i, state := range []task.State{task.Succeeded, task.Failed, task.Queued} {
		done = append(done, broker.Settlement{Receipt: x.Deliveries[i].Receipt, Outcome: task.Outcome{
			State: state, Reason: "test", Error: &task.Error{Type: "t"}, Keep: task.Forever, Worker: "w",
		}})
	}
	if _, err := c.Exchange(t.Context(), done, nil, broker.Want{}); err != nil {
		t.Fatal(err)
	}
	publish(broker.Publication{Envelope: envelope("ready"), Claims: []broker.Claim{{Key: "k"}}})
}

// TestCheckFinds: every invariant, broken by hand, is told.
func TestCheckFinds(t *testing.T) {
	s := shared.Get(t)
	for name, c := range map[string]struct {
		commands [][]string // %T: the tag
		want     string
	}{
		"nothing":       {},
		"an orphan":     {[][]string{{"LREM", "%T:q:q:5", "0", "ready"}}, "ready has not ended and is nowhere"},
		"twice":         {[][]string{{"RPUSH", "%T:q:q:5", "ready"}}, "counter q:g says 0, and there are 1"},
		"two places":    {[][]string{{"ZADD", "%T:lease", "99999999999999", "delayed"}}, "delayed is in two places"},
		"a lost task":   {[][]string{{"DEL", "%Trunning"}}, "there is no such task"},
		"a lost lease":  {[][]string{{"ZREM", "%T:lease", "running"}}, "running has not ended and is nowhere"},
		"no marks":      {[][]string{{"HDEL", "%T:filled", "q"}}, "marks do not tell"},
		"due unseen":    {[][]string{{"ZREM", "%T:due", "q"}}, "delayed task that nobody looks for"},
		"dead unlisted": {[][]string{{"ZREM", "%T:dead", "failed"}}, "failed is not listed"},
		"dead that is not": {[][]string{{"ZADD", "%T:dead", "1", "ready"}},
			"ready is listed as a dead letter, and is none"},
		"a claim":       {[][]string{{"SET", "%T:claim:x", "nobody"}}, "claim x is held by nobody"},
		"a counter":     {[][]string{{"HSET", "%T:count", "q:l", "7"}}, "counter q:l says 7, and there are 1"},
		"a run record":  {[][]string{{"HSET", "%T:run", "running", "what"}}, "run record of running is not readable"},
		"a back record": {[][]string{{"HDEL", "%T:run", "back"}}, "back came back, and has no run record"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace()
			db := open(t, redis.Config{Namespace: ns})
			zoo(t, db)
			for _, command := range c.commands {
				var words []any
				for _, word := range command {
					words = append(words, strings.ReplaceAll(word, "%T", "{"+ns+":0}"))
				}
				s.Do(words...)
			}
			err := db.Check(t.Context())
			switch {
			case c.want == "" && err != nil:
				t.Errorf("a sound store: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want it to tell that %q", err, c.want)
			}
		})
	}
}
