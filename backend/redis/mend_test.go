package redis_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
)

// When a key of another type is gone that had replaced one of ours, no task is stuck:
// neither where the process goes on, nor where all are started anew.
func TestNothingIsStuckAfterAKeyOfAnotherType(t *testing.T) {
	for _, key := range []string{"filled", "due", "lease"} {
		for name, partitions := range map[string]int{"one partition": 1, "three": 3} {
			for _, anew := range []bool{false, true} {
				how := "goes on"
				if anew {
					how = "anew"
				}
				t.Run(strings.Join([]string{key, name, how}, ", "), func(t *testing.T) {
					t.Parallel()
					afterAKeyOfAnotherType(t, key, partitions, anew)
				})
			}
		}
	}
}

func afterAKeyOfAnotherType(t *testing.T, key string, partitions int, anew bool) {
	ns := namespace()
	config := redis.Config{Namespace: ns, Partitions: partitions}
	db := open(t, config)
	subscription := broker.Subscription{Worker: "w", Queues: []string{"*"}, Lease: time.Second}
	c, err := db.Broker().Open(t.Context(), subscription)
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[string]bool)
	publish := func(id, queue string, priority int, in time.Duration) {
		p := broker.Publication{Envelope: envelope(id)}
		p.Envelope.Queue, p.Envelope.Priority = queue, priority
		if in > 0 {
			p.Envelope.NotBefore = time.Now().Add(in)
		}
		publishAll(t, db, p)
		left[id] = true
	}
	for _, id := range []string{"held1", "held2", "held3", "held4"} { // their holder dies
		publish(id, "q", 9, 0)
	}
	exchange(t, c, nil, 4)
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		publish("low-"+id, "q", 0, 0)
		publish("other-"+id, "other", 5, 0)
		publish("later-"+id, "late", 5, 500*time.Millisecond)
	}
	s := shared.Get(t)
	for p := range partitions {
		s.Do("SET", tagOf(ns, p)+":"+key, "mine")
	}
	named := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), ":"+key+" is another program's") {
			t.Errorf("while %s is of another type: %v", key, err)
		}
	}
	if anew {
		config.Addrs, config.Username, config.Password = []string{s.Socket}, "stem", "PASSWORD"
		_, err = redis.Open(t.Context(), config)
		named(err)
	} else {
		_, err = c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1})
		named(err)
	}
	for p := range partitions {
		s.Do("DEL", tagOf(ns, p)+":"+key)
	}
	if anew {
		db = open(t, config)
		if c, err = db.Broker().Open(t.Context(), subscription); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); len(left) > 0; time.Sleep(20 * time.Millisecond) {
		for _, d := range exchange(t, c, nil, 100).Deliveries {
			delete(left, d.Receipt.ID)
		}
		if time.Since(began) > time.Minute {
			var ids []string
			for id := range left {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			t.Fatalf("stuck: %v", ids)
		}
	}
}

func tagOf(namespace string, partition int) string {
	return fmt.Sprintf("{%s:%d}", namespace, partition)
}
