//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
)

// The tasks that depend on whether the test has said that all is calm.
var (
	patient = stem.NewTask[int, int]("chaos.patient") // runs until it has
	lost    = stem.NewTask[int, int]("chaos.lost")    // fails for good until it has
)

const calmFile = "calm"

func calm() bool {
	_, err := os.Stat(filepath.Join(os.Getenv(dirEnv), calmFile))
	return err == nil
}

func waitForCalm(ctx context.Context, n int) (int, error) {
	for !calm() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return n, nil
}

func failUntilCalm(_ context.Context, n int) (int, error) {
	if !calm() {
		return 0, stem.Permanent(errors.New("not yet"))
	}
	return n, nil
}

// calmDown says that all is calm.
func (s *stage) calmDown() {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, calmFile), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) status(id string) stem.Status {
	s.t.Helper()
	status, err := s.client.Get(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// starts is how often a handler began, by task.
func (s *stage) starts() map[string]int {
	s.t.Helper()
	events, err := readHistory(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	n := map[string]int{}
	for _, e := range events {
		if e.Kind == Started {
			n[e.ID]++
		}
	}
	return n
}

// patients enqueues n tasks that run until it is calm, and waits until they do.
func (s *stage) patients(n int) []string {
	s.t.Helper()
	from := len(s.ids)
	for i := range n {
		if err := s.enqueue(patient.Item(i)); err != nil {
			s.t.Fatal(err)
		}
	}
	ids := slices.Clone(s.ids[from:])
	s.await("the long tasks run", time.Minute, func() bool {
		return !slices.ContainsFunc(ids, func(id string) bool { return s.status(id).State != stem.Running })
	})
	return ids
}

// succeededOnce fails for each task that did not succeed as its first counted attempt.
func (s *stage) succeededOnce() {
	s.t.Helper()
	for _, id := range s.ids {
		if st := s.status(id); st.State != stem.Succeeded || st.Attempt != 1 {
			s.t.Errorf("task %s: %s after %d counted attempts, want succeeded after 1", id, st.State, st.Attempt)
		}
	}
}

// leave stops a worker as a supervisor does, and fails unless it ends with that code.
func leave(t *testing.T, p *process, code int) {
	t.Helper()
	p.stop(t, syscall.SIGTERM)
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s ended with %d, want %d", p.name, got, code)
	}
}

// TestRollingRestart replaces one worker after the other under load, with tasks that
// are short and tasks that outlast the grace: nothing is lost, what was only
// interrupted counts as no attempt, and each worker ends in good order.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	everywhere(t, roll)
}

func roll(s *stage) {
	t := s.t
	args := workerArgs{Name: "rolled", Concurrency: 6, Lease: 30 * time.Second, Grace: 3 * time.Second, SoftGrace: 2 * time.Second}
	var fleet []*process
	for range 3 {
		fleet = append(fleet, startWorker(t, s.dir, args))
	}
	long := s.patients(4)
	stop := make(chan struct{})
	var producers sync.WaitGroup
	for p := range 2 {
		producers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				if err := s.enqueue(work.Item(workArgs{Millis: n % 60, Result: p*1_000_000 + n})); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// The first to go is one that certainly runs a long task.
	holder := s.status(long[0]).Worker
	i := slices.IndexFunc(fleet, func(p *process) bool { return p.name == holder })
	fleet[0], fleet[i] = fleet[i], fleet[0]
	for range scale(1, 10) {
		for i := range fleet {
			next := startWorker(t, s.dir, args)
			leave(t, fleet[i], 0)
			fleet[i] = next
		}
	}
	close(stop)
	producers.Wait()
	s.calmDown()
	s.await("all have ended", 2*time.Minute, func() bool { return s.remaining() == 0 })
	for _, p := range fleet {
		leave(t, p, 0)
	}
	f := s.judge(time.Hour)
	s.succeededOnce()
	n := s.starts()[long[0]]
	if n < 2 {
		t.Errorf("the long task of the first worker was started %d times: nothing was interrupted", n)
	}
	t.Logf("%d tasks, a long one started %d times", f.tasks, n)
}

// TestStopWhileTheStoreIsAway: SIGTERM to workers that cannot reach the server. An
// outcome waits for it as long as the grace; what cannot be told is abandoned, and
// comes back.
func TestStopWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, lease, grace time.Duration) (*stage, *redistest.Server, *process) {
		server := redistest.Start(t, redistest.Options{AOF: "always"})
		s := newStage(t, t.TempDir(), place{urls: storeURLs{Tasks: server.URL(0)}})
		p := startWorker(t, s.dir, workerArgs{Name: "leaving", Concurrency: 4, Lease: lease, Grace: grace, SoftGrace: time.Second})
		s.patients(3)
		server.Kill()
		p.signal(t, syscall.SIGTERM)
		return s, server, p
	}
	t.Run("it comes back in time", func(t *testing.T) {
		t.Parallel()
		s, server, p := begin(t, 5*time.Minute, 2*time.Minute) // longer than anything takes here
		s.calmDown()
		server.Restart()
		select {
		case <-p.done:
		case <-time.After(90 * time.Second):
			t.Fatal("the worker does not end")
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
		s.judge(time.Hour)
		s.succeededOnce()
	})
	t.Run("it does not", func(t *testing.T) {
		t.Parallel()
		s, server, p := begin(t, testLease, 2*time.Second)
		select {
		case <-p.done:
		case <-time.After(90 * time.Second):
			t.Fatal("the worker does not end")
		}
		if log, err := os.ReadFile(filepath.Join(s.dir, p.name+logSuffix)); err != nil || !strings.Contains(string(log), `"abandoned":3`) {
			t.Errorf("its log does not say that it abandoned three tasks: %v\n%s", err, log)
		}
		server.Restart()
		s.calmDown()
		next := startWorker(t, s.dir, workerArgs{Name: "next", Concurrency: 4, Lease: testLease})
		s.await("what was abandoned has ended", 3*time.Minute, func() bool { return s.remaining() == 0 })
		leave(t, next, 0)
		s.judge(time.Hour)
		s.succeededOnce()
	})
}

// replayerMain is a process that replays all dead letters.
func replayerMain() error {
	ctx := context.Background()
	db, client, err := openStores(ctx, nil)
	if err != nil {
		return err
	}
	done, err := client.ReplayDeadLetters(ctx, broker.DeadFilter{}, broker.ReplayOptions{})
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(done.Count), db.Close())
}

