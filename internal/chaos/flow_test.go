//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/task"
)

// recovery is how long workers and producers may take to go on by themselves once
// their store is back. The short form shares a machine with other tests, whose load
// it must bear: only the full one holds the bound that is promised.
func recovery() time.Duration { return time.Duration(scale(60, 10)) * time.Second }

// crew is a stage with workers, and producers that enqueue until they are told to
// stop.
type crew struct {
	*stage
	workers []*process

	stop      chan struct{}
	producers sync.WaitGroup
	once      sync.Once

	mu    sync.Mutex
	acked map[string]time.Time
}

// startCrew starts two workers and as many producers.
func startCrew(t *testing.T, where place) *crew {
	t.Helper()
	c := &crew{stage: newStage(t, t.TempDir(), where), acked: map[string]time.Time{}}
	t.Cleanup(c.silence)
	c.begin()
	return c
}

// begin starts what startCrew says, in place of what there was and has ended.
func (c *crew) begin() {
	t := c.t
	t.Helper()
	c.stop, c.once, c.workers = make(chan struct{}), sync.Once{}, nil
	for range 2 {
		c.workers = append(c.workers, startWorker(t, c.dir, workerArgs{Name: "crew", Concurrency: 8, Lease: testLease}))
		c.producers.Go(func() {
			for n := 0; !c.stopped(); n++ {
				c.insist(task.NewID(), 5, n)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	c.await("the workers work", 30*time.Second, func() bool { return c.busy(time.Time{}) })
}

// silence ends the producers.
func (c *crew) silence() {
	c.once.Do(func() { close(c.stop) })
	c.producers.Wait()
}

func (c *crew) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// insist enqueues a task under its id until the store says that it has it, or the
// crew is stopped. It gives up after a minute, which is longer than anything takes.
func (c *crew) insist(id string, millis, result int) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		_, err := work.Enqueue(ctx, c.client, workArgs{Millis: millis, Result: result}, stem.ID(id), stem.Retention(stem.Forever))
		cancel()
		var exists *stem.TaskExistsError
		if err == nil || errors.As(err, &exists) {
			break
		}
		if c.stopped() {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%s is not stored after a minute: %v", id, err)
			return
		}
	}
	now := time.Now()
	c.rec.write(Event{Kind: Enqueued, At: now, ID: id})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[id] = now
	c.ids = append(c.ids, id)
}

// busy reports whether every worker has started a task since that moment.
func (c *crew) busy(since time.Time) bool {
	events, err := readHistory(c.dir)
	if err != nil {
		return false
	}
	working := map[int]bool{}
	for _, e := range events {
		if e.Kind == Started && e.At.After(since) {
			working[e.PID] = true
		}
	}
	return !slices.ContainsFunc(c.workers, func(p *process) bool { return !working[p.cmd.Process.Pid] })
}

// recovers waits until every worker works, on tasks that are enqueued from now on,
// and fails if that takes longer than promised.
func (c *crew) recovers(after string) {
	c.t.Helper()
	began := time.Now()
	for !c.busy(began) {
		var burst sync.WaitGroup
		for n := range 24 { // more than one worker has isolates
			burst.Go(func() { c.insist(task.NewID(), 100, n) })
		}
		burst.Wait()
		if time.Since(began) > recovery()+5*time.Second {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(began)
	c.t.Logf("after %s: all work again after %s", after, took.Round(time.Millisecond))
	if took > recovery() {
		c.t.Errorf("after %s: all work again after %s only; want %s", after, took, recovery())
	}
}

// finish ends the producers, waits until all is done, ends the workers, and judges.
// forgiven are tasks that may be lost, or executed once more.
func (c *crew) finish(forgiven func(id string, acked time.Time) bool) {
	c.t.Helper()
	c.silence()
	c.await("all have ended", 2*time.Minute, func() bool { return c.remaining() == 0 })
	for _, w := range c.workers {
		w.stop(c.t, syscall.SIGTERM)
		if code := w.cmd.ProcessState.ExitCode(); code != 0 {
			c.t.Errorf("%s ended with %d", w.name, code)
		}
	}
	if forgiven != nil {
		all := len(c.ids)
		c.ids = slices.DeleteFunc(c.ids, func(id string) bool { return forgiven(id, c.acked[id]) })
		c.t.Logf("%d of %d tasks are not judged", all-len(c.ids), all)
		if len(c.ids) < 20 {
			c.t.Errorf("only %d of %d tasks are judged", len(c.ids), all)
		}
		c.forget()
	}
	f := c.judge(time.Hour)
	c.t.Logf("%d tasks", f.tasks)
}

// forget takes what is not judged out of the history.
func (c *crew) forget() {
	c.t.Helper()
	kept := map[string]bool{}
	for _, id := range c.ids {
		kept[id] = true
	}
	events, err := readHistory(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(c.dir, "*.events"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range paths {
		if err := os.Truncate(p, 0); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, e := range events {
		if kept[e.ID] {
			c.rec.write(e)
		}
	}
}

// logged is how many lines of the workers' logs have that text in them.
func (c *crew) logged(text string) int {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.dir, "*"+logSuffix))
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			c.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, text) {
				n++
			}
		}
	}
	return n
}

// lastError is the newest line of the workers' logs that tells of an error.
func (c *crew) lastError() (last string) {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.dir, "*"+logSuffix))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			c.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, `"error":`) {
				last = line
			}
		}
	}
	return last
}

// cpu is how much processor time the workers have had so far.
func (c *crew) cpu() time.Duration {
	c.t.Helper()
	var sum time.Duration
	for _, w := range c.workers {
		d, err := processorTime(w.cmd.Process.Pid)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += d
	}
	return sum
}

// processorTime reads what the kernel says that a process has used.
func processorTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	_, rest, _ := strings.Cut(string(raw), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is of another form: %s", pid, raw)
	}
	user, err1 := strconv.Atoi(words[11])
	system, err2 := strconv.Atoi(words[12])
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
