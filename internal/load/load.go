// Package load is the program behind "stem bench": it puts a measured load of
// tasks that do nothing on a store, in a namespace that has nothing else in it.
// It imports the root package.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/store"
)

// Options shape a load.
type Options struct {
	Tasks       int           // to enqueue and process, in all
	Limit       time.Duration // for all of it; each phase has a share
	Concurrency int           // isolates of the worker
	Producers   int           // that enqueue singly at once
	Payload     int           // bytes of each task's argument, about

	// Progress, if set, is told now and then how far the phase is.
	Progress func(phase string, done, of int)
}

// Phase is what one part of the load came to. Times are in milliseconds; those
// of a phase that measures none are zero.
type Phase struct {
	Name      string  `json:"name"`
	Tasks     int     `json:"tasks"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Millis,omitempty"`
	P99       float64 `json:"p99Millis,omitempty"`
	Max       float64 `json:"maxMillis,omitempty"`
	Cut       bool    `json:"cut"` // its share of the time was over before its tasks were
}

// The phases, in their order.
const (
	EnqueueBatches = "enqueue, batches of 1000"
	EnqueueSingly  = "enqueue, singly"
	Process        = "process the backlog"
	StartLatency   = "idle: enqueue to start"
	ResultLatency  = "idle: enqueue to result"
)

// Queue is where the tasks go, in a namespace of their own.
const Queue = "bench"

// ErrInUse says that a namespace has something in it, or somebody uses it.
var ErrInUse = errors.New("the namespace is in use")

// Free says what is in the namespace, as an error that wraps ErrInUse, or nil.
func Free(ctx context.Context, c *stem.Client) error {
	workers, err := c.Workers(ctx)
	if err != nil {
		return err
	}
	if len(workers) > 0 {
		return fmt.Errorf("%w: worker %s works in it", ErrInUse, workers[0].Worker)
	}
	queues, err := c.Queues(ctx)
	if err != nil {
		return err
	}
	if len(queues) > 0 {
		return fmt.Errorf("%w: queue %s holds tasks", ErrInUse, queues[0].Name)
	}
	l, err := c.List(ctx, store.Query{Limit: 1})
	if err != nil {
		return err
	}
	if len(l.Statuses) > 0 {
		return fmt.Errorf("%w: it keeps the status of task %s", ErrInUse, l.Statuses[0].ID)
	}
	return nil
}

// args is the argument of a task of the load.
type args struct {
	At  time.Time `json:"at"`
	Pad string    `json:"pad"`
}

var noop = stem.NewTask[args, stem.None]("bench.noop", stem.Queue(Queue), stem.Retention(time.Hour))

// load is one run.
type load struct {
	Options
	client *stem.Client
	pad    string
	phases []Phase

	handled atomic.Int64
	started chan time.Time // of a task in the idle phases
	idle    atomic.Bool
}

// Run enqueues, processes and measures. What is done until ctx ends, or an
// error comes, is returned with the error. The caller removes the namespace.
func Run(ctx context.Context, c *stem.Client, o Options) ([]Phase, error) {
	l := &load{Options: o, client: c, pad: strings.Repeat("x", max(0, o.Payload)), started: make(chan time.Time, 1)}
	stored := 0
	for _, enqueue := range []func(context.Context) (int, error){l.batches, l.singly} {
		n, err := enqueue(ctx)
		stored += n
		if err != nil {
			return l.phases, err
		}
	}
	return l.phases, l.work(ctx, stored)
}

// share is the context of a phase that may take that part of the time. Its end
// is no error.
func (l *load) share(ctx context.Context, part time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.Limit/part)
}

// meter measures one phase.
type meter struct {
	l     *load
	phase Phase
	of    int
	began time.Time

	mu    sync.Mutex
	times []time.Duration
	shown time.Time
}

func (l *load) begin(name string, of int) *meter {
	return &meter{l: l, phase: Phase{Name: name}, of: of, began: time.Now()}
}

// add counts n tasks that took so long together; zero: it is not measured.
func (m *meter) add(n int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase.Tasks += n
	if took > 0 {
		m.times = append(m.times, took)
	}
	m.show()
}

// show tells of the progress, ten times a second at most. It is called under mu.
func (m *meter) show() {
	if m.l.Progress == nil || time.Since(m.shown) < 100*time.Millisecond {
		return
	}
	m.shown = time.Now()
	m.l.Progress(m.phase.Name, m.phase.Tasks, m.of)
}

// end adds the phase to the answer.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.phase
	p.Seconds = time.Since(m.began).Seconds()
	p.PerSecond = float64(p.Tasks) / max(p.Seconds, 1e-9)
	p.Cut = p.Tasks < m.of
	if len(m.times) > 0 {
		slices.Sort(m.times)
		p.P50, p.P99, p.Max = quantile(m.times, 0.5), quantile(m.times, 0.99), quantile(m.times, 1)
	}
	m.l.phases = append(m.l.phases, *p)
}

// quantile is a quantile of sorted times, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}

