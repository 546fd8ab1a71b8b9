package stem

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// Option shapes one enqueue; given to NewTask, every enqueue of that task. The
// call's own option wins over the task's.
type Option struct{ set func(*call) }

// TaskOption is what NewTask takes: every Option, and those that shape the
// execution.
type TaskOption interface{ applyTask(*definition) }

func (o Option) applyTask(d *definition) { d.defaults = append(d.defaults, o) }

type executionOption func(*definition)

func (o executionOption) applyTask(d *definition) { o(d) }

// call collects the options of one enqueue.
type call struct {
	id           string
	queue        string
	in           time.Duration
	at           time.Time
	expiresIn    time.Duration
	expiresAt    time.Time
	priority     *int
	maxRetries   *int
	lease        time.Duration
	retention    *time.Duration
	ignoreResult bool
	keepArgs     *bool
	headers      map[string]string
	meta         map[string]json.RawMessage
	parent, root string
	claimKey     string
	claimFor     time.Duration
	links        []Item
	errorLinks   []Item
	encoders     []string
	err          error
}

func (c *call) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w "+format, append([]any{task.ErrInvalid}, args...)...)
	}
}

// In makes the task due d from now. A negative d is an error.
func In(d time.Duration) Option {
	return Option{func(c *call) {
		if d < 0 {
			c.fail("delay %s: want zero or more", d)
		}
		c.in, c.at = d, time.Time{}
	}}
}

// At makes the task due at t; a moment that has passed is at once.
func At(t time.Time) Option {
	return Option{func(c *call) { c.at, c.in = t, 0 }}
}

// ExpiresIn cancels the task, unless it started, d after its enqueue.
func ExpiresIn(d time.Duration) Option {
	return Option{func(c *call) {
		if d <= 0 {
			c.fail("expiry %s: want more than zero", d)
		}
		c.expiresIn, c.expiresAt = d, time.Time{}
	}}
}

// ExpiresAt cancels the task, unless it started, at t.
func ExpiresAt(t time.Time) Option {
	return Option{func(c *call) { c.expiresAt, c.expiresIn = t, 0 }}
}

// Queue puts the task on that queue.
func Queue(name string) Option { return Option{func(c *call) { c.queue = name }} }

// Priority is 0 to 9, 9 first; 5 unless told.
func Priority(p int) Option { return Option{func(c *call) { c.priority = &p }} }

// MaxRetries is how many attempts may follow the first; 0: none.
func MaxRetries(n int) Option { return Option{func(c *call) { c.maxRetries = &n }} }

// ID gives the task an id of your own: 1–128 of A-Z a-z 0-9 . _ : -. An id in
// use is ErrTaskExists.
func ID(id string) Option {
	return Option{func(c *call) {
		if err := task.ValidateID(id); err != nil && c.err == nil {
			c.err = err
		}
		c.id = id
	}}
}

// VisibilityTimeout is the length of this task's leases, in place of the
// worker's. It is how soon another worker takes over after a crash, and not a
// limit of the handler: leases are renewed while it runs.
func VisibilityTimeout(d time.Duration) Option {
	return Option{func(c *call) {
		if d < time.Millisecond {
			c.fail("visibility timeout %s: want a millisecond or more", d)
		}
		c.lease = d
	}}
}

// IgnoreResult keeps the task's state and drops its result.
func IgnoreResult() Option { return Option{func(c *call) { c.ignoreResult = true }} }

// KeepArgs says whether the status keeps the first KiB of the arguments once the task
// has succeeded or is cancelled, as it does unless told otherwise. Without them it
// takes less room, and nobody reads there what was worked on; a dead letter keeps them
// in any case, to be replayed. It is said when the task is enqueued: what only a worker
// declares of a task changes nothing.
func KeepArgs(keep bool) Option { return Option{func(c *call) { c.keepArgs = &keep }} }

// Retention is how long the status is kept after a success or a cancellation:
// Forever, or 0 for not at all, in which case nothing can wait for the task.
func Retention(d time.Duration) Option {
	return Option{func(c *call) {
		if d < 0 && d != Forever {
			c.fail("retention %s: want zero or more, or Forever", d)
		}
		c.retention = &d
	}}
}

// Forever as a retention keeps the status until it is deleted.
const Forever = task.Forever

