package redis_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/task"
)

// A task whose status is to keep no args leaves none in the server, whichever way it
// ends: with the consumer that has its value, or without.
func TestArgsThatAreNotKept(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	db := open(t, redis.Config{Addrs: []string{s.Addr}})
	b := db.Broker()
	batch := publications(8)
	for i := range batch {
		e := batch[i].Envelope
		e.Meta = map[string]json.RawMessage{task.MetaKeepArgs: json.RawMessage("false")}
		if i%2 == 1 {
			e.Args = json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", 4000)))
		}
		if i >= 4 {
			e.NotBefore = time.Now().Add(time.Millisecond)
		}
	}
	if _, err := b.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(map[string]bool)
	var ends []broker.Settlement
	for began := time.Now(); len(done) < len(batch) || len(ends) > 0; {
		if time.Since(began) > time.Minute {
			t.Fatalf("%d of %d tasks have ended", len(done), len(batch))
		}
		x, err := c.Exchange(t.Context(), ends, nil, broker.Want{Count: 10})
		if err != nil {
			t.Fatal(err)
		}
		ends = nil
		for _, d := range x.Deliveries {
			if len(d.Envelope.Args) < 200 {
				t.Errorf("%s is delivered with args %s", d.Receipt.ID, d.Envelope.Args)
			}
			end := broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: time.Hour}}
			done[d.Receipt.ID] = true
			if len(done)%3 > 0 {
				ends = append(ends, end)
			} else if errs, err := b.Settle(t.Context(), []broker.Settlement{end}); err != nil || errs[0] != nil {
				t.Fatal(errs, err)
			}
		}
	}
	for id := range done {
		v, _ := s.Do("GET", "{stem:0}"+id).(string)
		if strings.Contains(v, "xxx") || !strings.HasPrefix(v, "s") {
			t.Errorf("the value keeps args: %.300s", v)
		}
		found, err := db.Results().Get(t.Context(), id)
		if err != nil || found[0].Err != nil {
			t.Fatal(err, found[0].Err)
		}
		if st := found[0].Status; st.State != task.Succeeded || st.Args != nil || st.Name != "bench.task" || st.Queue != "default" {
			t.Errorf("status %+v", st)
		}
	}
}
