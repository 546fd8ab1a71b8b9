package httpapi

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// checkAddr refuses an address that the options do not go with, and returns
// its host.
func checkAddr(o Options) (string, error) {
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return "", fmt.Errorf("httpapi: address %q: want HOST:PORT, such as %s", o.Addr, defaultAddr)
	}
	if len(o.Tokens) > 0 {
		return host, nil
	}
	if slices.Contains(o.AllowedHosts, "*") {
		return "", errors.New("httpapi: any host name is allowed, and there are no tokens: pages of other sites could use the API")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", openError(o.Addr)
	}
	return host, nil
}

func openError(addr string) error {
	return fmt.Errorf("httpapi: without tokens the API listens on loopback only, and %s is reachable from elsewhere: "+
		"set tokens (STEM_API_TOKENS), or listen on 127.0.0.1", addr)
}

// checkListener makes sure of what checkAddr saw only the text of: localhost
// may be anything.
func checkListener(l net.Listener, tokens []Token) error {
	if len(tokens) > 0 || local(l.Addr()) {
		return nil
	}
	return openError(l.Addr().String())
}

// local says whether only this machine reaches an address.
func local(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// hostAllowed says whether a request's Host header is one of ours. An IP
// address always is: it cannot be another site's name for this server.
func (s *Server) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "localhost" || host == "127.0.0.1" || net.ParseIP(host) != nil || s.host != "" && host == strings.ToLower(s.host) {
		return true
	}
	return slices.ContainsFunc(s.opts.AllowedHosts, func(h string) bool { return h == "*" || strings.EqualFold(h, host) })
}

// reachableOpenly says whether a request came over a connection that needs a
// token, whatever the options say.
func reachableOpenly(r *http.Request) bool {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return !ok || !local(a)
}

// limitListener closes the connections beyond a number at once: a client gets
// a clean end, and not a wait without one.
type limitListener struct {
	net.Listener
	max  int64
	open atomic.Int64
}

// Accept returns the next connection there is room for.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &countedConn{Conn: c, open: &l.open}, nil
		}
		l.open.Add(-1)
		_ = c.Close() // it was never served; there is nobody to tell
	}
}

type countedConn struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool
}

// Close gives the connection's room back.
func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}
