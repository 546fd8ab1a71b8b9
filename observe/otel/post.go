package otel

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"
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
	maxAnswer  = 64 << 10
	shownError = 200
)

// post sends an encoded message, again where the receiver could not take it just
// now. It goes as it is: to compress it costs more than all the rest.
func (p *poster) post(ctx context.Context, body []byte) error {
	pause := postPause
	for try := 1; ; try++ {
		again, err := p.once(ctx, body)
		if err == nil || !again || try == postTries {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		pause *= 2
	}
}

// once reports also whether another try could help.
func (p *poster) once(ctx context.Context, body []byte) (again bool, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("send to %s: %w", p.url, err)
	}
	q.Header.Set("Content-Type", "application/x-protobuf")
	for k, v := range p.headers {
		q.Header.Set(k, v)
	}
	resp, err := p.client.Do(q)
	if err != nil {
		return true, fmt.Errorf("send: %w", err) // it names the URL
	}
	defer resp.Body.Close() // it was only read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 == 2:
		return false, nil
	case err != nil:
		return true, fmt.Errorf("send to %s: %s: %w", p.url, resp.Status, err)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
	}
	return again, fmt.Errorf("send to %s: %s: %.*q", p.url, resp.Status, shownError, answer)
}

func (p *poster) close() { p.client.CloseIdleConnections() }
