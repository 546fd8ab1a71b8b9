package httpapi_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/httpapi"
)

const secret = "0123456789abcdef-"

func allTokens(t *testing.T) []httpapi.Token {
	t.Helper()
	text := "# rotated every month\n"
	for _, role := range httpapi.Roles() {
		text += fmt.Sprintf("%s:%s:%s%s\n", role, role, secret, role)
	}
	text += fmt.Sprintf("hashed:read+work:sha256:%x, old:read:%sold\n", sha256.Sum256([]byte(secret+"hashed")), secret)
	tokens, err := httpapi.ParseTokens(text)
	if err != nil || len(tokens) != 6 {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	return tokens
}

// TestEveryRouteWithEveryRole tries the table of routes with every role, and
// with none.
func TestEveryRouteWithEveryRole(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: allTokens(t)})
	paths := 0
	for _, rt := range httpapi.Table() {
		paths++
		path := strings.NewReplacer("{id}", "nobody", "{queue}", "none", "{task}", "none").Replace(rt.Path)
		if rt.Method == "GET" && strings.HasPrefix(path, "/v1/control/") {
			path += "?timeout=1ms" // nobody is there to reply
		}
		try := func(token string) reply {
			r.token = token
			defer func() { r.token = "" }()
			return r.do(rt.Method, path, `{"no":"such field"}`)
		}
		for token, want := range map[string]string{"": "unauthenticated", "wrong": "unauthenticated", secret: "unauthenticated"} {
			if got := try(token); got.problem() != want || got.status != 401 || got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with token %q: %d %s", rt.Method, path, token, got.status, got.body)
			}
		}
		for _, role := range httpapi.Roles() {
			may := rt.Role == "" || rt.Role == role || role == httpapi.Operate
			got := try(secret + string(role))
			if may == (got.status == 403) || got.status == 401 || got.status >= 500 {
				t.Errorf("%s %s wants %q; with %q: %d %s", rt.Method, path, rt.Role, role, got.status, got.body)
			}
			if !may && got.problem() != "forbidden" {
				t.Errorf("%s %s with %q: %s", rt.Method, path, role, got.body)
			}
		}
	}
	if paths < 44 {
		t.Errorf("%d routes in the table", paths)
	}
	for _, token := range []string{"hashed", "old"} {
		r.token = secret + token
		r.must(200, "GET", "/v1/queues", "", nil)
	}
	r.token = ""
	for _, header := range []string{"Basic " + secret + "read", secret + "read", "Bearer", "Bearer " + secret + "read x"} {
		if got := r.do("GET", "/v1/queues", "", "Authorization", header); got.status != 401 {
			t.Errorf("Authorization %q: %d", header, got.status)
		}
	}
	r.must(200, "GET", "/v1/queues", "", nil, "Authorization", "bearer "+secret+"read")
}

func TestParseTokensRefuses(t *testing.T) {
	for _, text := range []string{
		"justatoken", "a:read", "a:read:short", ":read:0123456789abcdef", "a:admin:0123456789abcdef", "a::0123456789abcdef",
		"a:read+:0123456789abcdef", "a:0123456789abcdef:read", "a:read:0123456789abcdef,b:work:0123456789abcdef", "a:read:sha256:abc", "a:read:sha256:" + strings.Repeat("z", 64), "a:read:sha256:" + strings.Repeat("a", 66),
	} {
		tokens, err := httpapi.ParseTokens(text)
		if err == nil || strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("ParseTokens(%q) = %v, %v", text, tokens, err)
		}
	}
	if tokens, err := httpapi.ParseTokens("\n # none\n"); err != nil || tokens != nil {
		t.Errorf("no tokens: %v, %v", tokens, err)
	}
}

