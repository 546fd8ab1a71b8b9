//go:build unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
)

const testLease = 2 * time.Second

// redelivery is how long it may take until what a kill interrupted starts again.
// The short form shares a machine with other tests, whose load it must bear: only
// the full one holds the bound that is promised.
func redelivery() time.Duration {
	if full() {
		return testLease + time.Second
	}
	return testLease + 30*time.Second
}

// stage is a test's stores with a client, and the test's own events.
type stage struct {
	t      *testing.T
	dir    string
	db     *connect.Backend
	client *stem.Client
	rec    *recorder

	mu  sync.Mutex
	ids []string
}

func newStage(t *testing.T, dir string, where place) *stage {
	t.Helper()
	where.write(t, dir)
	s := &stage{t: t, dir: dir}
	var err error
	if s.db, s.client, err = where.urls.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if s.rec, err = newRecorder(dir, "test"); err != nil {
		t.Fatal(err)
	}
	return s
}

// enqueue stores items and records those that the store acknowledged.
func (s *stage) enqueue(items ...stem.Item) error {
	receipts, err := s.client.EnqueueMany(s.t.Context(), items)
	if err != nil {
		return err
	}
	for _, r := range receipts {
		if r.Err != nil {
			return r.Err
		}
		s.rec.write(Event{Kind: Enqueued, ID: r.ID})
		s.mu.Lock()
		s.ids = append(s.ids, r.ID)
		s.mu.Unlock()
	}
	return nil
}

// remaining is how many tasks have no outcome.
func (s *stage) remaining() int {
	s.t.Helper()
	queues, err := s.client.Queues(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for _, q := range queues {
		n += q.Ready + q.Delayed + q.Leased
	}
	return n
}

// await polls until the condition holds.
func (s *stage) await(what string, within time.Duration, holds func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			s.t.Fatalf("after %s: not yet: %s; %d tasks remain", within, what, s.remaining())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// judge reads the final statuses, checks the history, and the store.
func (s *stage) judge(bound time.Duration) findings {
	s.t.Helper()
	for _, id := range s.ids {
		status, err := s.client.Get(s.t.Context(), id)
		if err != nil {
			s.t.Errorf("read %s: %v", id, err)
			continue
		}
		s.rec.write(Event{Kind: Read, ID: id, State: string(status.State), Attempt: status.Attempt})
	}
	events, err := readHistory(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	f := checkHistory(events, bound)
	for _, fault := range f.faults {
		s.t.Error(fault)
	}
	if len(f.faults) > 0 { // what became of the slowest, and the kills, to see why
		for _, e := range events {
			if e.ID == f.slowestID || e.Kind == Killed {
				s.t.Logf("%s %s pid %d %s %s", e.At.Format("05.000"), e.Kind, e.PID, e.State, e.Note)
			}
		}
	}
	if f.tasks < len(s.ids) {
		s.t.Errorf("the history has %d tasks, %d were enqueued", f.tasks, len(s.ids))
	}
	if f.settled < len(s.ids)/2 { // a killed worker takes a few with it that were stored
		s.t.Errorf("workers told of %d outcomes of %d tasks: the history is not what happened", f.settled, len(s.ids))
	}
	if err := checkStores(s.t.Context(), s.db); err != nil {
		s.t.Errorf("the store's own check: %v", err)
	}
	return f
}

// TestKilledWorkersLoseNothing kills random workers every 0.2–1 s under load,
// with a pause after each third.
func TestKilledWorkersLoseNothing(t *testing.T) {
	t.Parallel()
	everywhere(t, killWorkers)
}

func killWorkers(s *stage) {
	t := s.t
	total, batch, longest := scale(1_500, 100_000), scale(25, 100), scale(100, 20)
	args := workerArgs{Name: "victim", Concurrency: scale(8, 16), Lease: testLease}
	workers := []*process{startWorker(t, s.dir, args), startWorker(t, s.dir, args), startWorker(t, s.dir, args)}

	enqueued := make(chan error, 1)
	go func() {
		for n := 0; n < total; n += batch {
			items := make([]stem.Item, 0, batch)
			for k := range min(batch, total-n) {
				items = append(items, work.Item(workArgs{Millis: longest/5 + rand.IntN(longest), Result: n + k}))
			}
			if err := s.enqueue(items...); err != nil {
				enqueued <- err
				return
			}
			time.Sleep(80 * time.Millisecond)
		}
		enqueued <- nil
	}()
	stored, kills := false, 0
	for deadline := time.Now().Add(time.Duration(scale(4, 20)) * time.Minute); !stored || s.remaining() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d tasks remain after %d kills", s.remaining(), kills)
		}
		time.Sleep(time.Duration(200+rand.IntN(800)) * time.Millisecond)
		if !stored || kills < 6 {
			i := kills % len(workers) // the one that has been there longest: a new one may have nothing yet
			workers[i].signal(t, syscall.SIGKILL)
			<-workers[i].done
			s.rec.write(Event{Kind: Killed, PID: workers[i].cmd.Process.Pid})
			kills++
			workers[i] = startWorker(t, s.dir, args)
			if kills%3 == 0 { // left in peace for once, so that the time until a redelivery shows
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
	f := s.judge(redelivery())
	if f.redelivered == 0 || full() && f.undisturbed == 0 {
		t.Errorf("%d redeliveries, %d of them undisturbed: the test proves nothing", f.redelivered, f.undisturbed)
	}
	t.Logf("%d tasks, %d kills, %d redelivered (%d undisturbed), the slowest %s after its kill", f.tasks, kills, f.redelivered, f.undisturbed, f.slowest)
}

// TestStoppedWorkerCannotOverwrite stops a worker past its lease in mid-handler
// and lets it go on when another has taken over.
func TestStoppedWorkerCannotOverwrite(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"its handler still runs": true, "its handler ends at once": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, func(s *stage) { stopWorker(s, waits) })
		})
	}
}

