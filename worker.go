package stem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// Handler executes a task of any kind: what middleware wraps. The execution
// is that of Current(ctx); args and the result are JSON.
type Handler func(ctx context.Context, args json.RawMessage) (json.RawMessage, error)

// Middleware wraps handlers, as in net/http.
type Middleware func(next Handler) Handler

// Registration binds a task to its handler, for Worker.Handle.
type Registration struct {
	def *definition
	run Handler
}

// Name is the task's name.
func (r Registration) Name() string { return r.def.name }

// With binds the task to its handler: a plain function, which a test can call.
func (t Task[Args, Result]) With(handle func(context.Context, Args) (Result, error)) Registration {
	return Registration{t.def, func(ctx context.Context, raw json.RawMessage) (json.RawMessage, error) {
		var args Args
		if err := json.Unmarshal(raw, &args); err != nil {
			return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: fmt.Errorf("arguments do not fit %T: %w", args, err)}
		}
		result, err := handle(ctx, args)
		if err != nil {
			return nil, err
		}
		out, err := json.Marshal(result)
		if err != nil {
			return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: fmt.Errorf("encode the result: %w", err)}
		}
		return out, nil
	}}
}

// Do binds the task to a handler that has no result.
func (t Task[Args, Result]) Do(handle func(context.Context, Args) error) Registration {
	return Registration{t.def, func(ctx context.Context, raw json.RawMessage) (json.RawMessage, error) {
		var args Args
		if err := json.Unmarshal(raw, &args); err != nil {
			return nil, &runner.ArgsError{Reason: task.ReasonArgsInvalid, Err: fmt.Errorf("arguments do not fit %T: %w", args, err)}
		}
		return nil, handle(ctx, args)
	}}
}

// Queues says which queues a worker receives from: Strict or Weights. Names
// may be patterns with "*", which follow queues as they appear.
type Queues interface {
	queues() ([]runner.Queue, error)
}

// Strict receives from the first queue that has work.
func Strict(names ...string) Queues { return strict(names) }

type strict []string

func (s strict) queues() ([]runner.Queue, error) {
	out := make([]runner.Queue, len(s))
	for i, name := range s {
		out[i] = runner.Queue{Name: name}
	}
	return out, nil
}

// Weights receives from all its queues, in proportion to their weights while
// all have work.
type Weights map[string]int