// TestTaskExistsTellsNoMoreThanTheRole enqueues under an id that is in use: who
// has it is for those who may look.
func TestTaskExistsTellsNoMoreThanTheRole(t *testing.T) {
	tokens := append(allTokens(t), httpapi.NewToken("both", secret+"both", httpapi.Enqueue, httpapi.Read))
	r := newRig(t, httpapi.Options{Tokens: tokens})
	r.token = secret + "enqueue"
	r.enqueue(`{"name":"a","id":"taken","args":"of another caller"}`)
	for token, shown := range map[string]bool{"enqueue": false, "both": true, "operate": true} {
		r.token = secret + token
		one := r.do("POST", "/v1/tasks", `{"name":"a","id":"taken"}`)
		many := r.must(200, "POST", "/v1/tasks/batch", `{"tasks":[{"name":"a","id":"taken"}]}`, nil)
		if one.problem() != "task-exists" || !strings.Contains(string(one.body), "taken exists and is queued") {
			t.Errorf("%s: %d %s", token, one.status, one.body)
		}
		for _, got := range []reply{one, many} {
			if strings.Contains(string(got.body), "of another caller") != shown {
				t.Errorf("%s: %s", token, got.body)
			}
		}
	}
}

func TestOpenOnLoopbackOnly(t *testing.T) {
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{":8080", "0.0.0.0:8080", "[::]:80", "192.0.2.1:80", "example.com:80"} {
		_, err := httpapi.NewServer(client, httpapi.Options{Addr: addr})
		if err == nil || !strings.Contains(err.Error(), "STEM_API_TOKENS") {
			t.Errorf("%s without tokens: %v", addr, err)
		}
		s, err := httpapi.NewServer(client, httpapi.Options{Addr: addr, Tokens: allTokens(t)})
		if err != nil {
			t.Errorf("%s with tokens: %v", addr, err)
			continue
		}
		s.Close()
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.8.8:0"} {
		s, err := httpapi.NewServer(client, httpapi.Options{Addr: addr})
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		s.Close()
	}
	for _, o := range []httpapi.Options{{Addr: "8080"}, {AllowedHosts: []string{"*"}}, {MaxBody: -1}, {Grace: -1}} {
		if _, err := httpapi.NewServer(client, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	if _, err := httpapi.NewServer(nil, httpapi.Options{}); err == nil {
		t.Error("no client is accepted")
	}

	// A listener of the caller's own, on every address.
	s, err := httpapi.NewServer(client, httpapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), l); err == nil {
		t.Error("it serves every address without tokens")
	}
	// And a handler mounted where it is not told of the connection.
	rec := &recorder{h: http.Header{}}
	req, err := http.NewRequest("GET", "http://localhost/v1/queues", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.ServeHTTP(rec, req); rec.status != 403 {
		t.Errorf("mounted openly: %d", rec.status)
	}
}

type recorder struct {
	h      http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.h }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

func TestHostAndOrigin(t *testing.T) {
	r := newRig(t, httpapi.Options{AllowedHosts: []string{"stem.internal"}})
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:99": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "stem.internal": 200, "stem.internal.:8080": 200,
		"evil.example": 421, "stem.internal.evil.example": 421, "localhost.evil.example:80": 421, "127.0.0.1.evil.example": 421,
	} {
		if got := r.do("GET", "/v1/queues", "", "Host", host); got.status != want {
			t.Errorf("Host %s: %d, want %d: %s", host, got.status, want, got.body)
		}
	}
	for _, h := range [][]string{
		{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"},
	} {
		if got := r.do("POST", "/v1/tasks", `{"name":"a"}`, h...); got.problem() != "cross-origin" {
			t.Errorf("%v: %d %s", h, got.status, got.body)
		}
	}
	got := r.must(201, "POST", "/v1/tasks", `{"name":"a"}`, nil, "Sec-Fetch-Site", "same-origin")
	for key := range got.header {
		if strings.HasPrefix(key, "Access-Control") {
			t.Errorf("an answer has %s", key)
		}
	}
	if got := r.do("OPTIONS", "/v1/tasks", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); got.status < 400 {
		t.Errorf("a preflight gets %d", got.status)
	}
}
