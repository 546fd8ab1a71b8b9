package httptask_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stemjobs/stem/internal/httptask"
)

// names is a name server that says what the test wants.
type names struct {
	conn   net.PacketConn
	mu     sync.Mutex
	answer []netip.Addr
}

func newNames(t *testing.T, answer ...netip.Addr) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, answer: answer}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return n
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *names) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = n.conn.WriteTo(n.reply(buf[:size]), from)
	}
}

// reply answers a question for IPv4 addresses, and has none of the other kind.
func (n *names) reply(query []byte) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root, the type, the class
	var addrs []netip.Addr
	if binary.BigEndian.Uint16(query[end-4:]) == 1 {
		addrs = n.say()
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, byte(len(addrs)), 0, 0, 0, 0}, query[12:end]...)
	for _, a := range addrs {
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, a.AsSlice()...)
	}
	return reply
}

// say changes the answer, or returns it when there is no other.
func (n *names) say(answer ...netip.Addr) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(answer) > 0 {
		n.answer = answer
	}
	return n.answer
}

// named is a server with a made-up name, and the URL by that name.
func named(t *testing.T, h http.HandlerFunc) (s *httptest.Server, url string) {
	t.Helper()
	s = serve(t, h)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return s, "http://hooks.example.org:" + port + "/"
}

var (
	good = netip.MustParseAddr("127.0.0.1")
	bad  = netip.MustParseAddr("127.0.0.2") // is not allowed in these tests
)

