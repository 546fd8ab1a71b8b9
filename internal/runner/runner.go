package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// Runner is one worker. Make it with New, call Run once; the other methods are
// safe for concurrent use at any time.
type Runner struct {
	cfg  Config
	log  *slog.Logger // through scribe
	host string
	born time.Time // with a monotonic reading: what now counts from

	scribe  *scribe
	line    line
	starter starter
	dead    undertaker
	rates   rates
	gang    sync.WaitGroup // isolates in service

	started  atomic.Bool
	stopping chan struct{} // closed by the first Shutdown
	abrupt   chan struct{} // closed by a hard one

	handlers context.Context // parent of the handlers' contexts
	calling  context.Context // of calls to the broker; ends with a hard stop

	heard     atomic.Int64 // by now(): when the broker last showed that deliveries arrive
	ahead     atomic.Int64 // ns: how far the store's clock is ahead of ours
	renewedAt atomic.Int64 // Unix ms
	turned    atomic.Int64 // by now(): when the fetcher last went round; 0: it has not begun, or has ended
	report    atomic.Pointer[Report]

	timed        bool // somebody looks at the histograms
	counts       struct{ succeeded, failed, retried atomic.Int64 }
	calls        map[string]callMarks
	leaseRenewed measure.Counter
	leaseLost    measure.Counter
	gauges       gauges
	attrs        sync.Pool // of *[]slog.Attr, for spans
}

// New checks a configuration and makes its runner.
func New(cfg Config) (*Runner, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	if cfg.ID == "" {
		cfg.ID = fmt.Sprintf("%s-%d-%04x", host, os.Getpid(), rand.IntN(1<<16))
	}
	scribe := newScribe(cfg.Logger.With("worker", cfg.ID).Handler())
	r := &Runner{
		cfg: cfg, host: host, born: time.Now(), log: slog.New(scribe), scribe: scribe,
		stopping: make(chan struct{}), abrupt: make(chan struct{}),
		timed:        cfg.Meter != measure.None,
		calls:        newCallMarks(cfg.Meter, broker.CapabilitiesOf(cfg.Broker).Backend, "exchange", "renew", "reserve"),
		leaseRenewed: cfg.Meter.Counter(measure.LeaseRenewed, cfg.ID),
		leaseLost:    cfg.Meter.Counter(measure.LeaseLost, cfg.ID),
		gauges:       newGauges(cfg.Meter, cfg.ID),
	}
	r.line.init(cfg.Concurrency)
	r.starter.wake = make(chan struct{}, 1)
	r.report.Store(&Report{})
	return r, nil
}

// complete puts the defaults in and checks the rest.
func (c *Config) complete() error {
	switch {
	case c.Broker == nil:
		return errors.New("no broker")
	case c.Lookup == nil:
		return errors.New("no Lookup")
	case len(c.Queues) == 0:
		return errors.New("no queues: name at least one")
	}
	weighted := c.Queues[0].Weight != 0
	for _, q := range c.Queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q.Name, "*", "x")); err != nil {
			return err
		}
		if q.Weight < 0 || (q.Weight != 0) != weighted {
			return fmt.Errorf("queue %s: weight %d: want none for all (strict order), or one above 0 for each", q.Name, q.Weight)
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		other int
	}{
		{"concurrency", &c.Concurrency, 4 * runtime.GOMAXPROCS(0)},
		{"prefetch", &c.Prefetch, 0},
		{"max deliveries", &c.MaxDeliveries, defaultMaxDeliveries},
		{"max result", &c.MaxResult, task.DefaultMaxSize},
	} {
		if *n.value < 0 {
			return fmt.Errorf("%s %d: want more than 0, or 0 for the default", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.other
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		other time.Duration
	}{
		{"lease", &c.Lease, broker.DefaultLease},
		{"unknown grace", &c.UnknownGrace, time.Hour},
		{"heartbeat interval", &c.HeartbeatInterval, 10 * time.Second},
		{"grace", &c.Grace, 25 * time.Second},
		{"soft grace", &c.SoftGrace, 5 * time.Second},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s %s: want more than 0, or 0 for the default", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.other
		}
	}
	switch {
	case c.Keep == 0:
		c.Keep = defaultKeep
	case c.Keep < 0:
		c.Keep = task.Forever
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Meter == nil {
		c.Meter = measure.None
	}
	return nil
}

// Run executes tasks until it is stopped, and blocks until then. The end of
// ctx is a warm stop. It returns nil after a stop of any kind; Report says how
// that went. An error means that the broker refused the subscription or was
// closed. After Run has returned, nothing of it runs on but handlers that
// ignore their context, and a Logger that does not return.
func (r *Runner) Run(ctx context.Context) error {
	if r.started.Swap(true) {
		return errors.New("worker: Run was called before")
	}
	r.scribe.start(r.scribe.Handler)
	defer r.scribe.stop()
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r.handlers = base
	calling, hangUp := context.WithCancel(base)
	defer hangUp()
	r.calling = calling

	var helpers sync.WaitGroup
	helpers.Go(func() {
		select {
		case <-ctx.Done():
			r.Shutdown(Warm)
		case <-base.Done():
		}
	})
	helpers.Go(func() {
		select {
		case <-r.abrupt:
			hangUp()
		case <-base.Done():
		}
	})
	defer helpers.Wait()
	defer cancel()

	consumer, err := r.open()
	if consumer == nil {
		return err
	}
	_ = r.readRates(base) // it is logged there, and tried again
	w := newWaiter(consumer)
	helpers.Go(func() { w.run(base) })
	helpers.Go(func() { r.runStarter(base) })
	helpers.Go(func() { r.obey(base) })
	beats := r.startHeart(base)
	r.dead.start(context.WithoutCancel(ctx), r.log, r.cfg.OnDead)
	r.startPool()
	r.log.Info("worker started", "queues", r.queueNames(), "concurrency", r.cfg.Concurrency)

	f := newFetcher(r, consumer, w)
	err = f.loop()
	r.turned.Store(0)
	r.line.close()
	if err != nil {
		r.failPool(f)
	}
	r.report.Store(&f.stop.report)
	r.gang.Wait()
	cancel()
	r.closeConsumer(ctx, f.consumer)
	r.dead.stop(r.line.stopMode() == Hard)
	beats()
	rep := f.stop.report
	r.log.Info("worker stopped", "finished", rep.Finished, "released", rep.Released, "abandoned", rep.Abandoned)
	return err
}

// open subscribes, for as long as it takes while the store is away. It returns
// neither a consumer nor an error when a stop came first.
func (r *Runner) open() (broker.Consumer, error) {
	sub := broker.Subscription{Worker: r.cfg.ID, Queues: r.queueNames(), Lease: r.cfg.Lease}
	for failures := 1; ; failures++ {
		r.turn()
		select {
		case <-r.stopping:
			return nil, nil
		default:
		}
		c, err := r.cfg.Broker.Open(r.calling, sub)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, broker.ErrUnavailable) {
			return nil, fmt.Errorf("subscribing to %v: %w", sub.Queues, err)
		}
		if loud(failures) {
			r.log.Warn("cannot reach the broker; will try again", "failures", failures, "error", err)
		}
		t := time.NewTimer(patience(failures))
		select {
		case <-t.C:
		case <-r.stopping:
		}
		t.Stop()
	}
}

