package stem

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Names of package task that callers meet all the time.
type (
	State     = task.State
	Status    = task.Status
	Envelope  = task.Envelope
	Progress  = task.Progress
	Heartbeat = store.Heartbeat
)

// The states of a task.
const (
	Queued    = task.Queued
	Running   = task.Running
	Retried   = task.Retried
	Succeeded = task.Succeeded
	Failed    = task.Failed
	Cancelled = task.Cancelled
)

// None is the argument or the result of a task that has none.
type None struct{}

// Task is a named kind of work with a typed argument and a typed result. It
// has no handler, so that a program which only enqueues imports nothing of the
// work itself. A Task is a value that never changes, safe for concurrent use.
type Task[Args, Result any] struct{ def *definition }

// definition is what is known of a task apart from its types.
type definition struct {
	name       string
	aliases    []string
	defaults   []Option
	retry      RetryPolicy
	soft, hard time.Duration
	limit      *RateLimit // nil: none
	err        error      // of an option
}

// NewTask declares a task. It panics when the name breaks the rules
// (1–200 of A-Z a-z 0-9 . _ : - /), or a rate limit is none, since that is a
// mistake in the program.
func NewTask[Args, Result any](name string, opts ...TaskOption) Task[Args, Result] {
	d := &definition{name: name}
	for _, o := range opts {
		o.applyTask(d)
	}
	for _, n := range append([]string{name}, d.aliases...) {
		if err := task.ValidateName(n); err != nil {
			panic("stem.NewTask: " + err.Error())
		}
	}
	if d.err != nil {
		panic("stem.NewTask: task " + name + ": " + d.err.Error())
	}
	return Task[Args, Result]{d}
}

// Name is the task's name.
func (t Task[Args, Result]) Name() string { return t.def.name }

// Enqueue stores one task. Inside a handler, pass the handler's context: parent
// and root are read from it.
//
// The handle is never nil and has the task's id, also when the error wraps
// ErrOutcomeUnknown: repeating with ID(h.ID) stores it once. With Idempotency,
// a repeat gives the handle of the first task, with Duplicate set.
func (t Task[Args, Result]) Enqueue(ctx context.Context, c Conn, args Args, opts ...Option) (*Handle[Result], error) {
	r, err := enqueueOne(ctx, c, t.Item(args, opts...))
	return &Handle[Result]{ID: r.ID, Duplicate: r.Duplicate, conn: c}, err
}

// Item is the task with its argument, for EnqueueMany, Link and OnSuccess.
func (t Task[Args, Result]) Item(args Args, opts ...Option) Item {
	raw, err := json.Marshal(args)
	if err != nil {
		err = fmt.Errorf("%w arguments of %s: %w", task.ErrInvalid, t.def.name, err)
	}
	return Item{name: t.def.name, args: raw, opts: gather(t.def.defaults, opts), err: err}
}

// Linked is the task without an argument, for Link and LinkError: it gets the
// parent's result, or its error.
func (t Task[Args, Result]) Linked(opts ...Option) Item {
	return Item{name: t.def.name, opts: gather(t.def.defaults, opts)}
}

// Handle is the handle of a task that was enqueued elsewhere.
func (t Task[Args, Result]) Handle(c Conn, id string) *Handle[Result] {
	return &Handle[Result]{ID: id, conn: c}
}

// Item is one task to enqueue, of any kind.
type Item struct {
	name string
	id   string // made for it; empty: the one in opts, or none
	args json.RawMessage
	opts *call // nil: none
	err  error

	undeclared bool // made without the task's declaration
}

// NewItem makes an item from a name and JSON, for callers that have no
// declaration, such as a command line. Nil args are null. Without MaxRetries,
// what the worker's declaration of the task says counts, and the client's
// default where that says nothing either.
func NewItem(name string, args json.RawMessage, opts ...Option) Item {
	return Item{name: name, args: args, opts: gather(nil, opts), undeclared: true}
}

// Name is the name of the item's task.
func (i Item) Name() string { return i.name }

// ID is the explicit id of the item, if it has one.
func (i Item) ID() string {
	if i.id == "" && i.opts != nil {
		return i.opts.id
	}
	return i.id
}

// Args is the item's argument as JSON.
func (i Item) Args() json.RawMessage { return i.args }

// Handle follows one enqueued task. It is safe for concurrent use.
type Handle[Result any] struct {
	ID        string
	Duplicate bool // an idempotency key led to a task that was there already
	conn      Conn
}

// Wait returns the task's result when it has ended: decoded, or a *TaskError
// when it failed or was cancelled, or ErrNoResult when its result was not kept,
// or ErrNotFound when nothing is known of it. It is woken by the store and does
// not poll where the store can push.
func (h *Handle[Result]) Wait(ctx context.Context) (Result, error) {
	var result Result
	s, err := h.conn.Wait(ctx, h.ID)
	if err != nil {
		return result, err
	}
	if s.State != Succeeded {
		return result, taskError(&s)
	}
	if s.Result == nil {
		return result, fmt.Errorf("task %s: %w", h.ID, ErrNoResult)
	}
	if err := json.Unmarshal(s.Result, &result); err != nil {
		return result, fmt.Errorf("task %s: its result does not fit %T: %w", h.ID, result, err)
	}
	return result, nil
}

// Status returns the task's record.
func (h *Handle[Result]) Status(ctx context.Context) (Status, error) { return h.conn.Get(ctx, h.ID) }

func taskError(s *Status) *TaskError {
	e := &TaskError{ID: s.ID, State: s.State, Reason: s.Reason, Attempt: s.Attempt}
	if s.Error != nil {
		e.Type, e.Message = s.Error.Type, s.Error.Message
	}
	return e
}

// Conn is what tasks are enqueued and followed through: a *Client, or what
// speaks to one over a network.
type Conn interface {
	// EnqueueMany stores any mixture of items; see Client.EnqueueMany.
	EnqueueMany(ctx context.Context, items []Item) ([]Receipt, error)
	// Get returns a task's record, or ErrNotFound.
	Get(ctx context.Context, id string) (Status, error)
	// Wait returns a task's record when it has ended.
	Wait(ctx context.Context, id string) (Status, error)
}

// Receipt is what became of one item.
type Receipt struct {
	ID        string // of the task, set also when Err is
	Duplicate bool   // ID is an earlier task's, which holds the idempotency key
	Err       error  // the item was not stored
}

func enqueueOne(ctx context.Context, c Conn, i Item) (Receipt, error) {
	if i.ID() == "" {
		i.id = task.NewID()
	}
	rs, err := c.EnqueueMany(ctx, []Item{i})
	if err != nil {
		if len(rs) == 1 {
			return rs[0], err
		}
		return Receipt{ID: i.ID(), Err: err}, err
	}
	return rs[0], rs[0].Err
}
