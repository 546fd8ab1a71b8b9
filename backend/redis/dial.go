package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// How long a connection may take to come about, and an answer to come. A server
// or a way to it that is silent for longer counts as lost, and is dialled again.
const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 7 * time.Second // more than replicaTimeout
)

// idleProof is how often an idle connection is proved to live. Each time wakes the
// process, and a process has a few connections: to do it every second would be most
// of what one costs that has nothing to do.
const idleProof = 3 * time.Second

// What a connection takes of memory. The client's own defaults are four times that
// for each way, and a ring for sixteen times as many commands that wait, of which few
// ever do: the memory that a process holds counts twice, as the collector lets it
// double before it looks.
const (
	bufferSize = 128 << 10
	ringScale  = 6 // 64 commands
)

// dial connects as the configuration says, and checks that the server is one
// that Stem can use.
func dial(ctx context.Context, c Config) (rueidis.Client, error) {
	fail := func(err error) error {
		return fmt.Errorf("open Redis at %s: %w", strings.Join(c.Addrs, ", "), explain(ctx, c, err))
	}
	client, err := newClient(ctx, c)
	if err != nil {
		return nil, fail(err)
	}
	if err := ctx.Err(); err != nil {
		client.Close()
		return nil, fail(err)
	}
	seen, err := look(ctx, client)
	if err != nil {
		client.Close()
		return nil, fail(err)
	}
	if err := seen.usable(c); err != nil {
		client.Close()
		return nil, fmt.Errorf("open Redis at %s: %w", strings.Join(c.Addrs, ", "), err)
	}
	for _, w := range seen.warnings() {
		c.Logger.Warn(w, "redis", strings.Join(c.Addrs, ","))
	}
	return client, nil
}

func newClient(ctx context.Context, c Config) (rueidis.Client, error) {
	o := rueidis.ClientOption{
		InitAddress:       c.Addrs,
		Username:          c.Username,
		Password:          c.Password,
		SelectDB:          c.DB,
		TLSConfig:         c.TLS,
		DisableCache:      true,
		PipelineMultiplex: -1, // one connection for what has none of its own
		ForceSingleClient: !c.Cluster && c.Sentinel == "",
		ConnWriteTimeout:  answerTimeout,

		ReadBufferEachConn: bufferSize, WriteBufferEachConn: bufferSize, RingScaleEachConn: ringScale,
	}
	o.Dialer.Timeout = dialTimeout
	if by, ok := ctx.Deadline(); ok {
		o.Dialer.Timeout = max(time.Millisecond, min(dialTimeout, time.Until(by)))
	}
	o.Dialer.KeepAlive = idleProof
	if c.Sentinel != "" {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: c.Sentinel, Username: c.SentinelUsername, Password: c.SentinelPassword,
			TLSConfig: c.TLS, Dialer: o.Dialer,
		}
	}
	o.RetryDelay = retryDelay
	o.DialCtxFn = dialSocket
	return rueidis.NewClient(o)
}

// retryDelay is how long the client waits before it repeats a read that failed on
// the way; below 0, it does not. Left to itself it repeats a call without a
// deadline for as long as the server is away.
func retryDelay(attempts int, _ rueidis.Completed, _ error) time.Duration {
	const most = 4
	if attempts > most {
		return -1
	}
	return 10 * time.Millisecond << attempts
}

// dialSocket connects to a host's port, or to a Unix socket.
func dialSocket(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	if d.Timeout > 0 { // for all of it
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn = watched(conn)
	if c == nil {
		return conn, nil
	}
	return encrypted(ctx, conn, addr, c)
}

// encrypted speaks TLS over a connection, as tls.Dialer does.
func encrypted(ctx context.Context, conn net.Conn, addr string, c *tls.Config) (net.Conn, error) {
	if c.ServerName == "" {
		c = c.Clone()
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		c.ServerName = host
	}
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		if closed := conn.Close(); !errors.Is(closed, net.ErrClosed) { // as the end of its time leaves it
			err = errors.Join(err, closed)
		}
		return nil, err
	}
	return secure, nil
}
