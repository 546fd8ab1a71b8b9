package otel

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// poster sends messages of OTLP to one URL. The official exporters over HTTP
// bring gRPC along, which is a quarter of the whole program; this is what is
// needed of them.
type poster struct {
	url     string
	headers map[string]string
	client  *http.Client
}

func newPoster(url string, headers map[string]string, config *tls.Config) *poster {
	return &poster{url: url, headers: headers, client: &http.Client{
		Timeout: exportTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
			MaxIdleConns: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: exportTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

const (
	postTries  = 3
	postPause  = 500 * time.Millisecond // after the first failure; then twice as long
	maxPause   = 10 * time.Second       // of those that receivers ask for
	maxAnswer  = 64 << 10
	shownError = 200
)

// post sends an encoded message, again where the receiver could not take it just
// now. It goes as it is: to compress it costs more than all the rest.
func (p *poster) post(ctx context.Context, body []byte) error {
	pause := postPause
	for try := 1; ; try++ {
		again, err := p.once(ctx, body)
		if err == nil || again < 0 || try == postTries {
			return err
		}
		t := time.NewTimer(max(pause, again))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		pause *= 2
	}
}

// once also returns after how long, at the least, another try could help; never:
// negative.
func (p *poster) once(ctx context.Context, body []byte) (again time.Duration, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return -1, fmt.Errorf("send to %s: %w", p.url, err)
	}
	q.Header.Set("Content-Type", "application/x-protobuf")
	for k, v := range p.headers {
		q.Header.Set(k, v)
	}
	resp, err := p.client.Do(q)
	if err != nil {
		return 0, fmt.Errorf("send: %w", err) // it names the URL
	}
	defer resp.Body.Close() // it was only read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 == 2:
		return -1, p.refused(resp.Header, answer)
	case err != nil:
		return 0, fmt.Errorf("send to %s: %s: %w", p.url, resp.Status, err)
	}
	again = -1
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = 0
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
			again = min(time.Duration(seconds)*time.Second, maxPause)
		}
	}
	return again, fmt.Errorf("send to %s: %s: %.*q", p.url, resp.Status, shownError, answer)
}

// refused says what the receiver did not take of what it answered well for: the
// partial_success of its answer, in which every signal has the same two fields.
func (p *poster) refused(h http.Header, answer []byte) error {
	if h.Get("Content-Type") != "application/x-protobuf" {
		return nil
	}
	partial, _ := field(answer, 1)
	_, count := field(partial, 1)
	why, _ := field(partial, 2)
	if count == 0 && len(why) == 0 {
		return nil
	}
	return fmt.Errorf("send to %s: the receiver did not take %d of them: %.*q", p.url, count, shownError, why)
}

// field finds the last field of that number in a message: its bytes, or its number.
func field(message []byte, number protowire.Number) (value []byte, count uint64) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			break
		}
		message = message[size:]
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			break
		}
		switch {
		case n == number && kind == protowire.BytesType:
			value, _ = protowire.ConsumeBytes(message)
		case n == number && kind == protowire.VarintType:
			count, _ = protowire.ConsumeVarint(message)
		}
		message = message[size:]
	}
	return value, count
}

func (p *poster) close() { p.client.CloseIdleConnections() }
