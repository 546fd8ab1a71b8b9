package stemcmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
	"github.com/stemjobs/stem/store"
)

// TestServe asks an API for all that a deployment relies on: tokens, declared
// tasks, readiness that ends before the service does, and the gauges of the
// whole store.
func TestServe(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	secret := "0123456789abcdef-secret"
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("# of the test\nci:enqueue+read+work:"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := here(t, shop(), []string{"STEM_BROKER_URL=memory:", "STEM_API_TOKENS=@" + file},
		"serve", "--addr", "127.0.0.1:0", "--allow-host", "shop.test", "--http", "127.0.0.1:0", "--drain-delay", "1m")
	defer s.http.CloseIdleConnections()
	api, admin := s.url("serving the API"), s.url("serving /metrics, /healthz and /readyz")
	auth := []string{"Authorization", "Bearer " + secret}

	s.must(http.StatusUnauthorized, "GET", api+"/v1/queues", "")
	s.must(http.StatusCreated, "POST", api+"/v1/tasks", `{"name":"shop.fail","id":"f1","args":"why"}`, auth...)
	s.must(http.StatusForbidden, "POST", api+"/v1/tasks/f1/revoke", `{}`, auth...)
	if got := s.must(http.StatusOK, "GET", api+"/v1/tasks/f1", "", auth...); !strings.Contains(got, `"queue":"failing","priority":7`) {
		t.Errorf("the declaration of shop.fail was not used: %s", got)
	}
	if got := s.must(http.StatusOK, "GET", admin+"/metrics", ""); !strings.Contains(got, `stem_queue_depth{queue="failing"} 1`) {
		t.Errorf("no depth of the queue in the metrics:\n%s", got)
	}
	// What is executed over the API is in the metrics too.
	var leased struct{ Tasks []struct{ Receipt string } }
	answer := s.must(http.StatusOK, "POST", api+"/v1/lease", `{"queues":["failing"]}`, auth...)
	if err := json.Unmarshal([]byte(answer), &leased); err != nil || len(leased.Tasks) != 1 {
		t.Fatalf("leased %s, %v", answer, err)
	}
	s.must(http.StatusOK, "POST", api+"/v1/settle", fmt.Sprintf(`{"tasks":[{"receipt":%q,"outcome":"succeeded"}]}`, leased.Tasks[0].Receipt), auth...)
	if got := s.must(http.StatusOK, "GET", admin+"/metrics", ""); !strings.Contains(got, `stem_tasks_succeeded_total{queue="failing",task="shop.fail"} 1`) {
		t.Errorf("no pulled task in the metrics:\n%s", got)
	}
	s.must(http.StatusOK, "GET", admin+"/readyz", "")
	s.log.find(t, `"path":"/v1/tasks","status":201`)
	if strings.Contains(s.log.String(), secret) {
		t.Error("the log has a token")
	}

	s.signal(syscall.SIGTERM)
	s.log.find(t, "asked to stop")
	eventually := time.Now().Add(time.Minute)
	for status := http.StatusOK; status != http.StatusServiceUnavailable; status, _, _ = s.ask("GET", admin+"/readyz", "") {
		if time.Now().After(eventually) {
			t.Fatal("the API is asked to stop, and says that it is ready")
		}
	}
	s.must(http.StatusOK, "GET", admin+"/healthz", "")
	s.must(http.StatusOK, "GET", api+"/v1/tasks/f1", "", auth...)
	s.http.CloseIdleConnections()
	s.signal(syscall.SIGQUIT)
	s.ends(stemcmd.ExitDone)
}

// TestServeBreaksOff leaves a request open that never ends: a hard stop does
// not wait for it, and says so.
func TestServeBreaksOff(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := here(t, shop(), []string{"STEM_BROKER_URL=memory:"}, "serve", "--addr", "127.0.0.1:0", "--grace", "1m")
	host := strings.TrimPrefix(s.url("serving the API"), "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The server asks for the body when it has read the head, and waits for it.
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", host)
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 100"))); err != nil {
		t.Fatal(err)
	}
	s.signal(os.Interrupt)
	s.signal(os.Interrupt)
	s.ends(stemcmd.ExitPartly)
	if !strings.Contains(s.log.String(), "broke off 1 connection to the API") {
		t.Errorf("the reason is not told:\n%s", s.log)
	}
}

// TestServeTermUnderLoad stops an API while clients enqueue, wait and follow.
// What was acknowledged is stored, and nobody gets anything but an answer or a
// closed connection.
func TestServeTermUnderLoad(t *testing.T) {
	const waiting, streaming, sending, enough = 20, 5, 4, 200
	t.Parallel()
	dir := t.TempDir()
	s := process(t, dir, nil, "shop", "serve", "--broker", "sqlite:stem.db", "--addr", "127.0.0.1:0")
	url := s.url("serving the API")
	s.must(http.StatusCreated, "POST", url+"/v1/tasks", `{"name":"shop.never","id":"never"}`)

	var wg, written, streamed sync.WaitGroup
	written.Add(waiting)
	streamed.Add(streaming)
	for range waiting {
		wg.Go(func() {
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
				WroteRequest: func(httptrace.WroteRequestInfo) { written.Done() },
			})
			status, err := follow(ctx, s, url+"/v1/tasks/never/wait?timeout=60s", nil)
			if err != nil || status != http.StatusAccepted {
				t.Errorf("a wait ended with status %d: %v", status, err)
			}
		})
	}
	for range streaming {
		wg.Go(func() {
			status, err := follow(context.Background(), s, url+"/v1/tasks/never/events", streamed.Done)
			if err != nil || status != http.StatusOK {
				t.Errorf("a stream ended with status %d: %v", status, err)
			}
		})
	}
	written.Wait()
	streamed.Wait()

	var stored sync.Map
	var count atomic.Int64
	reached := make(chan struct{})
	for i := range sending {
		wg.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("t-%d-%d", i, n)
				status, answer, err := s.ask("POST", url+"/v1/tasks", `{"name":"shop.echo","id":"`+id+`"}`)
				switch {
				case err != nil:
					return // the connection was closed
				case status == http.StatusCreated:
					stored.Store(id, true)
				case status != http.StatusServiceUnavailable:
					t.Errorf("POST: status %d: %s", status, answer)
					return
				}
				if count.Add(1) == enough {
					close(reached)
				}
			}
		})
	}
	<-reached
	s.signal(syscall.SIGTERM)
	s.ends(stemcmd.ExitDone)
	wg.Wait()
	client := storeIn(t, dir)
	n := 0
	for id := range stored.Range {
		if _, err := client.Get(t.Context(), id.(string)); err != nil {
			t.Errorf("an acknowledged task: %v", err)
		}
		n++
	}
	t.Logf("%d tasks were acknowledged", n)
}

