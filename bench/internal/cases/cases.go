// Package cases holds the benchmark's cases, which every system is put
// through, and what a system has to be able to do for them.
package cases

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Options are the settings of one run.
type Options struct {
	System string // "stem-memory", "stem-sqlite", "stem-redis", "asynq", "river-sqlite", "raw-sqlite"
	Case   string
	Tuned  bool   // the system's settings for speed rather than its defaults
	Sync   string // SQLite: "full" or "normal"; Redis: "mem" or "aof"
	File   string // the SQLite database
	Redis  string // host:port of the Redis server

	N           int
	Concurrency int
	Producers   int
	Batch       int
	Backlog     int
	Rep         int
	Retain      bool
	Drop        bool          // keep no status of what succeeded
	NoArgs      bool          // keep no args with the status
	Observed    string        // "metrics", or "traces": those and a tenth of all traces; "": nothing is
	Queue       string        // other than the default one
	Queues      int           // over which several processes' work is spread
	Lease       time.Duration // other than the default one
	Max         time.Duration // a drain that takes longer reports the rate until then
	Role        string        // of a helper process; "" for the measuring one
}

// Payload is the size of a task's argument, in bytes of JSON.
const Payload = 200

// System is one job system on one store.
type System interface {
	// Version is the version of the library.
	Version() string
	NewProducer(ctx context.Context) (Producer, error)
	// NewWorker makes a worker that calls handle at the start of each task.
	// With retain, the task's result, 64 bytes, is kept.
	NewWorker(ctx context.Context, handle func(seq int), concurrency int, retain bool) (Worker, error)
	// Left is how many tasks have no outcome yet.
	Left(ctx context.Context) (int, error)
	Close() error
}

// Producer enqueues tasks; due zero means now. It is used concurrently.
type Producer interface {
	One(ctx context.Context, seq int, due time.Time) error
	Many(ctx context.Context, from, n int, due time.Time) error
	Close() error
}

// Worker executes tasks from Start until Stop.
type Worker interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Probe is what a store's server has used so far.
type Probe struct {
	CPU      time.Duration
	Commands int64
	Scripts  int64 // of the commands, those that run a script
	Messages int64 // that were published
	Bytes    int64 // of memory, in use now
}

// Prober is a System whose store is a server that tells what it uses.
type Prober interface {
	Probe(ctx context.Context) (Probe, error)
}

// Pager is a System that lists tasks in pages.
type Pager interface {
	// Page lists all tasks, page by page, until ctx ends.
	Page(ctx context.Context) error
}

// Walker is a System on two stores that looks for what crashes left.
type Walker interface {
	// Walk looks through all records, again and again, until ctx ends.
	Walk(ctx context.Context) error
}

// ErrUnsupported: the system has no such call.
var ErrUnsupported = errors.New("not supported by this system")

// Result is one line of output.
type Result struct {
	System  string `json:"system"`
	Version string `json:"version,omitempty"`
	Case    string `json:"case"`
	Setting string `json:"setting"` // what distinguishes runs of a case
	Rep     int    `json:"rep"`

	N       int     `json:"n"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"ratePerS,omitempty"`

	P50 float64 `json:"p50Ms,omitempty"`
	P99 float64 `json:"p99Ms,omitempty"`
	Max float64 `json:"maxMs,omitempty"`

	CPU       float64 `json:"cpuUsPerTask,omitempty"`
	ServerCPU float64 `json:"serverCpuUsPerTask,omitempty"`
	CPUIdle   float64 `json:"cpuMsPerS,omitempty"` // of the idle case
	RSS       float64 `json:"rssMiB"`

	Extra map[string]float64 `json:"extra,omitempty"`
	Note  string             `json:"note,omitempty"`
}

func (r *Result) set(name string, v float64) {
	if r.Extra == nil {
		r.Extra = map[string]float64{}
	}
	r.Extra[name] = v
}

// percentiles fills the latencies of r.
func (r *Result) percentiles(d []time.Duration) {
	if len(d) == 0 {
		return
	}
	slices.Sort(d)
	at := func(q float64) float64 { return float64(d[int(q*float64(len(d)-1))]) / 1e6 }
	r.P50, r.P99, r.Max = at(0.50), at(0.99), at(1)
}

// run is a case being run.
type run struct {
	Options
	open func(ctx context.Context, o Options) (System, error)
	sys  System
}

