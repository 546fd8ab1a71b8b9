package httpapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/httpapi"
)

// TestStopUnderLoad stops a server that enqueues as fast as it can while
// others wait: each enqueue that was answered is stored, and each that waits
// gets a proper end.
func TestStopUnderLoad(t *testing.T) {
	r := newRig(t, httpapi.Options{Grace: time.Minute})
	id := r.enqueue(`{"name":"never","queue":"other","id":"never"}`)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var wg sync.WaitGroup
	polls := make(chan int, 100)
	poll := func(method, path, body string) {
		wg.Go(func() {
			req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
			if err != nil {
				return
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				polls <- -1
				return
			}
			resp.Body.Close()
			polls <- resp.StatusCode
		})
	}
	for range 10 {
		poll("GET", "/v1/tasks/"+id+"/wait?timeout=60s", "")
		poll("POST", "/v1/lease", `{"queues":["empty"],"wait":"30s"}`)
	}
	_, stream := r.events(t.Context(), id, "")
	<-stream
	var stored atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				resp, err := client.Post(r.url+"/v1/tasks", "application/json", strings.NewReader(`{"name":"a"}`))
				if err != nil {
					return
				}
				resp.Body.Close()
				if resp.StatusCode == http.StatusCreated {
					stored.Add(1)
				}
			}
		})
	}
	eventually(t, "there is load", func() bool { return stored.Load() > 50 })
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(began); took > 50*time.Second {
		t.Errorf("it used the grace up: %s", took)
	}
	if r.server.Ready() {
		t.Error("a stopped server is ready")
	}
	for range stream {
	}
	wg.Wait()
	close(polls)
	for status := range polls {
		if status != 200 && status != 202 && status != 503 {
			t.Errorf("one that waited got %d", status)
		}
	}
	q, err := r.client.Queues(context.Background(), "default")
	if err != nil || int64(q[0].Ready) < stored.Load() {
		t.Errorf("%d enqueues were answered, %d are stored: %v", stored.Load(), q[0].Ready, err)
	}
}

// TestDelay: a stopping server says that it is not ready, and goes on.
func TestDelay(t *testing.T) {
	delay := 300 * time.Millisecond
	for !delayed(t, delay) { // a slow machine asked too late
		if delay *= 2; delay > time.Minute {
			t.Fatal("a stopping server does not go on")
		}
	}
}

// delayed stops a server that has a delay, and reports whether it still took a task.
func delayed(t *testing.T, delay time.Duration) bool {
	r := newRig(t, httpapi.Options{Delay: delay})
	if !r.server.Ready() {
		t.Error("not ready at first")
	}
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "not ready", func() bool { return !r.server.Ready() })
	resp, err := r.http.Post(r.url+"/v1/tasks", "application/json", strings.NewReader(`{"name":"a"}`))
	if err == nil {
		resp.Body.Close()
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return err == nil && resp.StatusCode == http.StatusCreated
}

// TestGrace: what does not end is broken off.
func TestGrace(t *testing.T) {
	db := memory.New()
	defer db.Close()
	entered, release := make(chan struct{}), make(chan struct{})
	client, err := stem.NewClient(db, stem.ClientOptions{Middleware: []func(stem.EnqueueFunc) stem.EnqueueFunc{
		func(next stem.EnqueueFunc) stem.EnqueueFunc {
			return func(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
				close(entered)
				<-release
				return next(ctx, items)
			}
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.NewServer(client, httpapi.Options{Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		if resp, err := http.Post("http://"+l.Addr().String()+"/v1/tasks", "application/json", strings.NewReader(`{"name":"a"}`)); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	cancel()
	if err := <-ended; !errors.Is(err, httpapi.ErrAbandoned) {
		t.Errorf("Serve: %v", err)
	}
	<-failed
	close(release)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// TestHTTP2Resets opens and drops streams over one TLS connection.
func TestHTTP2Resets(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	config := cert.TLS.Clone()
	roots := cert.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	cert.Close()
	r := newRig(t, httpapi.Options{TLS: &tls.Config{Certificates: config.Certificates}})
	r.url = strings.Replace(r.url, "http://", "https://", 1)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	r.http = &http.Client{Transport: transport}
	id := r.enqueue(`{"name":"a","id":"x"}`)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*time.Millisecond)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v1/tasks/"+id+"/wait", nil)
			if err != nil {
				return
			}
			if resp, err := r.http.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	resp, err := r.http.Get(r.url + "/v1/queues")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("%s %d", resp.Proto, resp.StatusCode)
	}
}