func stopWorker(s *stage, handlerWaits bool) {
	t := s.t
	first := startWorker(t, s.dir, workerArgs{Name: "first", Concurrency: 1, Lease: testLease})
	if err := s.enqueue(stubborn.Item(stubbornArgs{FirstWaits: handlerWaits})); err != nil {
		t.Fatal(err)
	}
	id := s.ids[0]
	state := func() stem.Status {
		status, err := s.client.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	s.await("the first worker runs it", time.Minute, func() bool { return state().State == stem.Running })
	first.signal(t, syscall.SIGSTOP)
	second := startWorker(t, s.dir, workerArgs{Name: "second", Concurrency: 1, Lease: testLease})
	s.await("the second worker runs it", time.Minute, func() bool { return state().Worker == second.name })
	first.signal(t, syscall.SIGCONT)

	s.await("it has ended", time.Minute, func() bool { return state().State.Terminal() })
	final := state()
	if want := fmt.Sprintf("%q", "result of "+second.name); string(final.Result) != want || final.Worker != second.name {
		t.Errorf("the result is %s by %s, want %s", final.Result, final.Worker, want)
	}
	first.stop(t, syscall.SIGTERM)
	second.stop(t, syscall.SIGTERM)
	if after := state(); string(after.Result) != string(final.Result) || after.Epoch != final.Epoch {
		t.Errorf("the status changed afterwards: %+v", after)
	}
	s.judge(time.Hour)
	events, err := readHistory(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Kind == Settled && e.PID == first.cmd.Process.Pid {
			t.Errorf("the first worker was told that its outcome %q is stored", e.State)
		}
	}
	cancelled := slices.ContainsFunc(events, func(e Event) bool {
		return e.Kind == Ended && e.PID == first.cmd.Process.Pid && strings.Contains(e.Note, broker.ErrLeaseLost.Error())
	})
	if handlerWaits && !cancelled {
		t.Error("the first handler's context was not cancelled with ErrLeaseLost")
	}
}

// TestPoisonPill runs a handler that kills its own process, amid neighbours
// that were prefetched with it.
func TestPoisonPill(t *testing.T) {
	t.Parallel()
	everywhere(t, poison)
}

func poison(s *stage) {
	t := s.t
	const neighbours = 20
	items := []stem.Item{suicide.Item(stem.None{})}
	for i := range neighbours {
		items = append(items, work.Item(workArgs{Millis: 5, Result: i}))
	}
	if err := s.enqueue(items...); err != nil {
		t.Fatal(err)
	}
	pill := s.ids[0]
	args := workerArgs{Name: "fleet", Concurrency: 2, Prefetch: 8, Lease: 500 * time.Millisecond}
	workers := []*process{startWorker(t, s.dir, args), startWorker(t, s.dir, args)}
	s.await("all have ended", 2*time.Minute, func() bool {
		for i, w := range workers { // as systemd would
			if w.ended() {
				workers[i] = startWorker(t, s.dir, args)
			}
		}
		return s.remaining() == 0
	})
	for i, id := range s.ids {
		status, err := s.client.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i == 0 && (status.State != stem.Failed || status.Reason != "crash-loop"):
			t.Errorf("the poison is %s, %s; want failed, crash-loop", status.State, status.Reason)
		case i > 0 && status.State != stem.Succeeded:
			t.Errorf("neighbour %d is %s: %s", i, status.State, status.Reason)
		}
	}
	dead, _, err := s.client.DeadLetters(t.Context(), broker.DeadFilter{}, broker.Page{})
	if err != nil || len(dead) != 1 || dead[0].Envelope.ID != pill {
		t.Errorf("dead letters: %v, %v; want the poison alone", dead, err)
	}
	if err := checkStores(t.Context(), s.db); err != nil {
		t.Error(err)
	}
}

// TestRestartsCountNoAttempt starts and stops workers at random while
// producers enqueue.
func TestRestartsCountNoAttempt(t *testing.T) {
	t.Parallel()
	everywhere(t, restartWorkers)
}

func restartWorkers(s *stage) {
	t := s.t
	args := workerArgs{Name: "restarted", Concurrency: 4, Lease: 5 * time.Second}
	stop := time.Now().Add(time.Duration(scale(4, 60)) * time.Second)
	var producers sync.WaitGroup
	for p := range 3 {
		producers.Go(func() {
			for n := 0; time.Now().Before(stop); n++ {
				if err := s.enqueue(work.Item(workArgs{Millis: rand.IntN(60), Result: p*1_000_000 + n})); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			}
		})
	}
	workers := []*process{startWorker(t, s.dir, args), startWorker(t, s.dir, args)}
	for time.Now().Before(stop) {
		time.Sleep(time.Duration(300+rand.IntN(500)) * time.Millisecond)
		i := rand.IntN(len(workers))
		workers[i].stop(t, []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}[rand.IntN(2)])
		if code := workers[i].cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %d", workers[i].name, code)
		}
		workers[i] = startWorker(t, s.dir, args)
	}
	producers.Wait()
	s.await("all have ended", 2*time.Minute, func() bool { return s.remaining() == 0 })
	for _, w := range workers {
		w.stop(t, syscall.SIGTERM)
	}
	f := s.judge(time.Hour)
	t.Logf("%d tasks", f.tasks)
	for _, id := range s.ids {
		status, err := s.client.Get(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if status.Attempt != 1 || status.State != stem.Succeeded {
			t.Errorf("task %s: %s after %d counted attempts, want succeeded after 1", id, status.State, status.Attempt)
		}
	}
}
