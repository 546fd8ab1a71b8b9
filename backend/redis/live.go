package redis

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// errGone says that the server had closed a connection before anything was sent
// over it: what was to be sent has not been, and may be sent over another.
var errGone = errors.New("the server has closed the connection")

// idleTime is how long a connection is taken to live on without a look. A server
// that ends at that moment fails a call, as it does one that is under way.
const idleTime = 10 * time.Millisecond

// liveConn looks whether the server is still there before it sends after a rest:
// nobody reads a connection meanwhile that has but one user at a time. It costs a
// system call, and none of the network. Where somebody does read, several share the
// connection: what others have sent may be under way, and would be taken for unsent
// with what is sent now. Whoever reads hears of the end himself.
type liveConn struct {
	net.Conn
	raw  syscall.RawConn
	used time.Time // the last write

	readers atomic.Int32 // one that met the end stays
}

// watched makes a liveConn of a socket; any other connection stays as it is.
func watched(c net.Conn) net.Conn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	return &liveConn{Conn: c, raw: raw, used: time.Now()}
}

func (c *liveConn) Read(b []byte) (int, error) {
	c.readers.Add(1)
	n, err := c.Conn.Read(b)
	if err == nil {
		c.readers.Add(-1)
	}
	return n, err
}

func (c *liveConn) Write(b []byte) (int, error) {
	now := time.Now()
	if now.Sub(c.used) > idleTime && c.readers.Load() == 0 && hungUp(c.raw) {
		return 0, errGone
	}
	c.used = now
	return c.Conn.Write(b)
}