// over reports whether an error only says that a phase's time is over. A call may
// know so by the deadline, before the context's own timer has fired.
func over(whole, phase context.Context) bool {
	by, bounded := phase.Deadline()
	return whole.Err() == nil && (phase.Err() != nil || bounded && !time.Now().Before(by))
}

// batches enqueues half of the tasks, a thousand with each call.
func (l *load) batches(ctx context.Context) (int, error) {
	phase, cancel := l.share(ctx, 4)
	defer cancel()
	m := l.begin(EnqueueBatches, l.Tasks/2)
	defer m.end()
	for m.phase.Tasks < m.of && phase.Err() == nil {
		items := make([]stem.Item, min(1000, m.of-m.phase.Tasks))
		for i := range items {
			items[i] = noop.Item(args{At: time.Now(), Pad: l.pad})
		}
		at := time.Now()
		receipts, err := l.client.EnqueueMany(phase, items)
		if err == nil {
			err = firstError(receipts)
		}
		if err != nil && !over(ctx, phase) {
			return m.phase.Tasks, cmp.Or(context.Cause(ctx), err)
		}
		if err == nil {
			m.add(len(items), time.Since(at))
		}
	}
	return m.phase.Tasks, context.Cause(ctx)
}

func firstError(receipts []stem.Receipt) error {
	for i := range receipts {
		if receipts[i].Err != nil {
			return receipts[i].Err
		}
	}
	return nil
}

// singly enqueues the other half, one task with each call, several callers at
// once.
func (l *load) singly(ctx context.Context) (int, error) {
	phase, cancel := l.share(ctx, 4)
	defer cancel()
	m := l.begin(EnqueueSingly, l.Tasks-l.Tasks/2)
	defer m.end()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var producers sync.WaitGroup
	for range max(1, l.Producers) {
		producers.Go(func() {
			for phase.Err() == nil && next.Add(1) <= int64(m.of) {
				at := time.Now()
				_, err := noop.Enqueue(phase, l.client, args{At: at, Pad: l.pad})
				if err != nil {
					if !over(ctx, phase) {
						failed.CompareAndSwap(nil, &err)
						cancel()
					}
					return
				}
				m.add(1, time.Since(at))
			}
		})
	}
	producers.Wait()
	if err := failed.Load(); err != nil {
		return m.phase.Tasks, cmp.Or(context.Cause(ctx), *err)
	}
	return m.phase.Tasks, context.Cause(ctx)
}

// work processes the backlog with a worker, and then measures it idle.
func (l *load) work(ctx context.Context, backlog int) error {
	w := stem.NewWorker(l.client, stem.WorkerOptions{Queues: stem.Strict(Queue), Concurrency: l.Concurrency})
	if err := w.Handle(noop.Do(l.handle)); err != nil {
		return err
	}
	var running sync.WaitGroup
	failed := make(chan error, 1)
	running.Go(func() {
		if err := w.Run(context.WithoutCancel(ctx)); err != nil {
			failed <- err
		}
	})
	err := l.process(ctx, backlog, failed)
	if err == nil {
		err = l.latencies(ctx)
	}
	w.Shutdown(stem.Soft)
	running.Wait()
	return err
}

func (l *load) handle(_ context.Context, _ args) error {
	now := time.Now()
	l.handled.Add(1)
	if l.idle.Load() {
		select {
		case l.started <- now:
		default:
		}
	}
	return nil
}

// process waits until the backlog is done.
func (l *load) process(ctx context.Context, backlog int, failed <-chan error) error {
	phase, cancel := l.share(ctx, 4)
	defer cancel()
	m := l.begin(Process, backlog)
	defer m.end()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for seen := 0; seen < backlog; {
		select {
		case <-tick.C:
		case err := <-failed:
			return err
		case <-phase.Done():
			return context.Cause(ctx)
		}
		n := int(l.handled.Load())
		m.add(n-seen, 0)
		seen = n
	}
	return nil
}

// samples is how many tasks the latencies are measured with.
func (l *load) samples() int { return min(max(l.Tasks/100, 20), 200) }

// latencies enqueues tasks one after the other while the worker has nothing
// else to do.
func (l *load) latencies(ctx context.Context) error {
	if p := l.phases[len(l.phases)-1]; p.Cut {
		return nil // there is a backlog still: the worker is not idle
	}
	l.idle.Store(true)
	samples := l.samples()
	start, result := l.begin(StartLatency, samples), l.begin(ResultLatency, samples)
	phase, cancel := l.share(ctx, 8)
	defer cancel()
	defer result.end()
	defer start.end()
	for range samples {
		at := time.Now()
		h, err := noop.Enqueue(phase, l.client, args{At: at, Pad: l.pad})
		if err == nil {
			select {
			case began := <-l.started:
				start.add(1, began.Sub(at))
			case <-phase.Done():
			}
			_, err = h.Wait(phase)
		}
		switch {
		case phase.Err() != nil, err != nil && over(ctx, phase):
			return context.Cause(ctx)
		case err != nil && !errors.Is(err, stem.ErrNoResult):
			return err
		}
		result.add(1, time.Since(at))
	}
	return nil
}