func fine(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"fine"`) }

// TestRebinding: a name that changes its mind is judged by each answer, at the
// moment of dialling, and not by one that was looked up before.
func TestRebinding(t *testing.T) {
	_, url := named(t, fine)
	n := newNames(t)
	pool := newPool(t, httptask.Options{Resolver: n.resolver()})
	x, err := httptask.New(pool, endpoint(t, url))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"success", "permanent", "success"} {
		n.say([]netip.Addr{good, bad, good}[i])
		_, err := x.Run(t.Context(), call)
		if kind(err) != want {
			t.Errorf("call %d: %v, want %s", i, err, want)
		}
		var refused *httptask.RefusedError
		if want == "permanent" && (!errors.As(err, &refused) || refused.Addr != bad || !strings.HasPrefix(err.Error(), "POST http://hooks.example.org:")) {
			t.Errorf("call %d: %v", i, err)
		}
		pool.Close() // the next one dials
	}
}

// TestNamesOfTheInside: a name is no way around the guard.
func TestNamesOfTheInside(t *testing.T) {
	for _, text := range []string{"10.0.0.5", "169.254.169.254", "0.0.0.0", "192.168.1.1", "100.100.100.200", "127.0.0.2"} {
		n := newNames(t, netip.MustParseAddr(text))
		x, err := httptask.New(newPool(t, httptask.Options{Resolver: n.resolver()}), endpoint(t, "http://hooks.example.org/"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Run(t.Context(), call); kind(err) != "permanent" || !strings.Contains(err.Error(), text+" is a") {
			t.Errorf("%s: %v", text, err)
		}
	}
	// Of several addresses those that are allowed serve.
	_, url := named(t, fine)
	n := newNames(t, bad, good)
	x, err := httptask.New(newPool(t, httptask.Options{Resolver: n.resolver()}), endpoint(t, url))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := x.Run(t.Context(), call); err != nil || string(got) != `"fine"` {
		t.Errorf("one good address of two: %s, %v", got, err)
	}
}

// TestGuardKeepsConnectionsApart: a task does not travel on a connection that
// it could not have made. Tasks of one guard share theirs.
func TestGuardKeepsConnectionsApart(t *testing.T) {
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(fine))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	url := "http://hooks.example.org:" + port + "/"
	n := newNames(t, good)
	pool := newPool(t, httptask.Options{Resolver: n.resolver()})
	task := func(g httptask.Guard) *httptask.Task {
		x, err := httptask.New(pool, endpoint(t, url, func(e *httptask.Endpoint) { e.Guard = g }))
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, x := range []*httptask.Task{task(here), task(here), task(here)} {
		if _, err := x.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	if c := connections.Load(); c != 1 {
		t.Errorf("tasks of one guard took %d connections", c)
	}
	if _, err := task(httptask.Guard{}).Run(t.Context(), call); kind(err) != "permanent" {
		t.Errorf("a task that may not reach it: %v", err)
	}
	if _, err := task(httptask.Guard{Private: true}).Run(t.Context(), call); err != nil {
		t.Errorf("a task that may reach private addresses: %v", err)
	}
	if c := connections.Load(); c != 2 {
		t.Errorf("there were %d connections, want one a guard", c)
	}
}

// TestNoProxy: a proxy of the environment would dial where the guard does not
// look.
func TestNoProxy(t *testing.T) {
	proxy := serve(t, func(_ http.ResponseWriter, _ *http.Request) { t.Error("the proxy was asked") })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	_, url := named(t, fine)
	x, err := httptask.New(newPool(t, httptask.Options{Resolver: newNames(t, good).resolver()}), endpoint(t, url))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Run(t.Context(), call); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	start := func(change func(*httptest.Server)) (*httptest.Server, *x509.CertPool) {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Proto)
		}))
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.TLS = &tls.Config{}
		change(s)
		s.StartTLS()
		t.Cleanup(s.Close)
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		return s, roots
	}
	try := func(s *httptest.Server, roots *x509.CertPool) (string, error) {
		x, err := httptask.New(newPool(t, httptask.Options{Roots: roots}), endpoint(t, s.URL))
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Run(t.Context(), call)
		return string(got), err
	}
	s, roots := start(func(*httptest.Server) {})
	if got, err := try(s, roots); got != `"HTTP/1.1"` {
		t.Errorf("HTTP/1.1: %s, %v", got, err)
	}
	if _, err := try(s, nil); kind(err) != "retry" || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("of an unknown authority: %v", err)
	}
	s, roots = start(func(s *httptest.Server) { s.EnableHTTP2 = true })
	if got, err := try(s, roots); got != `"HTTP/2.0"` {
		t.Errorf("HTTP/2: %s, %v", got, err)
	}
	s, roots = start(func(s *httptest.Server) { s.TLS.MaxVersion = tls.VersionTLS11 })
	if _, err := try(s, roots); kind(err) != "retry" || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: %v", err)
	}
	s, roots = start(func(s *httptest.Server) {
		s.Config.Handler = http.RedirectHandler("http://"+s.Listener.Addr().String(), http.StatusTemporaryRedirect)
	})
	if _, err := try(s, roots); kind(err) != "permanent" || !strings.Contains(err.Error(), "redirected from https to http") {
		t.Errorf("to a place without TLS: %v", err)
	}
}

// TestBrokenServers: what speaks no HTTP, or far too much, is an error.
func TestBrokenServers(t *testing.T) {
	endless := func(piece string) func(net.Conn) {
		return func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, piece); err != nil {
					return
				}
			}
		}
	}
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, text) }
	}
	for name, c := range map[string]struct {
		say  func(net.Conn)
		want string
	}{
		"hangs up":                 {func(net.Conn) {}, "retry"},
		"no HTTP":                  {say("220 mail.example.org ESMTP\r\n"), "retry"},
		"endless line":             {endless("x"), "retry"},
		"endless headers":          {func(c net.Conn) { say("HTTP/1.1 200 OK\r\n")(c); endless("X-A: aaaaaaaaaaaaaaaa\r\n")(c) }, "retry"},
		"endless header":           {func(c net.Conn) { say("HTTP/1.1 200 OK\r\nX-A: ")(c); endless("aaaaaaaaaaaaaaaaaaaa")(c) }, "retry"},
		"endless hints":            {endless("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), "retry"},
		"another protocol":         {say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), "permanent"},
		"cut short":                {say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"), "retry"},
		"cut in a chunk":           {say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345"), "retry"},
		"two lengths":              {say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12"), "retry"},
		"no length":                {say("HTTP/1.1 200 OK\r\n\r\n12"), "success"},
		"without a status":         {say("HTTP/1.1 abc OK\r\n\r\n"), "retry"},
		"a failure that is cut":    {say("HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n12345"), "permanent"},
		"a redirect with a flood":  {func(c net.Conn) { say("HTTP/1.1 307 X\r\nLocation: ftp://x\r\n\r\n")(c); endless("x")(c) }, "permanent"},
		"a failure with a flood":   {func(c net.Conn) { say("HTTP/1.1 400 X\r\n\r\n")(c); endless("x")(c) }, "permanent"},
		"a length beyond a number": {say("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n12"), "retry"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer conn.Close()
					if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						_, _ = io.Copy(io.Discard, r.Body)
						c.say(conn)
					}
				})
			}
		})
		_, err = run(t, "http://"+l.Addr().String())
		if kind(err) != c.want {
			t.Errorf("%s: %.300v, want %s", name, err, c.want)
		}
		_ = l.Close()
		wg.Wait()
	}
}
