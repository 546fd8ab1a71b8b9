package httpapi_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/httpapi"
)

// FuzzRequests sends any path, query and body to every route: no answer is a
// 5xx, and each that is not a success is a problem.
func FuzzRequests(f *testing.F) {
	for _, body := range []string{
		`{"name":"a","args":[1],"id":"x","priority":1,"in":"1s"}`, `{"tasks":[{"name":"a"}]}`, `{"queues":["a*"],"count":2}`,
		`{"tasks":[{"receipt":"0.0.3~1~~x","outcome":"succeeded","result":{}}]}`, `{"filter":{"ids":["a"]},"dryRun":true}`, `{"confirm":true}`,
		`{"name":"\u0061","onSuccess":[{"name":"b"}],"headers":{"a":"b"},"meta":{"a":null},"at":"2026-01-02T03:04:05Z"}`, `{"a":`, "\xff", `[[[]]]`,
		`{"task":"a","spec":"every:1m"}`, `{"schedules":[{"id":"x","task":"a","spec":"@daily","misfire":{"policy":"all"}}],"prune":true,"confirm":true}`,
	} {
		for i := range httpapi.Table() {
			f.Add(uint8(i), "x", "limit=1&cursor=1~x", []byte(body))
		}
	}
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		f.Fatal(err)
	}
	book, err := beat.NewBook(client, db.Schedules(), db.Locks())
	if err != nil {
		f.Fatal(err)
	}
	server, err := httpapi.NewServer(client, httpapi.Options{Schedules: book})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(server.Close)
	table := httpapi.Table()
	f.Fuzz(func(t *testing.T, n uint8, segment, query string, body []byte) {
		rt := table[int(n)%len(table)]
		if rt.Stream || strings.HasSuffix(rt.Path, "/wait") || bytes.Contains(body, []byte("wait")) {
			return
		}
		req := httptest.NewRequest(rt.Method, "http://localhost/", bytes.NewReader(body))
		req.URL.Path = strings.NewReplacer("{id}", segment, "{queue}", segment).Replace(rt.Path)
		req.URL.RawQuery = query
		req.Header.Set("Content-Type", "application/json")
		req = req.WithContext(withAddr(t))
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, req)
		if rec.Code >= 500 && !strings.Contains(rec.Body.String(), "/problems/busy") {
			t.Errorf("%s %q?%q %q: %d %s", rt.Method, req.URL.Path, query, body, rec.Code, rec.Body)
		}
		if rec.Code >= 300 && rec.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %q: %d %s", rt.Method, req.URL.Path, rec.Code, rec.Body)
		}
	})
}

// withAddr makes the request one that came over loopback.
func withAddr(t *testing.T) context.Context {
	return context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
}
