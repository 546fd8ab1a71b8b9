package connect_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/redistest"
)

// opening opens and closes a store, and returns what was logged and said.
func opening(t *testing.T, o connect.Options) (logged string, err error) {
	t.Helper()
	var log strings.Builder
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := connect.Open(ctx, o)
	if err == nil {
		if _, err := b.Broker().Queues(ctx); err != nil {
			t.Errorf("%s: %v", o.Broker, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: close: %v", o.Broker, err)
		}
	}
	return log.String(), err
}

func TestRedisURLsThatAreWrong(t *testing.T) {
	for raw, want := range map[string]string{
		"redis:":                                 "does not begin with redis://",
		"redis:/h":                               "does not begin with redis://",
		"redis://":                               "the host is missing",
		"redis://h/x":                            "the database is a number",
		"redis://h/-1":                           "the database is a number",
		"redis://h/0/1":                          "the database is a number",
		"redis://h:0":                            "a port 1–65535",
		"redis://h:port":                         "a port 1–65535",
		"redis://::1":                            "IPv6 address stands in brackets",
		"redis://[::1":                           "a bracket around an IPv6 address is missing",
		"redis://::1]":                           "IPv6 address stands in brackets",
		"redis://[[::1]]":                        "a bracket around",
		"redis://a,b":                            "several hosts are for",
		"redis://hunter2@h":                      "a colon stands before the password",
		"redis://:hunter2%@h":                    "% is written %25",
		"redis://u:hunter2/x@h":                  "/ is written %2F",
		"redis://h?partitions=0":                 "partitions is a number from 1",
		"redis://h?wait_replicas=x":              "wait_replicas is a number",
		"redis://h?pasword=hunter2":              "is no option",
		"redis://h?sentinel_password=hunter2":    "is for redis+sentinel://",
		"redis+sentinel://h1,h2":                 "the name of the master is missing",
		"redis+sentinel://h1,,h2/m":              "the host is missing",
		"redis+cluster://h1,h2/1":                "no database but 0",
		"redis+cluster://u:hunter2@h1,h2?wait=1": "is no option",
		"redis+unix:///tmp/s":                    "want ",
	} {
		_, err := connect.Open(t.Context(), connect.Options{Broker: "memory:", Results: raw})
		var wrong *connect.URLError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want a URLError with %q", raw, err, want)
		} else if wrong.Variable() != "STEM_RESULT_BACKEND_URL" {
			t.Errorf("%s: blames %s", raw, wrong.Variable())
		}
	}
}

func TestRedisByItsURL(t *testing.T) {
	s := redistest.Start(t, redistest.Options{Password: "hunter2/@"})
	plain := redistest.Start(t, redistest.Options{})
	_, port, _ := strings.Cut(s.Addr, ":")
	good := "redis://default:hunter2%2F%40@localhost:" + port
	if logged, err := opening(t, connect.Options{Broker: good + "/1?partitions=2"}); err != nil || logged != "" {
		t.Errorf("%v, logged %q", err, logged)
	}
	for raw, want := range map[string]string{
		"redis://:hunter3@" + s.Addr:                       "user or password is wrong",
		"redis://u:hunter3@" + s.Addr:                      "user or password is wrong",
		"redis://" + s.Addr:                                "the server wants a password",
		good + "/99":                                       "the server has no database 99",
		good + "/1?partitions=3":                           "was created with 2 partitions",
		"redis://127.0.0.1:1":                              "refused",
		"redis+cluster://:hunter2%2F%40@" + s.Addr:         "this server has no Cluster",
		"redis+sentinel://:hunter2%2F%40@" + s.Addr + "/m": "entinel",
		"redis+sentinel://" + plain.Addr + "/m":            "this server is no Sentinel",
	} {
		_, err := opening(t, connect.Options{Broker: raw})
		var open *connect.OpenError
		if !errors.As(err, &open) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an OpenError with %q", raw, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter") || open.Variable() != "STEM_BROKER_URL") {
			t.Errorf("%s: blames %s: %v", raw, open.Variable(), err)
		}
	}
	s.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	if logged, err := opening(t, connect.Options{Broker: good}); err != nil || !strings.Contains(logged, "allkeys-lru") {
		t.Errorf("a server that throws tasks away: %v, logged %q", err, logged)
	}
	s.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	s.Do("CONFIG", "SET", "maxmemory", "1")
	if logged, err := opening(t, connect.Options{Broker: good}); err != nil || !strings.Contains(logged, "the memory is full") {
		t.Errorf("a server without memory left is to be looked at: %v, logged %q", err, logged)
	}
	s.Do("CONFIG", "SET", "maxmemory", "0")
	s.Do("DEL", "{stem:0}:run")
	s.Do("SET", "{stem:0}:run", "another program's")
	var open *connect.OpenError
	_, err := opening(t, connect.Options{Broker: good})
	if !errors.As(err, &open) || open.Variable() != "STEM_BROKER_URL" || !strings.Contains(err.Error(), "the key {stem:0}:run is another program's") ||
		!strings.Contains(err.Error(), "STEM_NAMESPACE") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("a key of another type: %v", err)
	}
}

