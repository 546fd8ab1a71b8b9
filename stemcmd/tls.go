package stemcmd

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// pemHead begins a certificate or a key that is given as such, and not as the
// path of its file.
const pemHead = "-----BEGIN "

// apiTLS is how the API is served over TLS: nil for plain HTTP.
func (s *session) apiTLS() (*tls.Config, error) {
	c := &certificate{cert: s.conf.Config.APICert, key: s.conf.Config.APIKey, log: s.log}
	switch {
	case c.cert == "" && c.key == "":
		return nil, nil
	case c.cert == "":
		return nil, usage("STEM_API_TLS_KEY is set, and STEM_API_TLS_CERT is not")
	case c.key == "":
		return nil, usage("STEM_API_TLS_CERT is set, and STEM_API_TLS_KEY is not")
	}
	if err := c.load(); err != nil {
		return nil, usage("STEM_API_TLS_CERT and STEM_API_TLS_KEY: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

// certificate is a certificate with its key. What comes from files is read
// again when they have changed, so that it can be renewed without a restart.
type certificate struct {
	cert, key string // each a path, or PEM
	log       *slog.Logger

	mu     sync.Mutex
	stamp  string // of the files that were read last
	loaded *tls.Certificate
}

// load reads the pair.
func (c *certificate) load() error {
	c.stamp = c.look()
	cert, err := pem(c.cert)
	if err != nil {
		return err
	}
	key, err := pem(c.key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the certificate or its key: %w", err)
	}
	c.loaded = &pair
	return nil
}

func pem(text string) ([]byte, error) {
	if strings.HasPrefix(text, pemHead) {
		return []byte(text), nil
	}
	raw, err := os.ReadFile(text)
	if err != nil {
		return nil, fmt.Errorf("want the path of a PEM file: %w", err)
	}
	return bytes.TrimSpace(raw), nil
}

// look tells by its result whether a file has changed.
func (c *certificate) look() string {
	var b strings.Builder
	for _, path := range []string{c.cert, c.key} {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%s %d\n", info.ModTime().Format(time.RFC3339Nano), info.Size())
		}
	}
	return b.String()
}

// get is the certificate for a connection. A pair that cannot be read, or of
// which only half was renewed yet, leaves the one before in place.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stamp == c.look() {
		return c.loaded, nil
	}
	if err := c.load(); err != nil {
		c.log.Warn("the certificate was changed and cannot be used; the one before is", "error", err)
	} else {
		c.log.Info("the certificate was changed")
	}
	return c.loaded, nil
}
