package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/observe/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server on a free port until the test ends, and returns its URL.
func start(t *testing.T, s *admin.Server) string {
	t.Helper()
	s.Addr = "127.0.0.1:0"
	addr, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return "http://" + addr.String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHealth(t *testing.T) {
	bad := func(text string) func() error { return func() error { return errors.New(text) } }
	good := func() error { return nil }
	tests := map[string]struct {
		server admin.Server
		path   string
		status int
		body   string
	}{
		"alive without a check":           {admin.Server{}, "/healthz", 200, "alive\n"},
		"ready without a check":           {admin.Server{}, "/readyz", 200, "ready\n"},
		"alive":                           {admin.Server{Live: good, Ready: bad("draining")}, "/healthz", 200, "alive\n"},
		"dead":                            {admin.Server{Live: bad("the fetch loop ended"), Ready: good}, "/healthz", 503, "not alive: the fetch loop ended\n"},
		"ready":                           {admin.Server{Ready: good}, "/readyz", 200, "ready\n"},
		"not ready":                       {admin.Server{Ready: bad("nothing received in 30s")}, "/readyz", 503, "not ready: nothing received in 30s\n"},
		"no metrics":                      {admin.Server{}, "/metrics", 404, "404 page not found\n"},
		"no profiles unless asked for":    {admin.Server{}, "/debug/pprof/heap", 404, "404 page not found\n"},
		"no such profile":                 {admin.Server{Pprof: true}, "/debug/pprof/nothing", 404, "no such profile: /debug/pprof/ lists them\n"},
		"a profile of no reasonable time": {admin.Server{Pprof: true}, "/debug/pprof/profile?seconds=-1", 400, "seconds=\"-1\": want a number up to 60\n"},
		"a profile of no time":            {admin.Server{Pprof: true}, "/debug/pprof/profile?seconds=NaN", 400, "seconds=\"NaN\": want a number up to 60\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, body := get(t, start(t, &tt.server)+tt.path)
			if status != tt.status || body != tt.body {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.body)
			}
		})
	}
}

func TestMetricsAreServed(t *testing.T) {
	url := start(t, &admin.Server{Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "stem_x 1\n")
	})})
	if status, body := get(t, url+"/metrics"); status != 200 || body != "stem_x 1\n" {
		t.Errorf("got %d %q", status, body)
	}
	resp, err := http.Post(url+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d, want 405", resp.StatusCode)
	}
}

func TestProfiles(t *testing.T) {
	url := start(t, &admin.Server{Pprof: true})
	if _, body := get(t, url+"/debug/pprof/"); !strings.Contains(body, "goroutine") {
		t.Errorf("the list has no goroutines: %q", body)
	}
	if _, body := get(t, url+"/debug/pprof/goroutine?debug=1"); !strings.HasPrefix(body, "goroutine profile: total") {
		t.Errorf("goroutines as text: %.100q", body)
	}
	for _, path := range []string{"heap", "profile?seconds=0.01", "trace?seconds=0.01"} {
		if status, body := get(t, url+"/debug/pprof/"+path); status != 200 || body == "" {
			t.Errorf("%s: got %d with %d bytes", path, status, len(body))
		}
	}
}

func TestAnAddressInUseIsSaidAtStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := admin.Server{Addr: l.Addr().String()}
	err = s.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listen on "+s.Addr) {
		t.Errorf("got %v, want an error that names the address", err)
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	for _, addr := range []string{"9090", "localhost:http:1", "127.0.0.1:99999"} {
		if _, err := (&admin.Server{Addr: addr}).Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "want HOST:PORT") {
			t.Errorf("%q: got %v", addr, err)
		}
	}
	elsewhere := admin.Server{Addr: "192.0.2.1:9090"} // an address of no machine
	if _, err := elsewhere.Listen(t.Context()); err == nil || strings.Contains(err.Error(), "want HOST:PORT") {
		t.Errorf("an address of another machine: got %v, which is well formed", err)
	}
}

func TestStoppingEndsALongProfile(t *testing.T) {
	s := admin.Server{Addr: "127.0.0.1:0", Pprof: true}
	addr, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()

	started := make(chan struct{})
	client := make(chan struct{})
	go func() {
		defer close(client)
		resp, err := http.Get("http://" + addr.String() + "/debug/pprof/trace?seconds=50")
		close(started)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	<-started // the trace's first bytes have come
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the server still runs")
	}
	<-client
	http.DefaultClient.CloseIdleConnections()
}