// Header adds a header; keys are lower-cased. Keys that begin with "stem-"
// are Stem's own.
func Header(key, value string) Option {
	return Option{func(c *call) {
		key = strings.ToLower(key)
		if key == "" || strings.HasPrefix(key, "stem-") {
			c.fail("header %q: want a name that does not begin with stem-", key)
			return
		}
		if c.headers == nil {
			c.headers = map[string]string{}
		}
		c.headers[key] = value
	}}
}

// Meta annotates the task with any value that encodes as JSON; it is kept with
// the status.
func Meta(key string, value any) Option {
	return Option{func(c *call) {
		raw, err := json.Marshal(value)
		if err != nil {
			c.fail("meta %q: %w", key, err)
			return
		}
		if c.meta == nil {
			c.meta = map[string]json.RawMessage{}
		}
		c.meta[key] = raw
	}}
}

// ChildOf names the task in whose execution this one is enqueued, and the first
// task of that line; "": the parent. It is for those who enqueue on behalf of
// what runs elsewhere; a handler's context says it by itself.
func ChildOf(parent, root string) Option {
	return Option{func(c *call) {
		if root == "" {
			root = parent
		}
		for _, id := range []string{parent, root} {
			if err := task.ValidateID(id); err != nil {
				c.fail("parent or root: %w", err)
				return
			}
		}
		c.parent, c.root = parent, root
	}}
}

// Idempotency makes every further enqueue with this key, within ttl of the
// first, return the first task's id with Duplicate set. The key is remembered
// for its own time, however long the task's result is kept.
func Idempotency(key string, ttl time.Duration) Option {
	return Option{func(c *call) {
		if key == "" || len(key) > 512 || ttl <= 0 {
			c.fail("idempotency key %.40q for %s: want 1–512 bytes and more than zero time", key, ttl)
		}
		c.claimKey, c.claimFor = key, ttl
	}}
}

// Link enqueues the item when this task succeeds, in the same step that stores
// its result. An item made without arguments (Task.Linked) gets the result as
// its argument.
func Link(items ...Item) Option {
	return Option{func(c *call) { c.links = append(c.links, items...) }}
}

// LinkError enqueues the item when this task is dead-lettered. An item made
// without arguments gets an object with id, type and message of the error.
func LinkError(items ...Item) Option {
	return Option{func(c *call) { c.errorLinks = append(c.errorLinks, items...) }}
}

// Encoder encodes arguments and result with these encoders, first to last, in
// place of the client's; the client and every worker must have them. No id
// stands for plain JSON.
func Encoder(ids ...string) Option {
	return Option{func(c *call) { c.encoders = slices.Clip(append([]string{}, ids...)) }}
}

// RetryPolicy shapes the waits between a task's attempts. The zero value is
// the default: base 1 s, factor 2, ceiling 10 min, full jitter.
type RetryPolicy struct {
	Base   time.Duration // of the first wait; 0: 1 s
	Factor float64       // from one wait to the next; 0: 2
	Max    time.Duration // ceiling; 0: 10 min
	// Jitter is the share of each wait that is random, up to 1; 0: 1 (full
	// jitter); negative: none.
	Jitter float64
	// Wait, when set, replaces all of the above. attempt counts from 1.
	Wait func(attempt int, err error) time.Duration
}

// Retry sets the task's retry policy.
func Retry(p RetryPolicy) TaskOption {
	return executionOption(func(d *definition) { d.retry = p })
}

// SoftTimeout cancels the handler's context with cause ErrSoftTimeout after d.
func SoftTimeout(after time.Duration) TaskOption {
	return executionOption(func(d *definition) { d.soft = after })
}

// HardTimeout abandons an attempt after d: it counts as failed with type
// "hard-timeout", whether the handler returns or not.
func HardTimeout(after time.Duration) TaskOption {
	return executionOption(func(d *definition) { d.hard = after })
}

// Aliases are old names of the task, which its handler answers to as well.
func Aliases(names ...string) TaskOption {
	return executionOption(func(d *definition) { d.aliases = append(d.aliases, names...) })
}

// gather applies options in order. It is nil where there is none.
func gather(defaults, opts []Option) *call {
	if len(defaults)+len(opts) == 0 {
		return nil
	}
	return gathered(defaults, opts)
}

func gathered(defaults, opts []Option) *call {
	c := new(call)
	for _, o := range defaults {
		o.set(c)
	}
	c.headers, c.meta = maps.Clone(c.headers), maps.Clone(c.meta)
	for _, o := range opts {
		o.set(c)
	}
	return c
}
