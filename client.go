package stem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/internal/coalesce"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Backend is one store that plays several roles: what memory.New, sqlite.Open
// and connect.Open return. Results and Heartbeats may return nil where a
// backend does not have the role.
type Backend interface {
	Broker() broker.Broker
	Results() store.Results
	Heartbeats() store.Heartbeats
	Close() error
}

// Pair is a backend with envelopes in one store, and statuses and heartbeats
// in another. Both are closed with it.
func Pair(envelopes, results Backend) Backend { return pairBackend{envelopes, results} }

type pairBackend struct{ envelopes, results Backend }

func (p pairBackend) Broker() broker.Broker        { return p.envelopes.Broker() }
func (p pairBackend) Results() store.Results       { return p.results.Results() }
func (p pairBackend) Heartbeats() store.Heartbeats { return p.results.Heartbeats() }
func (p pairBackend) Close() error                 { return errors.Join(p.envelopes.Close(), p.results.Close()) }

// EnqueueFunc stores items: what enqueue middleware wraps.
type EnqueueFunc func(ctx context.Context, items []Item) ([]Receipt, error)

// ClientOptions shape a client. The zero value works.
type ClientOptions struct {
	DefaultQueue string // of tasks whose call and declaration name none; "": "default"
	MaxRetries   *int   // when call and declaration say nothing; nil: 3
	MaxSize      int    // bytes of an encoded envelope; 0: 1 MiB

	// Retention is how long the statuses of tasks are kept that the client ends
	// itself: revoked and purged ones. 0: 24 h; Forever.
	Retention time.Duration

	Encoders []encode.Encoder // known beside json
	Encoding []string         // ids of the encoders used unless a call says otherwise, first to last

	Middleware []func(EnqueueFunc) EnqueueFunc // the first is outermost

	Logger *slog.Logger   // nil: discards
	Meter  measure.Meter  // nil: measures nothing
	Tracer measure.Tracer // nil: makes no spans; the headers of a trace are passed on all the same
}

// DefaultRetries is how many attempts follow a first one that failed, when
// nothing else is said.
const DefaultRetries = 3

// Client enqueues tasks and looks after them. It is safe for concurrent use;
// a program needs one for each backend.
type Client struct {
	broker  broker.Broker // joined with the results' store
	results store.Results // nil: none
	beats   store.Heartbeats
	control store.Control // nil: none
	memos   store.Memos   // nil: none
	audit   store.Audit   // nil: none
	codecs  *encode.Set
	opts    ClientOptions
	enqueue EnqueueFunc
	flush   coalesce.Group[broker.Publication, broker.Outcome]
	counts  sync.Map // of [2]string{task, queue}: *enqueueCounters
	silent  enqueueCounters
	calls   callMarks
	reads   coalesce.Group[string, store.Found]
	watches watches
}

