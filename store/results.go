package store

import (
	"context"
	"errors"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Errors that callers branch on. Backends wrap them.
var (
	ErrNotFound    = errors.New("task not found")
	ErrExists      = errors.New("task exists")
	ErrStale       = errors.New("a newer run owns the task")
	ErrNotFinished = errors.New("task has not finished")
)

// Results keeps statuses. The package documentation has the rules S1–S12.
//
// Where a broker keeps its statuses itself (broker.Atomic), only Get, List and
// Delete are called from outside; the others serve a broker on another store.
type Results interface {
	Create(ctx context.Context, batch []task.Status) ([]error, error)
	Update(ctx context.Context, batch []Update) ([]Answer, error)
	Record(ctx context.Context, batch []Record) ([]error, error)
	Clear(ctx context.Context, batch []Key) error
	Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error)

	Get(ctx context.Context, ids ...string) ([]Found, error)
	List(ctx context.Context, q Query) (List, error)
	Delete(ctx context.Context, ids ...string) ([]error, error)

	Close() error
}

// Key names one lease of a task.
type Key struct {
	ID    string
	Epoch int64
}

// Update reports a start, or progress, of a delivery.
type Update struct {
	Key
	Start    bool
	Attempt  int // of the delivery: tells a stored retry of this attempt from an earlier one
	Replays  int // of the delivery: tells a stored failure from one that was replayed since
	Worker   string
	At       time.Time // of the start
	Progress *task.Progress
	Envelope *task.Envelope // for a start of an id without a record, or of a replay
}

// Answer is the answer for one update: an error, or a stored outcome that a
// start found.
type Answer struct {
	Err    error
	Stored *Record
}

// Record is an outcome to store, with what is to be enqueued because of it.
type Record struct {
	Key
	Outcome   task.Outcome
	Followups []broker.Publication // the outbox, with Release
	Release   []string             // claims that end with it
	Envelope  *task.Envelope       // for an outcome of an id without a record
}

// Outboxes is the power to list the records that have an outbox, so that what a
// crash left of them is found without a delivery.
type Outboxes interface {
	// ListOutboxes returns a page of outcomes stored before that moment whose
	// outbox is not cleared, in any steady order, and the cursor of the next
	// page; "" after the last. Each record has its outbox and its newest epoch.
	ListOutboxes(ctx context.Context, before time.Time, p broker.Page) ([]Record, string, error)
}

// Found is the answer for one id of a Get.
type Found struct {
	Status task.Status
	Err    error // ErrNotFound
}

// Watcher is the power to tell of changes as they happen.
type Watcher interface {
	// Subscribe's channel receives after changes of the task until cancel is
	// called. It never blocks the store.
	Subscribe(id string) (changed <-chan struct{}, cancel func())
}

// Heartbeats keeps what workers say of themselves. A backend that has it keeps
// each for its TTL.
type Heartbeats interface {
	Beat(ctx context.Context, h Heartbeat, ttl time.Duration) error
	Workers(ctx context.Context) ([]Heartbeat, error)
}

// Heartbeat is what a worker says of itself.
type Heartbeat struct {
	Worker    string    `json:"worker"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	At        time.Time `json:"at"`
	Interval  int64     `json:"intervalMs"` // until the next is due
	Queues    []string  `json:"queues"`

	Isolates Isolates     `json:"isolates"`
	Inflight int          `json:"inflight"` // deliveries held, prefetched ones included
	Running  []RunningJob `json:"running"`  // at most 100

	Succeeded int64     `json:"succeeded"`
	Failed    int64     `json:"failed"`
	Retried   int64     `json:"retried"`
	Load      float64   `json:"load"`               // of its host in the last minute, as uptime tells it; 0: not known
	RenewedAt time.Time `json:"renewedAt,omitzero"` // the last lease renewal
	Draining  bool      `json:"draining"`
	Stopped   bool      `json:"stopped,omitempty"` // its last word: it ended in good order
}

// Isolates counts a worker's slots.
type Isolates struct {
	Active int `json:"active"`
	Total  int `json:"total"`
}

// RunningJob is a task that a worker executes.
type RunningJob struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}