func (w Weights) queues() ([]runner.Queue, error) {
	out := make([]runner.Queue, 0, len(w))
	for name, weight := range w {
		if weight < 1 {
			return nil, fmt.Errorf("queue %s: %w weight %d: want 1 or more", name, task.ErrInvalid, weight)
		}
		out = append(out, runner.Queue{Name: name, Weight: weight})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// WorkerOptions shape a worker. The zero value works.
type WorkerOptions struct {
	ID      string // "": host-pid-xxxx
	Version string // of the program, shown in heartbeats

	Queues      Queues        // nil: the client's default queue
	Concurrency int           // isolates; 0: four for each CPU
	Prefetch    int           // deliveries held = Concurrency × Prefetch; 0: as many as start within 10 ms
	Lease       time.Duration // 0: 30 s; a task's VisibilityTimeout wins

	Retention     time.Duration // of finished statuses; 0: 24 h; Forever. A task's and a call's win
	DeadLetterTTL time.Duration // dead letters that are older are removed, with their statuses; 0: never
	MaxDeliveries int           // starts without an outcome before crash-loop; 0: 10
	UnknownGrace  time.Duration // how long unknown tasks are left to other workers; 0: 1 h
	MaxResult     int           // bytes; 0: 1 MiB

	HeartbeatInterval time.Duration // 0: 10 s
	Grace             time.Duration // of a warm stop, in all; 0: 25 s
	SoftGrace         time.Duration // its last part, after contexts are cancelled; 0: 5 s

	Middleware []Middleware // around every handler; the first is outermost

	// OnDead, when set, is told of each task that this worker has dead-lettered,
	// after the dead letter is stored: to alert somebody, say. Calls come one
	// after the other and beside the work; each may take 5 s, after which its
	// context ends and it is left behind. A panic in it is logged. It is told at
	// most once of a death, and not of all: not when the worker dies itself, when
	// more than 1,000 deaths wait to be told, or when the store's answer was lost.
	OnDead func(ctx context.Context, d Dead)

	Logger   *slog.Logger   // nil: the client's
	LogLevel *slog.LevelVar // of that logger, which operators may change by command; nil: they may not
	Meter    measure.Meter  // nil: the client's
	Tracer   measure.Tracer // nil: the client's
}

// Worker executes tasks. Register handlers with Handle, then call Run once.
type Worker struct {
	client *Client
	opts   WorkerOptions
	logger *slog.Logger
	tasks  map[string]*runner.Task
	runner atomic.Pointer[runner.Runner] // nil before Run
	asked  atomic.Int32                  // the most urgent Mode that Shutdown was called with
}

// Mode is how a worker stops.
type Mode = runner.Mode

// The ways to stop a worker, each more urgent than the one before.
const (
	Warm = runner.Warm // take no more, give back what has not started, finish what runs
	Soft = runner.Soft // also cancel the contexts of what runs, and release it uncounted
	Hard = runner.Hard // stop now; leases bring the work back
)

// Dead is a task that a worker has dead-lettered, as WorkerOptions.OnDead is
// told of it.
type Dead = runner.Dead

// Report says what became of the deliveries that a stopping worker held.
type Report = runner.Report

// NewWorker makes a worker on a client's backend.
func NewWorker(c *Client, o WorkerOptions) *Worker {
	w := &Worker{client: c, opts: o, logger: o.Logger, tasks: map[string]*runner.Task{}}
	if w.logger == nil {
		w.logger = c.opts.Logger
	}
	return w
}

// Handle registers handlers. A name that is registered twice is an error. Call
// it before Run.
func (w *Worker) Handle(rs ...Registration) error {
	for _, r := range rs {
		t := &runner.Task{
			Name:  r.def.name,
			Retry: runner.Retry(r.def.retry), SoftTimeout: r.def.soft, HardTimeout: r.def.hard,
			Limit: r.def.limit.runnerLimit(r.def.name), Handle: w.adapt(r),
		}
		o := gathered(r.def.defaults, nil)
		t.Keep, t.IgnoreResult, t.MaxRetries = o.retention, o.ignoreResult, o.maxRetries
		for _, name := range append([]string{r.def.name}, r.def.aliases...) {
			if _, ok := w.tasks[name]; ok {
				return fmt.Errorf("task %s has two handlers in this worker", name)
			}
			w.tasks[name] = t
		}
	}
	return nil
}

// Names lists the names that the worker answers to.
func (w *Worker) Names() []string {
	names := make([]string, 0, len(w.tasks))
	for n := range w.tasks {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// adapt makes the runner's handler: it decodes the payload, sets Current, and
// goes through the middleware.
func (w *Worker) adapt(r Registration) runner.Handler {
	run := r.run
	for i := len(w.opts.Middleware) - 1; i >= 0; i-- {
		run = w.opts.Middleware[i](run)
	}
	return func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
		e := j.Envelope()
		header := e.Headers[task.HeaderEncoder]
		args := e.Args
		if header != "" {
			var err error
			if args, err = w.client.codecs.Unpack(header, args); err != nil {
				return nil, argsError(err)
			}
		}
		if args == nil {
			args = json.RawMessage("null")
		}
		ctx = context.WithValue(ctx, currentKey{}, &Execution{job: j, client: w.client, logger: w.logger})
		out, err := run(ctx, args)
		if err != nil || header == "" || out == nil {
			return out, err
		}
		if out, err = w.client.codecs.PackAs(header, out); err != nil {
			return nil, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: err}
		}
		return out, nil
	}
}

func argsError(err error) error {
	reason := task.ReasonArgsInvalid
	if errors.Is(err, encode.ErrUnknown) {
		reason = task.ReasonEncoderUnknown
	}
	return &runner.ArgsError{Reason: reason, Err: err}
}

// Run executes tasks until ctx ends or Shutdown is called, and then drains: it
// takes no more, gives back what has not started, and finishes what runs, for
// as long as Grace. It returns nil after a stop, and an error when the worker
// could not start. A worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	cfg, err := w.config()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	r, err := runner.New(cfg)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	if !w.runner.CompareAndSwap(nil, r) {
		return errors.New("worker: Run was called before")
	}
	if m := Mode(w.asked.Load()); m > 0 {
		r.Shutdown(m) // asked for before there was a runner
	}
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	var keepers sync.WaitGroup
	keepers.Go(func() { w.runReconciler(base, r.Snapshot().Worker) })
	keepers.Go(func() { w.runUndertaker(base, r.Snapshot().Worker) })
	defer keepers.Wait()
	defer stop()
	return r.Run(ctx)
}

