package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// starts is when a limited task's handlers started.
type starts struct {
	mu sync.Mutex
	at []time.Time
}

func (s *starts) all() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// keep checks that no span has more starts than the rate and its burst.
func (s *starts) keep(t *testing.T, r store.Rate, slack time.Duration) {
	t.Helper()
	at := s.all()
	for i := range at {
		for j := i + max(r.Burst, 1); j < len(at); j++ {
			if least := time.Duration(j-i+1-max(r.Burst, 1))*r.Interval() - slack; at[j].Sub(at[i]) < least {
				t.Fatalf("%d starts within %s at %s, want %s or more", j-i+1, at[j].Sub(at[i]), r, least)
			}
		}
	}
}

// limited registers a task with a rate limit.
func (g *rig) limited(name string, r store.Rate, h func() error) *starts {
	s := &starts{}
	t := g.handle(name, func(context.Context, *runner.Job) (json.RawMessage, error) {
		s.mu.Lock()
		s.at = append(s.at, time.Now())
		s.mu.Unlock()
		if h != nil {
			return nil, h()
		}
		return nil, nil
	})
	t.Limit = &runner.Limit{Key: "task:" + name, Rate: r}
	if g.cfg.Limiter == nil {
		g.cfg.Limiter = &tapLimiter{Limiter: g.db.Broker().(store.Limiter)}
	}
	return s
}

// tapLimiter counts what is asked, and can be made to fail.
type tapLimiter struct {
	store.Limiter
	mu    sync.Mutex
	asked []store.Reservation
	fail  error
}

func (l *tapLimiter) Reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	l.mu.Lock()
	l.asked = append(l.asked, batch...)
	err := l.fail
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.Limiter.Reserve(ctx, batch)
}

func (g *rig) asked() []store.Reservation {
	l := g.cfg.Limiter.(*tapLimiter)
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

func (g *rig) failLimiter(err error) {
	l := g.cfg.Limiter.(*tapLimiter)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// times counts the settlements of each task that put it off for a slot.
func (g *rig) putOffs() map[string]int {
	n := map[string]int{}
	for _, s := range g.broker.settlements() {
		if s.Outcome.Reserved && !s.Outcome.NotBefore.IsZero() {
			n[s.Receipt.ID]++
		}
	}
	return n
}

// A limited task starts at its rate; each that must wait goes back once, and
// asks once.
func TestRateLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		rate := store.Rate{Count: 10, Per: time.Second, Burst: 3}
		s := g.limited("slow", rate, nil)
		var ids []string
		for range 203 {
			ids = append(ids, g.publish("slow"))
		}
		g.start()
		after(time.Second)
		if st := g.want(ids[100], task.Queued); string(st.Meta[task.MetaRateLimited]) != "true" || st.NotBefore.IsZero() || st.Attempt != 0 {
			t.Errorf("while it waits for its slot: %+v", st)
		}
		after(20 * time.Second)
		s.keep(t, rate, time.Millisecond)
		if n := len(s.all()); n != 203 {
			t.Errorf("after 21 s at %s, %d of 203 have started", rate, n)
		}
		for i, id := range ids {
			st := g.want(id, task.Succeeded)
			if st.Attempt != 1 || st.Meta[task.MetaRateLimited] != nil {
				t.Errorf("after its run: %+v", st)
			}
			if want := min(1, max(0, i-2)); g.putOffs()[id] != want {
				t.Fatalf("task %d was put off %d times, want %d", i, g.putOffs()[id], want)
			}
		}
		if n := len(g.asked()); n != 203 {
			t.Errorf("%d slots were asked for by 203 tasks", n)
		}
	})
}

// What has no limit, or another one, does not wait behind a limited task.
func TestRateLimitHoldsUpNobodyElse(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency = 2
		g.limited("slow", store.Rate{Count: 1, Per: time.Hour}, nil)
		g.limited("other", store.Rate{Count: 1000, Per: time.Second, Burst: 10}, nil)
		g.noop("free")
		for range 5000 {
			g.publish("slow")
		}
		free, other := g.publish("free"), g.publish("other")
		g.start()
		after(100 * time.Millisecond)
		g.want(free, task.Succeeded)
		g.want(other, task.Succeeded)
		if h := g.runner.Snapshot(); h.Inflight != 0 {
			t.Errorf("the worker holds %d, and none may start", h.Inflight)
		}
		before := len(g.broker.log())
		after(10 * time.Second)
		if n := len(g.broker.log()) - before; n > 25 {
			t.Errorf("while all wait for slots the worker exchanged %d times in 10 s", n)
		}
	})
}

// Two workers share one rate.
func TestRateLimitOfTwoWorkers(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		rate := store.Rate{Count: 50, Per: time.Second}
		s := g.limited("slow", rate, nil)
		for range 200 {
			g.publish("slow")
		}
		g.start()
		second := g.cfg
		second.ID, second.Broker = "w2", g.db.Broker()
		r, err := runner.New(second)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		after(5 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.keep(t, rate, time.Millisecond)
		if n := len(s.all()); n != 200 {
			t.Errorf("%d of 200 started", n)
		}
	})
}

