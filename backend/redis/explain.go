package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// explain puts in words what keeps a connection from coming about, and what
// helps. The words have no secrets: servers do not repeat passwords.
func explain(ctx context.Context, c Config, err error) error {
	if errors.Is(err, rueidis.ErrClosing) || errors.Is(ctx.Err(), context.Canceled) {
		return unavailable(err)
	}
	words := explainTLS(err)
	if words == "" && c.TLS != nil && !isDialError(err) {
		if words = tryTLS(ctx, c); words == "" && ctx.Err() != nil && speaksPlainly(c, lateTimeout) {
			words = noTLS // and waits for the end of a line, as it did all the time
		}
	}
	if words == "" && ctx.Err() != nil {
		return unavailable(err)
	}
	if words != "" {
		return fmt.Errorf("%s: %w", words, unavailable(err))
	}
	said := new(rueidis.RedisError)
	if !errors.As(err, &said) {
		if c.TLS == nil && !isDialError(err) && speaksTLS(ctx, c) {
			return fmt.Errorf("the port speaks TLS: say rediss:// in place of redis://: %w", unavailable(err))
		}
		return unavailable(err)
	}
	text := said.Error()
	switch {
	case strings.HasPrefix(text, "WRONGPASS"), strings.Contains(text, "invalid password"):
		words = "user or password is wrong: check USER:PASSWORD@ in the URL"
	case strings.Contains(text, "without any password configured"):
		words = "the server wants no password: leave it out of the URL, or give the server one"
	case strings.HasPrefix(text, "NOAUTH"):
		words = "the server wants a password: put USER:PASSWORD@ or :PASSWORD@ before the host in the URL"
	case strings.HasPrefix(text, "NOPERM"):
		words = "the ACL user lacks rights: docs/redis.md lists what it needs"
	case strings.Contains(text, "DB index is out of range"), strings.Contains(text, "invalid DB index"):
		words = fmt.Sprintf("the server has no database %d: check the number at the end of the URL, or the server's setting \"databases\"", c.DB)
	case strings.Contains(text, "cluster support disabled"):
		words = "this server has no Cluster: say redis:// in place of redis+cluster://"
	case strings.Contains(text, "SELECT is not allowed in cluster mode"):
		words = "this is a node of a Cluster: say redis+cluster://, without a database"
	case strings.Contains(text, "No such master"), said.IsNil() && c.Sentinel != "":
		words = fmt.Sprintf("the Sentinels know no master %q: check its name in the URL", c.Sentinel)
	case c.Sentinel != "" && strings.Contains(text, "unknown command 'SENTINEL'"):
		words = "this server is no Sentinel: name the Sentinels and their port, or say redis:// without the master's name"
	case strings.HasPrefix(text, "LOADING"):
		words = "the server is still loading its data: try again"
	default:
		return unavailable(err)
	}
	return fmt.Errorf("%s: %w", words, unavailable(err))
}

// explainTLS does so for what concerns TLS; "": it is something else.
func explainTLS(err error) string {
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var alert tls.AlertError
	switch {
	case errors.As(err, &record):
		return noTLS
	case errors.As(err, &unknown):
		return "nobody we trust signed the server's certificate: name its authority's in STEM_TLS_CA_CERT"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired, or is not valid yet: renew it, and compare the clocks"
	case errors.As(err, &invalid):
		return "the server's certificate is not good for this: see STEM_TLS_CA_CERT"
	case errors.As(err, &host):
		return "the server's certificate is for another name: use the name that it is for in the URL"
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls:"):
		return "the server refuses our certificate, or wants one: see STEM_TLS_CLIENT_CERT and STEM_TLS_CLIENT_KEY"
	}
	return ""
}

// probeTimeout bounds a question that is asked to understand a failure.
const probeTimeout = 2 * time.Second

// lateTimeout is the same for who has waited all of his time already.
const lateTimeout = 500 * time.Millisecond

// tryTLS asks the first address again what it has against us: by TLS 1.3 a
// server refuses a certificate only after the handshake, and one that speaks
// no TLS waits in silence for the end of a line.
func tryTLS(ctx context.Context, c Config) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := dialSocket(ctx, c.Addrs[0], &net.Dialer{}, c.TLS)
	if err == nil {
		defer conn.Close()
		until, _ := ctx.Deadline()
		_ = conn.SetDeadline(until)
		_, err = conn.Read(make([]byte, 1))
		return explainTLS(err)
	}
	if words := explainTLS(err); words != "" || isDialError(err) {
		return words
	}
	if speaksPlainly(c, probeTimeout) {
		return noTLS
	}
	return ""
}

const noTLS = "the port does not speak TLS: say redis:// in place of rediss://, or name the server's TLS port"

// speaksPlainly tries whether the first address speaks Redis without TLS.
func speaksPlainly(c Config, within time.Duration) bool {
	conn, err := net.DialTimeout("tcp", c.Addrs[0], within)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	first := make([]byte, 1)
	_, err = conn.Read(first)
	return err == nil && (first[0] == '+' || first[0] == '-')
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// speaksTLS tries whether the first address does, to tell it from a server that
// says nothing.
func speaksTLS(ctx context.Context, c Config) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := dialSocket(ctx, c.Addrs[0], &net.Dialer{}, nil)
	if err != nil {
		return false
	}
	defer conn.Close()
	heard := false
	probe := tls.Client(conn, &tls.Config{ //nolint:gosec // it is asked whether it speaks, nothing is sent
		InsecureSkipVerify: true,
		VerifyConnection:   func(tls.ConnectionState) error { heard = true; return nil },
	})
	err = probe.HandshakeContext(ctx)
	return err == nil || heard
}