func (w *Worker) config() (runner.Config, error) {
	o := w.opts
	if o.Queues == nil {
		o.Queues = Strict(w.client.opts.DefaultQueue)
	}
	queues, err := o.Queues.queues()
	if err != nil {
		return runner.Config{}, err
	}
	if o.DeadLetterTTL < 0 {
		return runner.Config{}, fmt.Errorf("time of dead letters: %w duration %s: want zero or more", task.ErrInvalid, o.DeadLetterTTL)
	}
	limiter, err := w.limiter()
	if err != nil {
		return runner.Config{}, err
	}
	meter := o.Meter
	if meter == nil {
		meter = w.client.opts.Meter
	}
	tracer := o.Tracer
	if tracer == nil {
		tracer = w.client.opts.Tracer
	}
	return runner.Config{
		Broker: w.client.broker, Lookup: func(name string) *runner.Task { return w.tasks[name] },
		ID: o.ID, Version: o.Version, Queues: queues, Concurrency: o.Concurrency, Prefetch: o.Prefetch, Lease: o.Lease,
		MaxDeliveries: o.MaxDeliveries, UnknownGrace: o.UnknownGrace, Keep: o.Retention, MaxResult: o.MaxResult,
		Limiter: limiter, Rates: w.rates, Heartbeats: w.client.beats, HeartbeatInterval: o.HeartbeatInterval,
		Control: w.client.control, LogLevel: o.LogLevel,
		OnDead: o.OnDead,
		Grace:  o.Grace, SoftGrace: o.SoftGrace, Logger: w.logger, Meter: meter, Tracer: tracer,
	}, nil
}

// Shutdown asks the worker to stop in that mode, and returns at once. It may be
// called again with a more urgent one. A worker that has not started yet stops
// when it does.
func (w *Worker) Shutdown(m Mode) {
	for asked := w.asked.Load(); int32(m) > asked && !w.asked.CompareAndSwap(asked, int32(m)); asked = w.asked.Load() {
	}
	if r := w.runner.Load(); r != nil {
		r.Shutdown(m)
	}
}

// Report says, after Run, what was finished, released and abandoned by the
// stop.
func (w *Worker) Report() Report {
	if r := w.runner.Load(); r != nil {
		return r.Report()
	}
	return Report{}
}

// Ready says why the worker is not ready, or nil: it received, or proved its
// queues empty, within that time, and is not draining.
func (w *Worker) Ready(within time.Duration) error {
	if r := w.runner.Load(); r != nil {
		return r.Ready(within)
	}
	return errors.New("the worker has not started")
}

// Live says why the worker is beyond help, or nil: its loop has not gone round
// within that time. A store that is away does not matter to it; give it a minute.
func (w *Worker) Live(within time.Duration) error {
	if r := w.runner.Load(); r != nil {
		return r.Live(within)
	}
	return nil
}

// Heartbeat is what the worker would say of itself now.
func (w *Worker) Heartbeat() Heartbeat {
	if r := w.runner.Load(); r != nil {
		return r.Snapshot()
	}
	return Heartbeat{}
}
