package redis_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store"
)

// A server's clock that was ahead and is set back does not leave the limits in the
// future.
func TestLimitsFollowTheClock(t *testing.T) {
	t.Parallel()
	ns := namespace()
	limiter := open(t, redis.Config{Namespace: ns}).Broker().(store.Limiter)
	reserve := func(again bool) store.Slot {
		t.Helper()
		slots, err := limiter.Reserve(t.Context(), []store.Reservation{{Key: "k", Rate: store.Rate{Count: 1, Per: time.Hour}, Again: again}})
		if err != nil {
			t.Fatal(err)
		}
		return slots[0]
	}
	reserve(false)
	reserve(true)
	s, key := shared.Get(t), "{"+ns+":0}:limit:k"
	var first, again, seen int64
	if _, err := fmt.Sscan(s.Do("GET", key).(string), &first, &again, &seen); err != nil {
		t.Fatal(err)
	}
	const ahead = int64(1000 * time.Hour / time.Microsecond)
	s.Do("SET", key, fmt.Sprint(first+ahead, again+ahead, seen+ahead))
	for _, line := range []bool{false, true} {
		for n, least := range []time.Duration{50 * time.Minute, 110 * time.Minute} { // it took up to ten minutes to come here
			if slot := reserve(line); slot.Wait < least || slot.Wait > least+10*time.Minute {
				t.Errorf("again %t: after a step of 1000 hours slot %d is in %s", line, n+1, slot.Wait)
			}
		}
	}
	if ms := s.Do("PTTL", key).(int64); ms > (4 * time.Hour).Milliseconds() {
		t.Errorf("the key is kept for %d ms", ms)
	}
}
