package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
)

// An enqueue that fails midway, since a key that all need is of another type, leaves
// no task that nobody would receive, nor its queue so that what follows it is stuck.
func TestEnqueueThatFailsMidway(t *testing.T) {
	for _, key := range []string{"journal", "sweep", "filled", "idle", "watch", "keepers"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			ns := namespace()
			db := open(t, redis.Config{Namespace: ns})
			c := consumerOf(t, db, time.Hour)
			publish := func(id string) error {
				_, err := db.Broker().Publish(t.Context(), []broker.Publication{{Envelope: envelope(id)}})
				return err
			}
			mend := breakKey(t, "{"+ns+":0}:"+key)
			defer mend()
			err := publish("first")
			if err != nil && !strings.Contains(err.Error(), ":"+key+" is another program's") {
				t.Errorf("%v does not name the key", err)
			}
			mend()
			if err := publish("second"); err != nil {
				t.Fatal(err)
			}
			got := make(map[string]bool)
			for _, d := range exchange(t, c, nil, 10).Deliveries {
				got[d.Receipt.ID] = true
			}
			if !got["second"] || err == nil && !got["first"] {
				t.Errorf("received %v", got)
			}
			if err := db.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
