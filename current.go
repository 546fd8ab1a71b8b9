package stem

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// Execution is one run of a handler: what Current returns. All its methods are
// safe for concurrent use. Outside a handler they return zero values and do
// nothing.
type Execution struct {
	job    *runner.Job // nil: detached
	client *Client     // nil: detached
	info   Info
	logger *slog.Logger // nil: slog.Default
}

// Info describes an execution; see ContextWith.
type Info struct {
	ID         string
	Name       string
	Queue      string
	Attempt    int // executions before this one; 0 at first
	MaxRetries int
	Worker     string
	Deadline   time.Time // of the nearer time limit; zero: none
	Headers    map[string]string
	Root       string // the first task of a line of parents; the task itself without one
}

type currentKey struct{}

// Current returns the execution that ctx belongs to: of a handler's context,
// its own; of any other, a detached one. It is never nil.
func Current(ctx context.Context) *Execution {
	if e, ok := ctx.Value(currentKey{}).(*Execution); ok {
		return e
	}
	return &detached
}

// detached is the execution outside a handler; it has no state.
var detached Execution

// ContextWith returns a context whose Current is a detached execution with
// that description: to call a handler in a test.
func ContextWith(ctx context.Context, info Info) context.Context {
	return context.WithValue(ctx, currentKey{}, &Execution{info: info})
}

// ID is the task's id; "" outside a handler.
func (e *Execution) ID() string {
	if e.job != nil {
		return e.job.Delivery.Envelope.ID
	}
	return e.info.ID
}

// Name is the task's name.
func (e *Execution) Name() string { return e.describe().Name }

// Queue is where the task was received.
func (e *Execution) Queue() string { return e.describe().Queue }

// Attempt is how many executions ended before this one; 0 at first.
func (e *Execution) Attempt() int { return e.describe().Attempt }

// Redelivered reports whether an earlier lease of the task ended without an
// outcome: another worker may have executed a part of it.
func (e *Execution) Redelivered() bool { return e.job != nil && e.job.Delivery.Redelivered }

// MaxRetries is how many attempts may follow the first.
func (e *Execution) MaxRetries() int { return e.describe().MaxRetries }

// Worker is the id of the worker.
func (e *Execution) Worker() string { return e.describe().Worker }

// Deadline is the nearer of the task's time limits; false without one.
func (e *Execution) Deadline() (time.Time, bool) {
	d := e.describe().Deadline
	return d, !d.IsZero()
}

// Header returns a header of the task, "" without it.
func (e *Execution) Header(key string) string { return e.describe().Headers[key] }

// Root is the id of the first task in the line of parents.
func (e *Execution) Root() string {
	if e.job == nil {
		if e.info.Root != "" {
			return e.info.Root
		}
		return e.info.ID
	}
	var root string
	if raw := e.job.Delivery.Envelope.Meta[task.MetaRoot]; raw != nil && json.Unmarshal(raw, &root) == nil && root != "" {
		return root
	}
	return e.ID()
}

// Meta decodes an annotation that the caller gave with the Meta option into
// value, and reports whether there is one.
func (e *Execution) Meta(key string, value any) (bool, error) {
	if e.job == nil {
		return false, nil
	}
	var user map[string]json.RawMessage
	raw := e.job.Delivery.Envelope.Meta[task.MetaUser]
	if raw == nil {
		return false, nil
	}
	if err := json.Unmarshal(raw, &user); err != nil {
		return false, fmt.Errorf("meta of task %s: %w", e.ID(), err)
	}
	if raw = user[key]; raw == nil {
		return false, nil
	}
	return true, json.Unmarshal(raw, value)
}

// Describe returns everything above as a value.
func (e *Execution) Describe() Info {
	info := *e.describe()
	info.Root = e.Root()
	info.Headers = maps.Clone(info.Headers) // other tasks may have the same map
	return info
}

func (e *Execution) describe() *Info {
	if e.job == nil {
		return &e.info
	}
	d := &e.job.Delivery
	return &Info{
		ID: d.Envelope.ID, Name: d.Envelope.Name, Queue: d.Queue, Attempt: d.Attempt, MaxRetries: e.job.MaxRetries(),
		Worker: e.job.Worker, Deadline: e.job.Deadline, Headers: d.Envelope.Headers,
	}
}

// Progress reports how far the handler is, in percent, with any data that
// encodes as JSON. It returns at once: what is stored is the newest report, a
// few times a second.
func (e *Execution) Progress(percent float64, data any) error {
	if e.job == nil {
		return nil
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("progress of task %s: %w", e.ID(), err)
	}
	if data == nil {
		raw = nil
	}
	e.job.Progress(percent, raw)
	return nil
}

// Heartbeat renews the lease now. Leases are renewed anyway while the handler
// runs; call it before work that keeps the whole process from running.
func (e *Execution) Heartbeat() {
	if e.job != nil {
		e.job.Heartbeat()
	}
}

// ExtendLease makes the lease end no sooner than d from now.
func (e *Execution) ExtendLease(d time.Duration) {
	if e.job != nil {
		e.job.ExtendLease(d)
	}
}

// Logger logs with the task's id, name, queue, attempt and worker.
func (e *Execution) Logger() *slog.Logger {
	l := e.logger
	if l == nil {
		l = slog.Default()
	}
	if e.ID() == "" {
		return l
	}
	i := e.describe()
	l = l.With("task", i.Name, "task_id", i.ID, "queue", i.Queue, "attempt", i.Attempt, "worker", i.Worker)
	if id := e.Trace().TraceID(); id != "" {
		return l.With("trace_id", id)
	}
	return l
}

// Enqueue stores items with the worker's own client, with this task as their
// parent. Outside a handler it is an error.
func (e *Execution) Enqueue(ctx context.Context, items ...Item) ([]Receipt, error) {
	if e.client == nil {
		return nil, fmt.Errorf("enqueue through Current: %w", errDetached)
	}
	return e.client.EnqueueMany(ctx, items)
}

var errDetached = fmt.Errorf("this context belongs to no running task: %w", broker.ErrUnsupported)

// OnSuccess enqueues the items when this attempt succeeds, in the same step
// that stores its result, or not at all: a failed, lost or repeated attempt
// enqueues nothing of its own.
func OnSuccess(ctx context.Context, items ...Item) error {
	e := Current(ctx)
	if e.job == nil || e.client == nil {
		return fmt.Errorf("stem.OnSuccess: %w", errDetached)
	}
	pubs := make([]broker.Publication, len(items))
	for i := range items {
		p, _, err := e.client.publication(ctx, &items[i], time.Now())
		if err != nil {
			return err
		}
		pubs[i] = p
	}
	e.job.OnSuccess(pubs...)
	return nil
}