// follow reads an answer to its end; begun is told of its first byte.
func follow(ctx context.Context, s *service, url string, begun func()) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := s.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if begun != nil {
		_, err = io.ReadFull(response.Body, make([]byte, 1))
		begun()
	}
	_, copied := io.Copy(io.Discard, response.Body)
	return response.StatusCode, errors.Join(err, copied)
}

// TestServeKilledBeforeItsReply kills an API between the commit and the reply.
// The client repeats the request with its key at the next process: there is one
// task.
func TestServeKilledBeforeItsReply(t *testing.T) {
	for name, request := range map[string]struct{ path, body string }{
		"one":   {"/v1/tasks", `{"name":"shop.echo","args":7}`},
		"batch": {"/v1/tasks/batch", `{"tasks":[{"name":"shop.echo","args":1},{"name":"shop.echo","args":2}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "doom"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			key := []string{"Idempotency-Key", "order-1"}
			start := func() (*service, string) {
				s := process(t, dir, nil, "doomed", "serve", "--broker", "sqlite:stem.db", "--addr", "127.0.0.1:0")
				return s, s.url("serving the API")
			}
			s, url := start()
			if status, answer, err := s.ask("POST", url+request.path, request.body, key...); err == nil {
				t.Fatalf("the process was killed, and answered %d: %s", status, answer)
			}
			if code := s.wait(); code != -1 {
				t.Fatalf("exit code %d, want a kill\n%s", code, s.log)
			}
			list, err := storeIn(t, dir).List(t.Context(), store.Query{})
			if err != nil || len(list.Statuses) == 0 {
				t.Fatalf("nothing was committed before the kill: %v", err)
			}

			s, url = start()
			status, answer, err := s.ask("POST", url+request.path, request.body, key...)
			if err != nil || status != http.StatusOK || strings.Contains(answer, `"duplicate":false`) {
				t.Errorf("the repeat: status %d: %v\n%s", status, err, answer)
			}
			for _, task := range list.Statuses {
				if !strings.Contains(answer, task.ID) {
					t.Errorf("the repeat does not name task %s: %s", task.ID, answer)
				}
			}
			var after struct{ Tasks []json.RawMessage }
			if err := json.Unmarshal([]byte(s.must(http.StatusOK, "GET", url+"/v1/tasks", "")), &after); err != nil || len(after.Tasks) != len(list.Statuses) {
				t.Errorf("%d tasks after the repeat, want %d (%v)", len(after.Tasks), len(list.Statuses), err)
			}
			s.signal(syscall.SIGTERM)
			s.ends(stemcmd.ExitDone)
		})
	}
}

// doomed is shop, whose process is killed after the next enqueue is stored if
// there is a file named doom, which is removed.
func doomed() stemcmd.App {
	app := shop()
	app.Client.Middleware = []func(stem.EnqueueFunc) stem.EnqueueFunc{func(next stem.EnqueueFunc) stem.EnqueueFunc {
		return func(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
			receipts, err := next(ctx, items)
			if os.Remove("doom") == nil {
				self, findErr := os.FindProcess(os.Getpid())
				if findErr == nil && self.Kill() == nil {
					select {} // the kill comes
				}
			}
			return receipts, err
		}
	}}
	return app
}
