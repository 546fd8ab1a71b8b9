package stemcmd

import (
	"net"
	"sync"
	"time"
)

// breakable is a listener that can end all its connections, for a stop that
// waits for nobody.
type breakable struct {
	net.Listener

	mu     sync.Mutex
	conns  map[*breakableConn]struct{}
	broken int
}

// Accept waits for the next connection.
func (l *breakable) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &breakableConn{Conn: conn, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[*breakableConn]struct{}{}
	}
	l.conns[c] = struct{}{}
	return c, nil
}

// breakAfter is how long a server has to close what is idle, and to end what
// waits, so that only the rest is broken off.
const breakAfter = 100 * time.Millisecond

// breakOff ends the listener and its connections.
func (l *breakable) breakOff() {
	_ = l.Listener.Close() // the server may have closed it already
	<-time.After(breakAfter)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = len(l.conns)
	for c := range l.conns {
		_ = c.Conn.Close() // the server closes it once more, and logs what it must
	}
}

type breakableConn struct {
	net.Conn
	listener *breakable
}

// Close ends the connection.
func (c *breakableConn) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