// TestReplayIsKilled kills replays of dead letters amid their work, until one comes to
// the end: every one is put back, and executed once more.
func TestReplayIsKilled(t *testing.T) {
	t.Parallel()
	everywhere(t, killReplays)
}

func killReplays(s *stage) {
	t := s.t
	n := scale(1_500, 100_000)
	for from := 0; from < n; from += 1000 {
		items := make([]stem.Item, min(1000, n-from))
		for i := range items {
			items[i] = lost.Item(from + i)
		}
		if err := s.enqueue(items...); err != nil {
			t.Fatal(err)
		}
	}
	args := workerArgs{Name: "clerk", Concurrency: 16, Lease: time.Minute}
	clerk := startWorker(t, s.dir, args)
	s.await("all are dead", 4*time.Minute, func() bool { return s.remaining() == 0 })
	leave(t, clerk, 0)

	ready, dead := s.counts()
	if ready != 0 || dead != n {
		t.Fatalf("%d ready and %d dead, want 0 and %d", ready, dead, n)
	}
	kills := 0
	for dead > 0 && kills < 100 {
		before := dead
		p := startRole(t, "replayer", s.dir, workerArgs{Name: "replayer"}, nil)
		for dead == before && !p.ended() {
			if ready, dead = s.counts(); ready+dead != n {
				t.Fatalf("%d ready and %d dead, want %d together", ready, dead, n)
			}
		}
		p.signal(t, syscall.SIGKILL)
		<-p.done
		if ready, dead = s.counts(); ready+dead != n {
			t.Fatalf("%d ready and %d dead after a kill, want %d together", ready, dead, n)
		}
		if dead > 0 {
			kills++
		}
	}
	if ready != n {
		t.Fatalf("%d are ready after %d kills, want %d", ready, kills, n)
	}
	s.calmDown()
	clerk = startWorker(t, s.dir, args)
	s.await("all have ended", 4*time.Minute, func() bool { return s.remaining() == 0 })
	leave(t, clerk, 0)
	starts := s.starts()
	for _, id := range s.ids {
		if st := s.status(id); st.State != stem.Succeeded || st.ReplayCount != 1 || starts[id] != 2 {
			t.Errorf("%s is %s, replayed %d times, executed %d times; want succeeded, 1, 2", id, st.State, st.ReplayCount, starts[id])
		}
	}
	if err := checkStores(t.Context(), s.db); err != nil {
		t.Error(err)
	}
	t.Logf("%d dead letters, %d replays were killed amid their work", n, kills)
}

// counts are how many tasks are ready, and how many dead.
func (s *stage) counts() (ready, dead int) {
	s.t.Helper()
	queues, err := s.client.Queues(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range queues {
		ready, dead = ready+queues[i].Ready, dead+queues[i].Dead
	}
	return ready, dead
}
