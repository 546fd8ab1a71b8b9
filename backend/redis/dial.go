package redis

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/redis/rueidis"
)

// dial connects as the configuration says.
func dial(_ context.Context, c Config) (rueidis.Client, error) {
	o := rueidis.ClientOption{
		InitAddress:       c.Addrs,
		Username:          c.Username,
		Password:          c.Password,
		SelectDB:          c.DB,
		TLSConfig:         c.TLS,
		DisableCache:      true,
		ForceSingleClient: !c.Cluster && c.Sentinel == "",
	}
	if c.Sentinel != "" {
		o.Sentinel = rueidis.SentinelOption{MasterSet: c.Sentinel, Username: c.SentinelUsername, Password: c.SentinelPassword, TLSConfig: c.TLS}
	}
	o.DialCtxFn = dialSocket
	client, err := rueidis.NewClient(o)
	if err != nil {
		return nil, fmt.Errorf("open Redis at %v: %w", c.Addrs, unavailable(err))
	}
	return client, nil
}

// dialSocket connects to a host's port, or to a Unix socket.
func dialSocket(ctx context.Context, addr string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	if c != nil {
		return (&tls.Dialer{NetDialer: d, Config: c}).DialContext(ctx, network, addr)
	}
	return d.DialContext(ctx, network, addr)
}