func TestRedisOverTLS(t *testing.T) {
	ca, foreign := redistest.NewAuthority(t), redistest.NewAuthority(t)
	hosts := redistest.Subject{Hosts: []string{"127.0.0.1", "localhost"}}
	s := redistest.Start(t, redistest.Options{TLS: ca, TLSClients: true})
	mine, theirs := ca.MustIssue(t, redistest.Subject{}), foreign.MustIssue(t, redistest.Subject{})
	old := hosts
	old.Expiry = time.Now().Add(-time.Hour)
	expired := redistest.Start(t, redistest.Options{TLS: ca}.ServedWith(ca.MustIssue(t, old)))
	other := redistest.Start(t, redistest.Options{TLS: ca}.ServedWith(ca.MustIssue(t, redistest.Subject{Hosts: []string{"elsewhere"}})))
	shown := connect.TLS{CA: ca.CertFile, Cert: mine.CertFile, Key: mine.KeyFile}

	for _, c := range []struct {
		what, url, want string
		tls             connect.TLS
	}{
		{"all is well", "rediss://" + s.TLSAddr, "", shown},
		{"no authority", "rediss://" + s.TLSAddr, "STEM_TLS_CA_CERT", connect.TLS{Cert: mine.CertFile, Key: mine.KeyFile}},
		{"a foreign authority", "rediss://" + s.TLSAddr, "STEM_TLS_CA_CERT", connect.TLS{CA: foreign.CertFile}},
		{"no certificate of ours", "rediss://" + s.TLSAddr, "STEM_TLS_CLIENT_CERT", connect.TLS{CA: ca.CertFile}},
		{"a foreign certificate", "rediss://" + s.TLSAddr, "STEM_TLS_CLIENT_CERT", connect.TLS{CA: ca.CertFile, Cert: theirs.CertFile, Key: theirs.KeyFile}},
		{"expired", "rediss://" + expired.TLSAddr, "expired", connect.TLS{CA: ca.CertFile}},
		{"another name", "rediss://" + other.TLSAddr, "is for another name", connect.TLS{CA: ca.CertFile}},
		{"TLS to a plain port", "rediss://" + s.Addr, "does not speak TLS", shown},
		{"plain to a TLS port", "redis://" + s.TLSAddr, "the port speaks TLS", connect.TLS{}},
		{"unchecked", "rediss://" + other.TLSAddr, "", connect.TLS{AllowInsecure: true}},
	} {
		logged, err := opening(t, connect.Options{Broker: c.url, TLS: c.tls})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
		if c.tls.AllowInsecure != strings.Contains(logged, "STEM_TLS_ALLOW_INSECURE") {
			t.Errorf("%s: logged %q", c.what, logged)
		}
	}
	for what, c := range map[string]connect.TLS{
		"STEM_TLS_CA_CERT":     {CA: mine.KeyFile},
		"STEM_TLS_CLIENT_CERT": {Cert: mine.CertFile},
		"STEM_TLS_CLIENT_KEY":  {Key: mine.KeyFile},
	} {
		_, err := opening(t, connect.Options{Broker: "rediss://" + s.TLSAddr, TLS: c})
		var wrong *connect.SettingError
		if !errors.As(err, &wrong) || wrong.Name != what {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRedisDeployments(t *testing.T) {
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		s := redistest.StartSentinel(t, redistest.Options{Password: "hunter2"})
		good := strings.Replace(s.URL(1), "://", "://:hunter2@", 1)
		if _, err := opening(t, connect.Options{Broker: good}); err != nil {
			t.Error(err)
		}
		for raw, want := range map[string]string{
			strings.Replace(good, "/stem/", "/steam/", 1): "know no master",
			"redis://" + s.Sentinels[0].Addr:              "this is a Sentinel",
			"redis://:hunter2@" + s.Servers[1].Addr:       "this is a replica",
		} {
			if _, err := opening(t, connect.Options{Broker: raw}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", raw, err, want)
			}
		}
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartCluster(t, redistest.ClusterOptions{})
		if _, err := opening(t, connect.Options{Broker: c.URL()}); err != nil {
			t.Error(err)
		}
		if _, err := opening(t, connect.Options{Broker: "redis://" + c.Nodes[0].Addr}); err == nil || !strings.Contains(err.Error(), "redis+cluster://") {
			t.Errorf("one node of a Cluster: %v", err)
		}
	})
}
