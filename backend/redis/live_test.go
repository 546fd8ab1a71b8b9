package redis_test

import (
	"errors"
	"net"
	"testing"
	"time"

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

// Nothing counts as unsent that was sent over a connection which others use too: the
// server may have done it.
func TestWhatWasSentIsNotUnsent(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		dialled, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = dialled.Close() }()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c, read := redis.Watched(dialled), make(chan struct{})
		if _, err := c.Write([]byte("a call that takes its time")); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(read)
			if shared {
				_, _ = c.Read(make([]byte, 1))
			}
		}()
		if _, err := server.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		<-read
		for began := time.Now(); err == nil && time.Since(began) < 30*time.Second; {
			time.Sleep(20 * time.Millisecond) // a rest
			_, err = c.Write([]byte("another"))
		}
		if err == nil || errors.Is(err, redis.ErrGone) == shared {
			t.Errorf("shared: %t: %v", shared, err)
		}
	}
}
