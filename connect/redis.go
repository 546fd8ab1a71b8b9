package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/redis"
)

// TLS says how encrypted connections to stores are made. The zero value trusts
// whom the system trusts, and shows no certificate.
type TLS struct {
	CA            string // path of a PEM file with the authorities to trust; "": the system's
	Cert, Key     string // paths of PEM files: what we show, and its key; "": nothing
	AllowInsecure bool   // certificates are not checked: for tests alone
}

// config reads the files. The error is a *SettingError.
func (t *TLS) config() (*tls.Config, error) {
	wrong := func(name, value string, err error) error {
		return &SettingError{Name: name, Source: fromEnvironment, Value: value, Err: err}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.AllowInsecure} //nolint:gosec // it is asked for, and warned of
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, wrong("STEM_TLS_CA_CERT", t.CA, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, wrong("STEM_TLS_CA_CERT", t.CA, errors.New("the file has no certificate in PEM"))
		}
	}
	switch {
	case t.Cert == "" && t.Key == "":
		return c, nil
	case t.Key == "":
		return nil, wrong("STEM_TLS_CLIENT_CERT", t.Cert, errors.New("STEM_TLS_CLIENT_KEY is not set: set both"))
	case t.Cert == "":
		return nil, wrong("STEM_TLS_CLIENT_KEY", t.Key, errors.New("STEM_TLS_CLIENT_CERT is not set: set both"))
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, wrong("STEM_TLS_CLIENT_CERT", t.Cert, fmt.Errorf("with STEM_TLS_CLIENT_KEY: %w", err))
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

func parseRedis(t target, raw string, secrets TLS) (target, error) {
	u, err := redis.ParseURL(raw)
	if err != nil {
		return t, &URLError{URL: t.shown, Want: redis.URLForm + " (" + err.Error() + ")"}
	}
	if u.Secure {
		if u.TLS, err = secrets.config(); err != nil {
			return t, err
		}
	}
	t.place = u.Place
	t.identity = fmt.Sprintf("%s %t %q %q %q %q %s %s", u.Place, u.Secure, u.Username, u.Password, u.SentinelUsername, u.SentinelPassword,
		strconv.Itoa(u.Partitions), strconv.Itoa(u.WaitReplicas))
	t.open = func(ctx context.Context, o Options) (stem.Backend, error) {
		switch {
		case u.Secure && secrets.AllowInsecure:
			o.Logger.Warn("STEM_TLS_ALLOW_INSECURE: certificates are not checked, anybody can pretend to be the server", "store", t.shown)
		case !u.Secure && secrets != (TLS{}):
			o.Logger.Warn("STEM_TLS_* is set, and this connection is not encrypted: rediss:// is", "store", t.shown)
		}
		c := u.Config
		c.Namespace, c.Logger = o.Namespace, o.Logger
		db, err := redis.Open(ctx, c)
		if err != nil {
			return nil, err // not db: a nil *DB in an interface is not nil
		}
		return db, nil
	}
	return t, nil
}