// NewClient makes a client on a backend. The backend stays the caller's to
// close, after the client's last call.
func NewClient(b Backend, o ClientOptions) (*Client, error) {
	if o.DefaultQueue == "" {
		o.DefaultQueue = "default"
	}
	if err := task.ValidateQueue(o.DefaultQueue); err != nil {
		return nil, fmt.Errorf("default queue: %w", err)
	}
	if o.MaxRetries == nil {
		n := DefaultRetries
		o.MaxRetries = &n
	}
	if *o.MaxRetries < 0 {
		return nil, fmt.Errorf("default retries: %w number %d: want zero or more", task.ErrInvalid, *o.MaxRetries)
	}
	switch {
	case o.Retention == 0:
		o.Retention = defaultRetention
	case o.Retention < 0 && o.Retention != Forever:
		return nil, fmt.Errorf("retention: %w duration %s: want more than zero, or Forever", task.ErrInvalid, o.Retention)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Meter == nil {
		o.Meter = measure.None
	}
	codecs, err := encode.NewSet(o.Encoders...)
	if err != nil {
		return nil, err
	}
	if err := codecs.Check(o.Encoding...); err != nil {
		return nil, fmt.Errorf("default encoding: %w", err)
	}
	c := &Client{broker: b.Broker(), results: b.Results(), beats: b.Heartbeats(), control: controlOf(b), memos: memosOf(b), audit: auditOf(b), codecs: codecs, opts: o}
	if c.opts.MaxSize == 0 {
		c.opts.MaxSize = task.DefaultMaxSize
		if m := broker.CapabilitiesOf(c.broker).MaxSize; m > 0 {
			c.opts.MaxSize = m
		}
	}
	if c.results != nil && !keepsStatuses(c.broker, c.results) {
		c.broker = pair.Join(c.broker, c.results, pair.Options{Logger: o.Logger, Meter: o.Meter})
	}
	c.silent = newEnqueueCounters(measure.None, "", "")
	c.calls = newCallMarks(o.Meter, broker.CapabilitiesOf(c.broker).Backend)
	c.flush.Flush = c.send
	c.flush.MaxWeight = maxPublishBytes
	read := func(ctx context.Context, ids []string) ([]store.Found, error) { return c.results.Get(ctx, ids...) }
	c.reads.Flush, c.watches.read = read, read
	c.enqueue = c.store
	for i := len(o.Middleware) - 1; i >= 0; i-- {
		c.enqueue = o.Middleware[i](c.enqueue)
	}
	return c, nil
}

func keepsStatuses(b broker.Broker, r store.Results) bool {
	a, ok := broker.As[broker.Atomic](b)
	return ok && a.AtomicWith(r)
}

// Broker is the broker that the client speaks to, joined with the result store
// where the two are apart.
func (c *Client) Broker() broker.Broker { return c.broker }

// ErrNoResults is what a client without a result store answers to questions
// about statuses.
var ErrNoResults = fmt.Errorf("this client has no result store: %w", broker.ErrUnsupported)

// Get returns a task's record, or ErrNotFound.
func (c *Client) Get(ctx context.Context, id string) (Status, error) {
	if c.results == nil {
		return Status{}, ErrNoResults
	}
	if err := task.ValidateID(id); err != nil {
		return Status{}, err
	}
	found, err := c.results.Get(ctx, id)
	if err != nil {
		return Status{}, fmt.Errorf("read task %s: %w", id, err)
	}
	return c.found(id, &found[0])
}

// found is a record as the store has it, with its result as plain JSON.
func (c *Client) found(id string, f *store.Found) (s Status, err error) {
	if f.Err != nil {
		return s, fmt.Errorf("task %s: %w", id, f.Err)
	}
	s = f.Status
	if s.Result, err = c.unpackResult(&s); err != nil {
		return s, fmt.Errorf("task %s: read its result: %w", id, err)
	}
	return s, nil
}

// List returns a page of statuses, newest first.
func (c *Client) List(ctx context.Context, q store.Query) (store.List, error) {
	if c.results == nil {
		return store.List{}, ErrNoResults
	}
	l, err := c.results.List(ctx, q)
	if err != nil {
		return l, fmt.Errorf("list tasks: %w", err)
	}
	for i := range l.Statuses {
		if plain, err := c.unpackResult(&l.Statuses[i]); err == nil {
			l.Statuses[i].Result = plain // else: shown as stored
		}
	}
	return l, nil
}

// Delete removes the records of tasks that have ended.
func (c *Client) Delete(ctx context.Context, ids ...string) ([]error, error) {
	if c.results == nil {
		return nil, ErrNoResults
	}
	errs, err := c.results.Delete(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("delete records: %w", err)
	}
	return errs, nil
}

// Workers lists what the live workers last said of themselves.
func (c *Client) Workers(ctx context.Context) ([]Heartbeat, error) {
	if c.beats == nil {
		return nil, fmt.Errorf("no store keeps heartbeats: %w", broker.ErrUnsupported)
	}
	w, err := c.beats.Workers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return w, nil
}
