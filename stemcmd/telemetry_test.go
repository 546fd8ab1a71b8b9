package stemcmd_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// otlp is a receiver of OTLP over HTTP.
type otlp struct {
	url string

	mu    sync.Mutex
	spans map[string]string // "TRACE NAME" to the service that sent it
	seen  map[string]string // metric to the service that sent it last
	ids   map[string]string // service.instance.id to the service.name and host.name with it
}

func newOTLP(t *testing.T) *otlp {
	o := &otlp{spans: map[string]string{}, seen: map[string]string{}, ids: map[string]string{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := o.receive(r); err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func (o *otlp) receive(r *http.Request) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.URL.Path == "/v1/metrics" {
		x := &metrics.MetricsData{}
		if err := proto.Unmarshal(raw, x); err != nil {
			return err
		}
		for _, of := range x.ResourceMetrics {
			service := o.about(of.Resource)
			for _, s := range of.ScopeMetrics {
				for _, m := range s.Metrics {
					o.seen[m.Name] = service
				}
			}
		}
		return nil
	}
	x := &traces.TracesData{}
	if err := proto.Unmarshal(raw, x); err != nil {
		return err
	}
	for _, of := range x.ResourceSpans {
		service := o.about(of.Resource)
		for _, s := range of.ScopeSpans {
			for _, span := range s.Spans {
				o.spans[fmt.Sprintf("%x %s", span.TraceId, span.Name)] = service
			}
		}
	}
	return nil
}

// about notes which process sent something, and returns its service.
func (o *otlp) about(r *resource.Resource) string {
	of := map[string]string{}
	for _, a := range r.Attributes {
		of[a.Key] = a.Value.GetStringValue()
	}
	o.ids[of["service.instance.id"]] = of["service.name"] + " on " + of["host.name"]
	return of["service.name"]
}

// TestATraceThroughTheProcesses enqueues at one process and executes in another.
func TestATraceThroughTheProcesses(t *testing.T) {
	t.Parallel()
	o, dir := newOTLP(t), t.TempDir()
	env := func(service string) []string {
		return []string{
			"STEM_BROKER_URL=sqlite:" + filepath.Join(dir, "stem.db"), "STEM_OTLP_ENDPOINT=" + o.url,
			"STEM_METRIC_EXPORTERS=otlp,prometheus", "OTEL_SERVICE_NAME=" + service,
		}
	}
	api := here(t, shop(), env("api"), "serve", "--addr", "127.0.0.1:0")
	worker := here(t, shop(), env("worker"), "worker", "run", "--http", "127.0.0.1:0", "--pprof")
	admin := worker.url("serving /metrics, /healthz and /readyz")
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	url := api.url("serving the API")
	api.must(http.StatusCreated, "POST", url+"/v1/tasks", `{"id":"t1","name":"shop.echo","args":1}`, "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	api.must(http.StatusOK, "GET", url+"/v1/tasks/t1/wait", "")
	api.must(http.StatusCreated, "POST", url+"/v1/tasks", `{"id":"t2","name":"shop.echo","in":"1h"}`)
	worker.log.find(t, `"trace_id":"`+trace+`"`)
	const typed = "11111111111111111111111111111111"
	here(t, shop(), env("hand"), "enqueue", "shop.echo", "--args", "1", "--header", "traceparent=00-"+typed+"-00f067aa0ba902b7-01", "--wait").ends(0)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/pprof/goroutine"} {
		worker.must(http.StatusOK, "GET", admin+path, "")
	}
	if page := worker.must(http.StatusOK, "GET", admin+"/metrics", ""); strings.Contains(page, "stem_worker_heartbeat_age") || strings.Contains(page, "stem_queue_depth") {
		t.Error("a worker serves gauges of the whole store")
	}
	for _, s := range []*service{api, worker} {
		s.http.CloseIdleConnections()
		s.signal(syscall.SIGTERM)
		s.ends(0)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for span, service := range map[string]string{
		trace + " stem.enqueue": "api", trace + " stem.consume": "worker", trace + " stem.execute": "worker",
		typed + " stem.enqueue": "hand", typed + " stem.consume": "worker", typed + " stem.execute": "worker",
	} {
		if got := o.spans[span]; got != service {
			t.Errorf("the span %s came from %q, want %q: %v", span, got, service, o.spans)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	senders := slices.Sorted(maps.Values(o.ids)) // by different ids, or their counts would be taken for one another's
	if want := []string{"api on " + host, "hand on " + host, "worker on " + host}; !slices.Equal(senders, want) {
		t.Errorf("sent by %q, want %q", senders, want)
	}
	for _, metric := range []string{"stem.tasks.enqueued", "stem.tasks.succeeded", "stem.queue.delayed", "stem.worker.heartbeat_age"} {
		if o.seen[metric] == "" {
			t.Errorf("%s did not arrive", metric)
		}
	}
}

// TestServicesTellTheirSupervisor has a socket as systemd has it.
func TestServicesTellTheirSupervisor(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // it has no such sockets
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "sd") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for i, args := range [][]string{{"worker", "run"}, {"beat", "run"}, {"serve", "--addr", "127.0.0.1:0"}, {"dev", "--addr", "127.0.0.1:0"}} {
		path := filepath.Join(dir, fmt.Sprint(i))
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s := here(t, shop(), []string{
			"STEM_BROKER_URL=sqlite:" + filepath.Join(dir, fmt.Sprint(i, ".db")), "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=100000",
		}, args...)
		await := func(want string) {
			t.Helper()
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 512)
			for {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatalf("%v never said %s: %v\n%s", args, want, err, s.log)
				}
				if strings.HasPrefix(string(buf[:n]), want) {
					return
				}
			}
		}
		await("READY=1")
		await("WATCHDOG=1")
		s.signal(syscall.SIGTERM)
		await("STOPPING=1")
		s.ends(0)
	}
}
