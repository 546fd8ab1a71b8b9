//go:build unix

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/task"
)

// apisFile lists the APIs' addresses of the moment, for pullers.
const apisFile = "apis"

// apiMain is a process that serves the HTTP API, until it is killed.
func apiMain() error {
	db, client, err := openStores(context.Background(), nil)
	if err != nil {
		return err
	}
	server, err := httpapi.NewServer(client, httpapi.Options{})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return errors.Join(server.Serve(context.Background(), l), db.Close())
}

// pullerMain is a process that takes tasks over HTTP, from whichever API
// answers, until it is killed.
func pullerMain() error {
	var args workerArgs
	if err := json.Unmarshal([]byte(os.Getenv(argsEnv)), &args); err != nil {
		return err
	}
	rec, err := newRecorder(os.Getenv(dirEnv), args.Name)
	if err != nil {
		return err
	}
	p := &puller{dir: os.Getenv(dirEnv), rec: rec, http: &http.Client{Timeout: 10 * time.Second}}
	for {
		ask := httpapi.LeaseRequest{
			Queues: []string{"default"}, Worker: args.Name, Count: args.Concurrency, RequestID: task.NewID(),
			Wait: httpapi.Duration(time.Second), Lease: httpapi.Duration(args.Lease),
		}
		var got httpapi.LeaseAnswer
		p.call("/v1/lease", ask, &got)
		var wg sync.WaitGroup
		for i := range got.Tasks {
			wg.Go(func() { p.execute(&got.Tasks[i]) })
		}
		wg.Wait()
	}
}

type puller struct {
	dir  string
	rec  *recorder
	http *http.Client
}

// execute works one task off and settles it: what an answer was lost of is
// asked again, at another API.
func (p *puller) execute(l *httpapi.Leased) {
	p.rec.write(Event{Kind: Started, ID: l.ID, PID: os.Getpid(), Attempt: l.Attempt})
	var a workArgs
	if err := json.Unmarshal(l.Args, &a); err != nil {
		panic(err)
	}
	time.Sleep(time.Duration(a.Millis) * time.Millisecond)
	p.rec.write(Event{Kind: Ended, ID: l.ID, PID: os.Getpid(), Attempt: l.Attempt})
	var done httpapi.SettleAnswer
	p.call("/v1/settle", httpapi.SettleRequest{Tasks: []httpapi.TaskOutcome{{
		Receipt: l.Receipt, Outcome: "succeeded", Result: json.RawMessage(fmt.Sprint(a.Result)),
	}}}, &done)
	if done.Tasks[0].OK {
		p.rec.write(Event{Kind: Settled, ID: l.ID, PID: os.Getpid(), State: done.Tasks[0].State})
	}
}

