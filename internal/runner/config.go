// Package runner executes tasks: it receives deliveries, runs their handlers
// under leases, and settles them. It speaks bytes; the typed edge is package
// stem, which hands it everything it needs as a Config.
//
// A delivery's way: the fetcher, one goroutine that owns the consumer, receives
// it with an exchange (fetch.go, receive.go) and puts it into the line
// (line.go), from which whichever isolate is free takes it. The isolate
// executes it (isolate.go) and leaves an outcome (outcome.go, links.go), which
// the fetcher sends with its next exchange, together with the renewals that
// are due (lease.go). What was delivered before is first started by a call of
// its own (start.go). drain.go is how all of this ends. control.go
// obeys commands meanwhile, and rates.go knows the rate limits that people have
// changed. What is logged on the way is written beside it (scribe.go).
//
// There is one lock, line.mu, and it is never held during a call to the broker
// or to a handler. Who waits, waits on a channel or on line.work.
package runner

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
)

// Handler executes one task: the job has its arguments as bytes, and the
// result goes back as JSON.
type Handler func(ctx context.Context, j *Job) (json.RawMessage, error)

// Task is what the runner knows of one kind of work.
type Task struct {
	Name   string
	Handle Handler

	Retry       Retry
	MaxRetries  *int          // where the envelope's is nobody's choice; nil: the envelope's
	SoftTimeout time.Duration // 0: none. Cancels the context with ErrSoftTimeout
	HardTimeout time.Duration // 0: none. Abandons the attempt
	Limit       *Limit        // of how often it starts; nil: none

	// Keep is the retention of terminal statuses when the envelope says
	// nothing; nil: the worker's.
	Keep         *time.Duration
	IgnoreResult bool
}

// Retry shapes the waits between attempts. The zero value is the default:
// base 1 s, factor 2, ceiling 10 min, full jitter.
type Retry struct {
	Base   time.Duration
	Factor float64
	Max    time.Duration
	// Jitter is the share of the wait that is random, 0 < Jitter ≤ 1; 0: 1
	// (full jitter), negative: none.
	Jitter float64
	// Wait, when set, replaces all of the above.
	Wait func(attempt int, err error) time.Duration
}

// Queue is one entry of a subscription.
type Queue struct {
	Name   string // or a pattern with "*"
	Weight int    // 0 for all: strict order as listed
}

// Config is everything a runner needs. Zero values get the defaults named.
type Config struct {
	Broker      broker.Broker           // joined with its result store
	Lookup      func(name string) *Task // nil for a name that is unknown; safe for concurrent use
	ID          string
	Version     string
	Queues      []Queue
	Concurrency int           // 0: 4 × CPUs
	Prefetch    int           // deliveries held = Concurrency × Prefetch; 0: auto (SPEC 6.12)
	Lease       time.Duration // 0: broker.DefaultLease

	MaxDeliveries int           // counted starts without settlement; 0: 10
	UnknownGrace  time.Duration // how long an unknown name is released to others; 0: 1 h
	Keep          time.Duration // default retention; 0: 24 h, task.Forever
	MaxResult     int           // bytes; 0: task.DefaultMaxSize

	Limiter store.Limiter // of tasks with a Limit; nil: there are none
	Rates   Rates         // what of these limits people have changed; nil: nobody can

	Heartbeats        store.Heartbeats // nil: none are stored
	HeartbeatInterval time.Duration    // 0: 10 s

	Control  store.Control  // nil: it hears no commands
	LogLevel *slog.LevelVar // of Logger, which a command may change; nil: it may not

	Grace     time.Duration // of a drain, in all; 0: 25 s
	SoftGrace time.Duration // its last part, after contexts are cancelled; 0: 5 s

	// OnDead, when set, is told of each task that this runner has dead-lettered,
	// after that is stored: one call after the other, each for 5 s at most.
	OnDead func(ctx context.Context, d Dead)

	Logger *slog.Logger   // nil: discards
	Meter  measure.Meter  // nil: measure.None
	Tracer measure.Tracer // nil: traces nothing
}

// Defaults that are used in more than one place.
const (
	defaultMaxDeliveries = 10
	defaultKeep          = 24 * time.Hour
)

// Mode is how a runner stops.
type Mode int

// The ways to stop, each more urgent than the one before.
const (
	Warm Mode = iota + 1 // take no more, give back what has not started, finish what runs
	Soft                 // also cancel the contexts of what runs; release it uncounted
	Hard                 // stop now; leases bring the work back
)

// Report says what became of the deliveries held when the stop began.
type Report struct {
	Finished  int // settled by their own outcome
	Released  int // given back, uncounted
	Abandoned int // left to their leases
}
