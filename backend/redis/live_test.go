package redis_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
)

// A server that was started again while nothing was under way fails no call: what
// cannot be sent over a connection is sent over another.
func TestRestartWhileIdle(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	db := open(t, redis.Config{Addrs: []string{s.Addr}, Namespace: namespace()})
	for range 2 {
		publishAll(t, db, broker.Publication{Envelope: envelope("a")})
		if _, err := db.Results().Get(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := db.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Stop()
		s.Restart()
	}
}