// Each attempt takes a slot of its own.
func TestRateLimitOfRetries(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		rate := store.Rate{Count: 1, Per: time.Second}
		s := g.limited("slow", rate, func() error { return errors.New("no") })
		g.tasks["slow"].Retry = runner.Retry{Base: time.Millisecond, Factor: 1, Jitter: -1}
		id := g.publish("slow")
		g.start()
		after(10 * time.Second)
		g.want(id, task.Failed)
		s.keep(t, rate, 0)
		if n := len(s.all()); n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
	})
}

// When nobody was there at their moments, tasks do not start all at once
// afterwards, and do not go to the end of the line.
func TestRateLimitAfterAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		rate := store.Rate{Count: 10, Per: time.Second}
		s := g.limited("slow", rate, nil)
		for range 1000 {
			g.publish("slow")
		}
		g.start()
		after(time.Second)
		g.stop()
		after(20 * time.Second)
		before := len(s.all())
		g.start()
		after(time.Second)
		// Twice the rate, while there is something to catch up with, and those
		// whose slots were in the second before.
		if n := len(s.all()) - before; n > 33 {
			t.Errorf("in the first second after an outage %d started at %s", n, rate)
		}
		after(25 * time.Second)
		if n := len(s.all()); n < 440 {
			t.Errorf("20 s after an outage of 20 s %d have started", n)
		}
		after(60 * time.Second)
		if n := len(s.all()); n != 1000 {
			t.Errorf("%d of 1000 started in 106 s at %s", n, rate)
		}
		for id, n := range g.putOffs() {
			if n > 2 {
				t.Errorf("%s was put off %d times", id, n)
			}
		}
	})
}

// A task that takes its worker down asks again for each run, and is counted.
func TestRateLimitOfACrashLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.MaxDeliveries, g.cfg.Lease = 3, time.Second
		s := g.limited("slow", store.Rate{Count: 1, Per: 10 * time.Second}, nil)
		id := g.publish("slow")
		for range 3 { // three workers that start it and die
			c, err := g.db.Broker().Open(t.Context(), broker.Subscription{Worker: "dead", Queues: []string{"default"}, Lease: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1})
			if err != nil || len(b.Deliveries) != 1 {
				t.Fatalf("%d deliveries, %v", len(b.Deliveries), err)
			}
			live := []broker.Renewal{{Receipt: b.Deliveries[0].Receipt, Start: true}}
			if _, err := c.Exchange(t.Context(), nil, live, broker.Want{}); err != nil {
				t.Fatal(err)
			}
			after(1100 * time.Millisecond)
		}
		g.start()
		after(time.Second)
		if st := g.want(id, task.Failed); st.Reason != task.ReasonCrashLoop {
			t.Errorf("reason %q", st.Reason)
		}
		if n := len(s.all()); n != 0 {
			t.Errorf("it ran %d times more", n)
		}
	})
}

// While the limiter cannot be asked, limited tasks wait and others go on; those
// that fail open do not wait.
func TestRateLimitWithoutLimiter(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		rate := store.Rate{Count: 100, Per: time.Second, Burst: 10}
		closed, open := g.limited("closed", rate, nil), g.limited("open", rate, nil)
		g.tasks["open"].Limit.FailOpen = true
		g.noop("free")
		g.failLimiter(broker.ErrUnavailable)
		var ids []string
		for range 5 {
			ids = append(ids, g.publish("closed"))
			g.publish("open")
		}
		free := g.publish("free")
		g.start()
		after(500 * time.Millisecond)
		g.want(free, task.Succeeded)
		if c, o := len(closed.all()), len(open.all()); c != 0 || o != 5 {
			t.Errorf("without a limiter %d of the closed and %d of the open ones started, want 0 and 5", c, o)
		}
		after(10 * time.Minute)
		if n := len(g.asked()); n > 500 {
			t.Errorf("a limiter that is away was asked %d times in ten minutes for five tasks", n)
		}
		g.failLimiter(nil)
		after(30 * time.Second)
		for _, id := range ids {
			if st := g.want(id, task.Succeeded); st.Attempt != 1 {
				t.Errorf("attempt %d", st.Attempt)
			}
		}
	})
}

// What was granted a slot and could not start in time keeps it.
func TestRateLimitGivesBackWithItsSlot(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 3
		g.sleeper("long", 10*time.Second)
		g.limited("slow", store.Rate{Count: 2, Per: time.Hour, Burst: 2}, nil)
		g.publish("long")
		a, b := g.publish("slow"), g.publish("slow")
		g.start()
		after(12 * time.Second)
		g.want(a, task.Succeeded)
		g.want(b, task.Succeeded)
		if n := len(g.asked()); n != 2 {
			t.Errorf("two tasks asked %d times", n)
		}
	})
}
