package httptask_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/internal/httptask"
)

// trail is a server that remembers what it saw. /end ends a way, and any other
// path leads where next says.
type trail struct {
	*httptest.Server
	mu   sync.Mutex
	next map[string]string // path to Location
	code int
	seen []string
}

func newTrail(t *testing.T, code int, next map[string]string) *trail {
	t.Helper()
	x := &trail{next: next, code: code}
	x.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		trusted := ""
		if r.Header.Get("Stem-Signature") != "" {
			trusted = " signed"
		}
		if r.Header.Get("X-Key") != "" {
			trusted += " key"
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.seen = append(x.seen, fmt.Sprintf("%s %s %s%s", r.Method, r.RequestURI, body, trusted))
		if to, ok := x.next[r.URL.Path]; ok {
			w.Header().Set("Location", to)
			w.WriteHeader(x.code)
		}
		_, _ = io.WriteString(w, `"here"`)
	})
	return x
}

func (x *trail) lead(path, to string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.next[path] = to
}

// take returns what was seen since the last call.
func (x *trail) take() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer func() { x.seen = nil }()
	return x.seen
}

// credentials makes an endpoint send a signature and a header.
func credentials(t *testing.T) func(*httptask.Endpoint) {
	t.Helper()
	t.Setenv("HTTPTASK_SECRET", "secret")
	return func(e *httptask.Endpoint) {
		e.Secrets = []httptask.Value{httptask.InVariable("HTTPTASK_SECRET")}
		e.Headers = []httptask.Header{{Name: "X-Key", Value: httptask.Text("key")}}
	}
}

// TestRedirects: the method and the arguments go on with 307 and 308 only.
func TestRedirects(t *testing.T) {
	for code, then := range map[int]string{
		301: "GET /end?q=1  signed key", 302: "GET /end?q=1  signed key", 303: "GET /end?q=1  signed key",
		307: `POST /end?q=1 {"n":1} signed key`, 308: `POST /end?q=1 {"n":1} signed key`,
	} {
		x := newTrail(t, code, map[string]string{"/a/b": "../c", "/c": "/end?q=1#fragment"})
		got, err := run(t, x.URL+"/a/b", credentials(t))
		if err != nil || string(got) != `"here"` {
			t.Errorf("%d: %s, %v", code, got, err)
		}
		want := []string{`POST /a/b {"n":1} signed key`, strings.Replace(then, "/end?q=1", "/c", 1), then}
		if diff := cmp.Diff(want, x.take()); diff != "" {
			t.Errorf("%d (-want +got):\n%s", code, diff)
		}
	}
}

func TestManyRedirects(t *testing.T) {
	x := newTrail(t, 307, map[string]string{"/1": "/2", "/2": "/3", "/3": "/4", "/4": "/5", "/5": "/end", "/0": "/1", "/loop": "/loop"})
	if _, err := run(t, x.URL+"/1"); err != nil || len(x.take()) != 6 {
		t.Errorf("five: %v", err)
	}
	for _, path := range []string{"/0", "/loop"} {
		_, err := run(t, x.URL+path)
		if n := len(x.take()); kind(err) != "permanent" || !strings.HasSuffix(err.Error(), "more than 5 redirects") || n != 6 {
			t.Errorf("%s: %d calls, %v", path, n, err)
		}
	}
}

// TestRedirectToAnotherHost: the signature and the task's headers do not go
// there, nor anywhere after it.
func TestRedirectToAnotherHost(t *testing.T) {
	home, away := newTrail(t, 307, map[string]string{}), newTrail(t, 307, map[string]string{})
	home.lead("/start", away.URL+"/back")
	away.lead("/back", home.URL+"/end")
	if _, err := run(t, home.URL+"/start", credentials(t)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`POST /start {"n":1} signed key`, `POST /end {"n":1}`}, home.take()); diff != "" {
		t.Errorf("at home (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`POST /back {"n":1}`}, away.take()); diff != "" {
		t.Errorf("away (-want +got):\n%s", diff)
	}
}

// TestRedirectsThatAreNotFollowed: each is final, and its URL not shown.
func TestRedirectsThatAreNotFollowed(t *testing.T) {
	for location, want := range map[string]string{
		"ftp://127.0.0.1/secret":          "want an http:// or https:// URL",
		"file:///secret":                  "want an http:// or https:// URL",
		"javascript:secret":               "want an http:// or https:// URL",
		"http:secret":                     "want an http:// or https:// URL",
		"http:///secret":                  "it names no host",
		"http://:80/secret":               "it names no host",
		"http://user:secret@127.0.0.1/":   "user name and password",
		"http://secret@127.0.0.1/":        "user name and password",
		"http://127.0.0.1:99999/secret":   "its port is none",
		"http://127.0.0.1:0/secret":       "its port is none",
		"http://secret:secret/":           "redirected to what is no URL",
		"http://[::1/secret":              "redirected to what is no URL",
		"/%zz/secret":                     "redirected to what is no URL",
		"/" + strings.Repeat("s", 5<<10):  "redirected to what is no URL",
		"http://127.0.0.2/secret":         "127.0.0.2 is a loopback address",
		"http://127.0.0.2:8080/secret":    "127.0.0.2 is a loopback address",
		"//127.0.0.2/secret":              "127.0.0.2 is a loopback address",
		"https://127.0.0.2/secret":        "127.0.0.2 is a loopback address",
		"http://[::1]/secret":             "::1 is a loopback address",
		"http://[::ffff:7f00:2]/secret":   "is a loopback address",
		"http://[64:ff9b::a00:1]/secret":  "is a private address",
		"http://10.0.0.1/secret":          "10.0.0.1 is a private address",
		"http://169.254.169.254/secret":   "169.254.169.254 is a cloud's metadata address",
		"http://[fe80::1]/secret":         "fe80::1 is a link-local address",
		"http://[fd00:ec2::254]/secret":   "fd00:ec2::254 is a cloud's metadata address",
		"http://100.100.100.200/secret":   "100.100.100.200 is a cloud's metadata address",
		"http://0.0.0.0/secret":           "0.0.0.0 is an unspecified address",
		"http://[::]/secret":              "an unspecified address",
		"http://224.0.0.1/secret":         "224.0.0.1 is a multicast address",
		"http://[ff02::1]/secret":         "ff02::1 is a multicast address",
		"http://255.255.255.255/secret":   "255.255.255.255 is a reserved address",
		"http://[2001:db8::1]:443/secret": "2001:db8::1 is an address for documentation",
	} {
		x := newTrail(t, 307, map[string]string{"/": location})
		_, err := run(t, x.URL+"/", credentials(t))
		if kind(err) != "permanent" || !strings.Contains(err.Error(), want) || strings.Contains(strings.TrimPrefix(err.Error(), "POST http://secret"), "secret") {
			t.Errorf("%.60s: %v, want it to say %q", location, err, want)
		}
		var refused *httptask.RefusedError
		if strings.Contains(want, "address") && !errors.As(err, &refused) {
			t.Errorf("%s: %v is no RefusedError", location, err)
		}
	}
}