// call repeats a request until some API answers it.
func (p *puller) call(path string, body, into any) {
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	for {
		list, err := os.ReadFile(filepath.Join(p.dir, apisFile))
		if err != nil {
			panic(err)
		}
		addrs := strings.Fields(string(list))
		resp, err := p.http.Post("http://"+addrs[rand.IntN(len(addrs))]+path, "application/json", bytes.NewReader(raw))
		if err == nil {
			answer, rerr := io.ReadAll(resp.Body)
			resp.Body.Close()
			if rerr == nil && resp.StatusCode == http.StatusOK && json.Unmarshal(answer, into) == nil {
				return
			}
			if resp.StatusCode < 500 && resp.StatusCode != http.StatusOK {
				panic(fmt.Sprintf("%s: %d %s", path, resp.StatusCode, answer))
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// apis are the API processes of a test.
type apis struct {
	s     *stage
	procs []*process

	mu    sync.Mutex
	addrs []string
}

func startAPIs(s *stage, n int) *apis {
	s.t.Helper()
	a := &apis{s: s, procs: make([]*process, n), addrs: make([]string, n)}
	for i := range n {
		a.start(i)
	}
	return a
}

// start starts the API of that number, and tells the pullers where it is.
func (a *apis) start(i int) {
	a.s.t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		a.s.t.Fatal(err)
	}
	a.procs[i] = startRole(a.s.t, "api", a.s.dir, workerArgs{Name: "api"}, in)
	in.Close()
	addr, err := bufio.NewReader(out).ReadString('\n')
	out.Close()
	if err != nil {
		a.s.t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addrs[i] = strings.TrimSpace(addr)
	path := filepath.Join(a.s.dir, apisFile)
	if err := errors.Join(os.WriteFile(path+".new", []byte(strings.Join(a.addrs, "\n")), 0o600), os.Rename(path+".new", path)); err != nil {
		a.s.t.Fatal(err)
	}
}

// client is a client of one of the APIs.
func (a *apis) client() (*httpapi.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return httpapi.NewClient("http://"+a.addrs[rand.IntN(len(a.addrs))], httpapi.ClientOptions{})
}

// enqueue stores items with ids over HTTP, as often as it takes, and records
// them.
func (a *apis) enqueue(items []stem.Item) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := a.client()
		if err != nil {
			return err
		}
		receipts, err := c.EnqueueMany(a.s.t.Context(), items)
		if err != nil {
			if time.Now().After(deadline) {
				return err
			}
			continue
		}
		for _, r := range receipts {
			var exists *stem.TaskExistsError
			if r.Err != nil && !errors.As(r.Err, &exists) {
				return r.Err
			}
			a.s.rec.write(Event{Kind: Enqueued, ID: r.ID})
			a.s.mu.Lock()
			a.s.ids = append(a.s.ids, r.ID)
			a.s.mu.Unlock()
		}
		return nil
	}
}

// TestKilledPullersAndAPIsLoseNothing enqueues and works off over HTTP, with two
// APIs on one store, and kills pullers and APIs at random.
func TestKilledPullersAndAPIsLoseNothing(t *testing.T) {
	t.Parallel()
	everywhere(t, killPullersAndAPIs)
}

func killPullersAndAPIs(s *stage) {
	t := s.t
	total := scale(600, 10_000)
	servers := startAPIs(s, 2)
	args := workerArgs{Name: "puller", Concurrency: 6, Lease: testLease}
	start := func() *process { return startRole(t, "puller", s.dir, args, nil) }
	pullers := []*process{start(), start(), start()}
	enqueued := make(chan error, 1)
	go func() {
		const batch = 20
		for n := 0; n < total; n += batch {
			var items []stem.Item
			for k := range min(batch, total-n) {
				items = append(items, work.Item(workArgs{Millis: 20 + rand.IntN(100), Result: n + k}, stem.ID(task.NewID())))
			}
			if err := servers.enqueue(items); err != nil {
				enqueued <- err
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		enqueued <- nil
	}()
	kill := func(p *process) {
		p.signal(t, syscall.SIGKILL)
		<-p.done
		s.rec.write(Event{Kind: Killed, PID: p.cmd.Process.Pid})
	}
	stored, kills := false, 0
	for deadline := time.Now().Add(4 * time.Minute); !stored || s.remaining() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d tasks remain after %d kills", s.remaining(), kills)
		}
		time.Sleep(time.Duration(200+rand.IntN(500)) * time.Millisecond)
		if !stored || kills < 8 {
			if i := rand.IntN(len(pullers) + 1); i < len(pullers) {
				kill(pullers[i])
				pullers[i] = start()
			} else {
				i = rand.IntN(len(servers.procs))
				kill(servers.procs[i])
				servers.start(i)
			}
			kills++
			if kills%4 == 0 { // left in peace for once, so that the time until a redelivery shows
				time.Sleep(testLease + time.Second)
			}
		}
		select {
		case err := <-enqueued:
			if err != nil {
				t.Fatal(err)
			}
			stored = true
		default:
		}
	}
	http.DefaultClient.CloseIdleConnections()
	// An API that is killed before it reports the start of what it received leaves
	// it under the broker's own lease, and not that of the puller.
	f := s.judge(broker.DefaultLease + redelivery() - testLease)
	if f.redelivered == 0 {
		t.Error("no redelivery: the test proves nothing")
	}
	t.Logf("%d tasks, %d kills, %d redelivered (%d undisturbed), the slowest %s after its kill", f.tasks, kills, f.redelivered, f.undisturbed, f.slowest)
}
