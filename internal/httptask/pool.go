package httptask

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of connections.
const (
	dialTimeout    = 10 * time.Second // name, connection and, apart, TLS
	idleTimeout    = 90 * time.Second
	maxIdle        = 128 // connections
	maxIdlePerHost = 32
	maxHeaders     = 64 << 10 // bytes of an answer's headers
	pingAfter      = 15 * time.Second
)

// Options of a pool. The zero value is for everything but tests.
type Options struct {
	Resolver *net.Resolver  // nil: the system's
	Roots    *x509.CertPool // nil: the system's
}

// Pool keeps connections open for the tasks of a worker. Tasks whose guards
// allow the same share them; others do not, so that a task cannot travel on a
// connection that it could not have made. It is safe for concurrent use.
type Pool struct {
	opts       Options
	mu         sync.Mutex
	transports map[string]*http.Transport // by the key of a guard
}

// NewPool returns an empty pool; Close closes its connections.
func NewPool(o Options) *Pool {
	return &Pool{opts: o, transports: map[string]*http.Transport{}}
}

// Close closes the connections that no call uses. The pool remains usable.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}

// transport returns the one for tasks with that guard.
func (p *Pool) transport(g Guard) *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.transports[g.key()]; t != nil {
		return t
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Resolver: p.opts.Resolver, Control: g.control}
	t := &http.Transport{
		// A proxy of the environment would resolve names and dial by itself,
		// out of the guard's sight.
		Proxy:                  nil,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.opts.Roots},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
		ExpectContinueTimeout:  time.Second,
		DisableCompression:     true, // an answer has the size that it has
	}
	p.transports[g.key()] = t
	return t
}
