package stemcmd_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/stemcmd"
)

// pair writes a new certificate for loopback and its key, and returns a pool
// that trusts it.
func pair(t *testing.T, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, raw := range map[string][]byte{certFile: cert, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// trusting is a client that trusts that pool alone, with a connection for each
// request.
func trusting(pool *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
}

// TestServeTLS serves over TLS, goes on when half of a new certificate is
// there, and uses it when it is whole.
func TestServeTLS(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "api.crt"), filepath.Join(dir, "api.key")
	first := pair(t, cert, key)
	s := here(t, shop(), []string{"STEM_BROKER_URL=memory:", "STEM_API_TLS_KEY=@" + key},
		"serve", "--addr", "127.0.0.1:0", "--tls-cert", cert)
	url := s.url("serving the API")
	if status, answer, err := s.ask("GET", url+"/v1/queues", ""); err == nil && status < 400 {
		t.Errorf("over plain HTTP: %d %s", status, answer)
	}
	s.http.CloseIdleConnections()
	s.http = trusting(first)
	url = strings.Replace(url, "http:", "https:", 1)
	s.must(http.StatusOK, "GET", url+"/v1/queues", "")
	s.signal(syscall.SIGTERM)
	s.ends(stemcmd.ExitDone)

	// With both as files they can be renewed.
	s = here(t, shop(), []string{"STEM_BROKER_URL=memory:", "STEM_API_TLS_CERT=" + cert, "STEM_API_TLS_KEY=" + key}, "serve", "--addr", "127.0.0.1:0")
	url = strings.Replace(s.url("serving the API"), "http:", "https:", 1)
	s.http = trusting(first)
	s.must(http.StatusOK, "GET", url+"/v1/queues", "")
	newCert, newKey := filepath.Join(dir, "new.crt"), filepath.Join(dir, "new.key")
	second := pair(t, newCert, newKey)
	if err := os.Rename(newCert, cert); err != nil {
		t.Fatal(err)
	}
	s.must(http.StatusOK, "GET", url+"/v1/queues", "")
	s.log.find(t, "the certificate was changed and cannot be used")
	if err := os.Rename(newKey, key); err != nil {
		t.Fatal(err)
	}
	s.http = trusting(second)
	s.must(http.StatusOK, "GET", url+"/v1/queues", "")
	s.signal(syscall.SIGTERM)
	s.ends(stemcmd.ExitDone)
}

// TestServeTLSRefuses: a mistake is found before anything is opened.
func TestServeTLSRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	pair(t, cert, key)
	pair(t, filepath.Join(dir, "b.crt"), filepath.Join(dir, "b.key"))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--tls-cert", cert}, "STEM_API_TLS_KEY is not"},
		{[]string{"--tls-key", key}, "STEM_API_TLS_CERT is not"},
		{[]string{"--tls-cert", cert, "--tls-key", filepath.Join(dir, "none")}, "no such file"},
		{[]string{"--tls-cert", cert, "--tls-key", filepath.Join(dir, "b.key")}, "private key does not match"},
		{[]string{"--tls-cert", key, "--tls-key", key}, "the certificate or its key"},
	} {
		var out bytes.Buffer
		code := stemcmd.Run(t.Context(), shop(), stemcmd.Process{
			Args: append([]string{"serve", "--broker", "sqlite:" + filepath.Join(dir, "stem.db"), "--addr", "127.0.0.1:0"}, c.args...), Stderr: &out,
		})
		if code != stemcmd.ExitUsage || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: exit code %d, want %d and %q:\n%s", c.args, code, stemcmd.ExitUsage, c.want, &out)
		}
		if _, err := os.Stat(filepath.Join(dir, "stem.db")); err == nil {
			t.Fatal("the store was opened")
		}
	}
}