// table has every case with its defaults.
var table = map[string]struct {
	defaults Options
	run      func(r *run, ctx context.Context) (*Result, error)
}{
	"enqueue":      {Options{N: 40_000, Producers: 1}, (*run).enqueue},
	"enqueueBatch": {Options{N: 100_000, Batch: 1000}, (*run).enqueueBatch},
	"process":      {Options{N: 100_000, Concurrency: 10}, (*run).process},
	"latency":      {Options{N: 200, Concurrency: 10}, (*run).latency},
	"latency2":     {Options{N: 200, Concurrency: 10}, (*run).latencyAcross},
	"steady":       {Options{N: 10_000, Concurrency: 50, Producers: 10}, (*run).steady},
	"idle":         {Options{Concurrency: 10}, (*run).idle},
	"delayed":      {Options{N: 5_000, Concurrency: 100}, (*run).delayed},
	"scale":        {Options{N: 50_000, Backlog: 10_000, Concurrency: 100}, (*run).scale},
	"fair":         {Options{Producers: 4}, (*run).fair},
	"mixed":        {Options{N: 2_000, Concurrency: 10}, (*run).mixed},
	"bytes":        {Options{N: 20_000, Concurrency: 100}, (*run).bytes},
	"fleet":        {Options{N: 100, Concurrency: 10, Producers: 200}, (*run).fleet},
	"processes":    {Options{N: 200_000, Concurrency: 100, Producers: 4, Queues: 1}, (*run).processes},
	"reclaim":      {Options{N: 10_000, Concurrency: 100, Lease: 5 * time.Second}, (*run).reclaim},
	"paged":        {Options{N: 100_000, Concurrency: 100, Backlog: 1_000_000}, (*run).paged},
	"walked":       {Options{N: 100_000, Concurrency: 100, Backlog: 1_000_000}, (*run).walked},
}

// Names lists the cases.
func Names() []string { return slices.Sorted(maps.Keys(table)) }

// Run runs one case on a fresh store.
func Run(ctx context.Context, o Options, open func(ctx context.Context, o Options) (System, error)) (*Result, error) {
	c, ok := table[o.Case]
	if !ok {
		return nil, fmt.Errorf("no case %q: have %v", o.Case, Names())
	}
	for _, f := range []struct{ have, other *int }{
		{&o.N, &c.defaults.N}, {&o.Concurrency, &c.defaults.Concurrency}, {&o.Producers, &c.defaults.Producers},
		{&o.Batch, &c.defaults.Batch}, {&o.Backlog, &c.defaults.Backlog}, {&o.Queues, &c.defaults.Queues},
	} {
		if *f.have == 0 {
			*f.have = *f.other
		}
	}
	if o.Lease == 0 {
		o.Lease = c.defaults.Lease
	}
	if o.Max == 0 {
		o.Max = 60 * time.Second
	}
	sys, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	r := &run{Options: o, open: open, sys: sys}
	if o.Role != "" {
		return nil, r.help(ctx)
	}
	result, err := c.run(r, ctx)
	if err != nil {
		return nil, err
	}
	result.System, result.Version, result.Case, result.Rep = o.System, sys.Version(), o.Case, o.Rep
	if result.Setting == "" {
		result.Setting = r.setting()
	}
	return result, nil
}

// setting describes what a run has that another of its case may not.
func (r *run) setting() string {
	s := ""
	add := func(format string, args ...any) {
		if s != "" {
			s += " "
		}
		s += fmt.Sprintf(format, args...)
	}
	if r.Sync != "" {
		add("%s", r.Sync)
	}
	if r.Tuned {
		add("tuned")
	}
	if r.Concurrency > 0 {
		add("c=%d", r.Concurrency)
	}
	if r.Producers > 0 {
		add("p=%d", r.Producers)
	}
	if r.Batch > 0 {
		add("batch=%d", r.Batch)
	}
	if r.Backlog > 0 {
		add("backlog=%d", r.Backlog)
	}
	if r.Queues > 0 {
		add("queues=%d", r.Queues)
	}
	if r.Retain {
		add("retain")
	}
	if r.Drop {
		add("drop")
	}
	if r.NoArgs {
		add("noargs")
	}
	if r.Observed != "" {
		add("%s", r.Observed)
	}
	return s
}
