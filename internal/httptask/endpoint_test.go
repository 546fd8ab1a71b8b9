package httptask_test

import (
	"strings"
	"testing"

	"github.com/stemjobs/stem/internal/httptask"
)

// TestParseURL: what is refused is not shown, because it may be a secret.
func TestParseURL(t *testing.T) {
	for _, text := range []string{
		"http://example.org", "https://example.org:8443/a?b=c", "HTTPS://EXAMPLE.org/", "http://[2001:db8::1]:80/", "http://bücher.example/",
	} {
		if _, err := httptask.ParseURL(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"":                                       "want an http:// or https:// URL",
		"secret":                                 "want an http:// or https:// URL",
		"example.org/secret":                     "want an http:// or https:// URL",
		"//example.org/secret":                   "want an http:// or https:// URL",
		"ftp://example.org/secret":               "want an http:// or https:// URL",
		"http:secret":                            "want an http:// or https:// URL",
		"https://user:secret@example.org":        "user name and password",
		"https://secret@example.org":             "user name and password",
		"https://:secret@example.org":            "user name and password",
		"https:///secret":                        "names no host",
		"https://:443/secret":                    "names no host",
		"https://example.org:0/secret":           "port",
		"https://example.org:65536/secret":       "port",
		"https://example.org:secret/":            "it is no URL",
		"https://user:secret@exa mple.org/":      "it is no URL",
		"https://example.org/%secret":            "it is no URL",
		"https://[::1/secret":                    "it is no URL",
		"http://a/" + strings.Repeat("s", 1<<13): "it is no URL",
	} {
		u, err := httptask.ParseURL(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseURL(%.40q) = %v, %v; want an error with %q", text, u, err, want)
		}
	}
}

// TestAddressInURL: an address that could never be reached is refused early.
func TestAddressInURL(t *testing.T) {
	for url, want := range map[string]bool{
		"http://127.0.0.1/": true, "http://127.0.0.2/": false, "http://10.0.0.1:8080/": false, "http://[::1]/": false, "http://[fe80::1%25eth0]/": false,
		"http://8.8.8.8/": true, "http://localhost/": true, // judged when it is dialled
	} {
		if _, err := httptask.New(newPool(t, httptask.Options{}), endpoint(t, url)); (err == nil) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := httptask.New(newPool(t, httptask.Options{}), httptask.Endpoint{}); err == nil {
		t.Error("an endpoint without a URL is none")
	}
}

// TestLocalhost: a name of this machine is no way around, either.
func TestLocalhost(t *testing.T) {
	_, err := run(t, "http://localhost:1/", func(e *httptask.Endpoint) { e.Guard = httptask.Guard{} })
	if kind(err) != "permanent" || !strings.Contains(err.Error(), "is a loopback address") {
		t.Errorf("localhost: %v", err)
	}
}

func TestParseMethod(t *testing.T) {
	for text, want := range map[string]string{"POST": "POST", "put": "PUT", "Patch": "PATCH", "GET": "", "DELETE": "", "": "", "POST\t": "", "CONNECT": ""} {
		got, err := httptask.ParseMethod(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseMethod(%q) = %q, %v", text, got, err)
		}
	}
}

func TestParseHeader(t *testing.T) {
	for _, name := range []string{"Authorization", "x-api-key", "User-Agent", "content-type", "X_1"} {
		if _, err := httptask.ParseHeader(name, "value"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"Host": "belongs to the connection", "content-length": "belongs to", "Transfer-Encoding": "belongs to", "connection": "belongs to",
		"Accept-Encoding": "belongs to", "proxy-authorization": "belongs to", "TE": "belongs to", "Expect": "belongs to",
		"stem-signature": "Stem sets it", "Stem-Other": "Stem sets it", "idempotency-key": "Stem sets it",
		"": "want a header's name", "a b": "want a header's name", "a:": "want a header's name", "é": "want a header's name", "a\r\nb": "want a header's name",
	} {
		if _, err := httptask.ParseHeader(name, "value"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	for _, value := range []string{"secret\r\nx: y", "secret\x00", "secret\x7f"} {
		if _, err := httptask.ParseHeader("a", value); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("value %q: %v", value, err)
		}
	}
}

// TestParseSecret: a secret in place of where it is is not shown.
func TestParseSecret(t *testing.T) {
	for _, text := range []string{"@/run/secrets/notify", "@relative", "NOTIFY_SECRET", "_A1"} {
		if _, err := httptask.ParseSecret(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "@", "s3cr3t", "whsec_abc", "1ABC", "ABC DEF", "ABC=", "STEM_SIGNING_KEYS"} {
		_, err := httptask.ParseSecret(text)
		if err == nil || text != "" && text != "@" && !strings.HasPrefix(text, "STEM") && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
