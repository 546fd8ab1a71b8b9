package redis_test

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
)

// What is believed of the server's clock is corrected by what its scripts say: by
// any exchange, and by settling and renewing without a consumer.
func TestClockIsFollowed(t *testing.T) {
	t.Parallel()
	db := open(t, redis.Config{Namespace: namespace(), Partitions: 2})
	c := consumerOf(t, db, time.Hour)
	for _, by := range []time.Duration{time.Hour, -time.Hour, 20 * time.Second} {
		redis.Mislead(db, by)
		began := time.Now()
		x := exchange(t, c, nil, 1)
		// It is the same clock as ours, and as far as the call lasted it may seem another.
		if took := time.Since(began); x.Ahead.Abs() > took+2*time.Millisecond {
			t.Errorf("misled by %s, after an exchange of %s: ahead by %s", by, took, x.Ahead)
		}
		redis.Mislead(db, by)
		if _, err := db.Broker().Renew(t.Context(), []broker.Renewal{{Receipt: broker.Receipt{ID: "a", Epoch: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
}
