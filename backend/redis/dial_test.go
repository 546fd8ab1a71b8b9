package redis_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
)

// A caller's deadline ends a call also while the client dials a server that does not
// answer, which it does for five seconds.
func TestDeadlineWhileDialling(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	db := open(t, redis.Config{Addrs: []string{s.Addr}, Namespace: namespace()})
	publishAll(t, db, broker.Publication{Envelope: envelope("a")})
	s.Pause()
	defer s.Cont()
	within := func(timeout time.Duration) time.Duration {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		began := time.Now()
		_, err := db.Broker().Publish(ctx, []broker.Publication{{Envelope: envelope("b")}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want %v", err, context.DeadlineExceeded)
		}
		return time.Since(began)
	}
	within(50 * time.Millisecond) // its connection is useless now
	var took time.Duration
	for range 4 {
		took += within(50 * time.Millisecond)
	}
	if took > 15*time.Second { // of the 20 that four dials take
		t.Errorf("four calls with 50 ms each took %s", took)
	}
	s.Cont()
	publishAll(t, db, broker.Publication{Envelope: envelope("c")})
}