// startPool starts the isolates.
func (r *Runner) startPool() {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	r.line.open = true
	for r.line.isolates < r.line.wanted {
		r.startIsolate()
	}
}

// failPool leaves what runs when the broker was closed: nothing can be settled
// any more.
func (r *Runner) failPool(f *fetcher) {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	f.abandon()
}

// closeConsumer ends the subscription; what it still holds unstarted goes back.
func (r *Runner) closeConsumer(ctx context.Context, c broker.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	if err := c.Close(ctx); err != nil && !errors.Is(err, broker.ErrClosed) {
		r.log.Warn("closing the subscription", "error", err)
	}
}

// Shutdown asks the runner to stop in that mode and returns at once. It may be
// called again with a more urgent mode; a less urgent one changes nothing.
func (r *Runner) Shutdown(m Mode) {
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if m <= l.mode {
		return
	}
	if l.mode == 0 {
		close(r.stopping)
	}
	if l.mode = min(m, Hard); l.mode == Hard {
		close(r.abrupt)
	}
	l.wakeFetcher()
}

// Report says what became of the deliveries that were held when the stop
// began. It is empty before Run has returned.
func (r *Runner) Report() Report { return *r.report.Load() }

// Ready says why the worker is not fit for work, or nil: it received, or
// proved its queues empty, within that time (or has all it can hold), and is
// not stopping.
func (r *Runner) Ready(within time.Duration) error {
	l := &r.line
	l.mu.Lock()
	mode, isolates, lost := l.mode, l.isolates, l.lost
	l.mu.Unlock()
	heard := time.Duration(r.heard.Load())
	switch {
	case mode != 0:
		return errors.New("worker is stopping")
	case heard == 0:
		return errors.New("worker has not heard from the broker yet")
	case isolates == 0:
		return fmt.Errorf("no isolate left: %d handlers do not return after their hard limit", lost)
	}
	if ago := r.now() - heard; ago > within {
		return fmt.Errorf("worker has not heard from the broker for %s, more than %s",
			ago.Round(time.Millisecond), within)
	}
	return nil
}

// Live says why the worker is beyond help, or nil: its fetcher has not gone
// round within that time. It asks nothing outside the process, and a broker that
// is away does not matter; give it a minute. Before Run has begun, and after it
// has ended, the worker lives.
func (r *Runner) Live(within time.Duration) error {
	turned := time.Duration(r.turned.Load())
	if ago := r.now() - turned; turned != 0 && ago > within {
		return fmt.Errorf("the worker's loop has hung for %s", ago.Round(time.Second))
	}
	return nil
}

// turn notes that the fetcher lives.
func (r *Runner) turn() { r.turned.Store(int64(r.now()) + 1) }

func (r *Runner) queueNames() []string {
	names := make([]string, len(r.cfg.Queues))
	for i, q := range r.cfg.Queues {
		names[i] = q.Name
	}
	return names
}

// callTimeout bounds a call to the broker: a connection that is dead must not
// cost the leases.
func (r *Runner) callTimeout() time.Duration {
	return min(max(r.cfg.Lease/2, time.Second), 10*time.Second)
}

// now is the time since the runner was made, by the monotonic clock; since and
// time convert.
func (r *Runner) now() time.Duration                  { return time.Since(r.born) }
func (r *Runner) since(t time.Time) time.Duration     { return t.Sub(r.born) }
func (r *Runner) byStore(t time.Time) time.Time       { return t.Add(time.Duration(r.ahead.Load())) } // by the store's clock
func (r *Runner) time(offset time.Duration) time.Time { return r.born.Add(offset) }
