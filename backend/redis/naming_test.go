package redis_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// A key of another type that belongs to one lock, memo or rate limit is
// named by what needs it, and stops nothing else.
func TestKeysOfOneThingAreNamed(t *testing.T) {
	t.Parallel()
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns})
	tag, s := "{"+ns+":0}:", shared.Get(t)
	named := func(what string, err error, key string) {
		t.Helper()
		if !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "the key "+tag+key+" is another program's") {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.Do("SET", tag+"lock:x", "mine")
	_, err := db.Locks().Acquire(t.Context(), "x", "me", time.Minute)
	named("lock", err, "lock:x")

	s.Do("RPUSH", tag+"memo:x", "mine")
	_, err = db.Memos().Swap(t.Context(), "x", nil, []byte("v"), time.Minute)
	named("memo", err, "memo:x")
	_, err = db.Memos().Look(t.Context(), "x")
	named("memo", err, "memo:x")

	s.Do("RPUSH", tag+"limit:x", "mine")
	rate := store.Rate{Count: 1, Per: time.Hour}
	slots, err := db.Broker().(store.Limiter).Reserve(t.Context(), []store.Reservation{{Key: "x", Rate: rate}, {Key: "y", Rate: rate}, {Key: "x", Rate: rate}})
	if err != nil {
		t.Fatal(err)
	}
	named("rate limit", slots[0].Err, "limit:x")
	named("rate limit", slots[2].Err, "limit:x")
	if slots[1].Err != nil || slots[1].Wait > 0 {
		t.Errorf("another rate limit: %+v", slots[1])
	}
}
