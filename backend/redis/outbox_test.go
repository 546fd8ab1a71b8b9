package redis_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// A process that published a follow-up to another partition may die before it has
// removed that from the outbox. Whoever finds it there later publishes nothing a
// second time, also when the follow-up has ended and no status of it is kept.
func TestFollowupsOfOtherPartitionsRunOnce(t *testing.T) {
	t.Parallel()
	const partitions = 3
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns, Partitions: partitions})
	c := consumerOf(t, db, time.Hour)
	parent, child := envelope(idIn(partitions, 0)), envelope(idIn(partitions, 1))
	publishAll(t, db, broker.Publication{Envelope: parent})
	settle := func(followups ...broker.Publication) broker.Settlement {
		t.Helper()
		ds := exchange(t, c, nil, 10).Deliveries
		if len(ds) != 1 {
			t.Fatalf("%d deliveries, want one", len(ds))
		}
		return broker.Settlement{Receipt: ds[0].Receipt, Outcome: task.Outcome{State: task.Succeeded}, Followups: followups}
	}
	for _, s := range []func() broker.Settlement{
		func() broker.Settlement { return settle(broker.Publication{Envelope: child}) },
		func() broker.Settlement { return settle() },
	} {
		if errs, err := db.Broker().Settle(t.Context(), []broker.Settlement{s()}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
	}
	data, err := task.Encode(child)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := json.Marshal(map[string]json.RawMessage{"envelope": data})
	if err != nil {
		t.Fatal(err)
	}
	s, outbox := shared.Get(t), fmt.Sprintf("{%s:0}:outbox", ns)
	s.Do("ZADD", outbox, 1, "p "+string(entry)) // as if it had not been removed
	for began := time.Now(); s.Do("ZCARD", outbox) != int64(0); time.Sleep(10 * time.Millisecond) {
		if n := len(exchange(t, c, nil, 10).Deliveries); n > 0 {
			t.Fatal("the follow-up is delivered a second time")
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the outbox is not looked after")
		}
	}
	if n := len(exchange(t, c, nil, 10).Deliveries); n > 0 {
		t.Error("the follow-up is delivered a second time")
	}
	if left, _ := s.Do("PTTL", fmt.Sprintf("{%s:1}:once:%s", ns, child.ID)).(int64); left <= 0 || left > 60_000 {
		t.Errorf("its mark goes in %d ms", left)
	}
}
