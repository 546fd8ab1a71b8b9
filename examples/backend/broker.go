package backend

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// place is where a task is: in exactly one of these.
type place int

const (
	waiting place = iota // ready once its moment has come
	leased
	dead
)

// entry is one task.
type entry struct {
	place    place
	envelope *task.Envelope
	size     int
	queue    string
	due      time.Time // waiting: not before; zero: at once
	epoch    int64     // of the newest lease or replay

	attempt, retryBase, starts int
	redelivered                bool
	errors                     []task.Error

	holder  *consumer // leased: whose it is
	lease   time.Duration
	until   time.Time // leased: when the lease ends
	started bool      // leased: a handler runs
	ended   bool      // leased: the lease has ended; the task is ready, and its receipt still good

	reason      string // dead
	deadAt      time.Time
	death       int64 // orders the dead; else 0
	replays     int
	lastReplay  time.Time
	readySince  time.Time
	publication int64 // orders the waiting
}

// Broker keeps tasks in the process. Make one with New. Its methods are safe
// for concurrent use.
type Broker struct {
	mu      sync.Mutex
	entries map[string]*entry
	clock   int64         // the newest epoch, publication and death
	news    int64         // how often something became ready
	changed chan struct{} // closed, and made anew, when something becomes ready
	closed  bool
}

var (
	_ broker.Broker   = (*Broker)(nil)
	_ broker.Declarer = (*Broker)(nil)
)

// New returns an empty Broker.
func New() *Broker {
	return &Broker{entries: make(map[string]*entry), changed: make(chan struct{})}
}

// Capabilities implements broker.Declarer.
func (b *Broker) Capabilities() broker.Capabilities {
	return broker.Capabilities{
		Backend: "example",
		Summary: "one list in the process, to be read and not to be used",
		Powers:  []broker.Power{broker.PowerPush, broker.PowerDelays},
	}
}

// enter begins a call: it takes the lock, unless the call has no business
// going on.
func (b *Broker) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return broker.ErrClosed
	}
	return nil
}

// tick returns a number that none was before.
func (b *Broker) tick() int64 {
	b.clock++
	return b.clock
}

// wake makes every Wait return.
func (b *Broker) wake() {
	b.news++
	close(b.changed)
	b.changed = make(chan struct{})
}

// Publish implements broker.Broker.
func (b *Broker) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	outcomes := make([]broker.Outcome, len(batch))
	for i := range batch {
		outcomes[i] = b.publish(&batch[i])
	}
	b.wake()
	return outcomes, nil
}

func (b *Broker) publish(p *broker.Publication) broker.Outcome {
	refused := func(err error) broker.Outcome { return broker.Outcome{State: broker.Refused, Err: err} }
	e := p.Envelope
	if len(p.Claims) > 0 || len(p.Limits) > 0 || p.Hold != "" || p.Group != nil {
		return refused(fmt.Errorf("claims, limits, holds and groups: %w", broker.ErrUnsupported))
	}
	if e == nil {
		return refused(fmt.Errorf("%w publication: it has no envelope", task.ErrInvalid))
	}
	if err := e.Validate(); err != nil {
		return refused(err)
	}
	size := task.EncodedSize(e)
	if err := task.CheckSize(size, task.DefaultMaxSize); err != nil {
		return refused(err)
	}
	if b.entries[e.ID] != nil {
		return broker.Outcome{State: broker.Exists, ExistingID: e.ID}
	}
	b.entries[e.ID] = &entry{
		envelope: e, size: size, queue: e.Queue, due: e.NotBefore,
		attempt: e.Attempt, retryBase: e.Attempt,
		readySince: later(time.Now(), e.NotBefore), publication: b.tick(),
	}
	return broker.Outcome{State: broker.Stored}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Settle implements broker.Broker.
func (b *Broker) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	return b.settleAll(batch), nil
}

func (b *Broker) settleAll(batch []broker.Settlement) []error {
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = b.settle(&batch[i])
	}
	return errs
}

// held is the fence: it returns the entry that a receipt is the right to
// settle, or nil.
func (b *Broker) held(r broker.Receipt) *entry {
	if e := b.entries[r.ID]; e != nil && e.place == leased && e.epoch == r.Epoch {
		return e
	}
	return nil
}

// settle refuses first and changes then, so it happens whole or not at all.
func (b *Broker) settle(s *broker.Settlement) error {
	e, o := b.held(s.Receipt), &s.Outcome
	switch {
	case e == nil:
		return broker.ErrLeaseLost
	case len(s.Followups) > 0:
		return fmt.Errorf("follow-ups: %w", broker.ErrUnsupported)
	case !task.CanMove(task.Running, o.State) || o.State == task.Running:
		return fmt.Errorf("%w outcome %q", task.ErrInvalid, o.State)
	}
	if err := task.ValidateTime("notBefore", o.NotBefore); err != nil {
		return err
	}
	if o.State != task.Queued {
		e.attempt = max(e.attempt, o.Attempt)
		e.errors = task.AppendError(e.errors, o.Error)
	}
	switch o.State {
	case task.Queued, task.Retried:
		b.putBack(e)
		if o.State == task.Retried || !o.NotBefore.IsZero() {
			e.due, e.starts, e.redelivered = o.NotBefore, 0, false
			e.readySince = later(time.Now(), o.NotBefore)
		}
	case task.Failed:
		e.place, e.holder, e.ended = dead, nil, false
		e.reason, e.deadAt, e.death = o.Reason, time.Now(), b.tick()
	default:
		delete(b.entries, s.Receipt.ID)
	}
	return nil
}

// putBack makes a leased task wait again, in its old place.
func (b *Broker) putBack(e *entry) {
	e.place, e.holder, e.started, e.ended = waiting, nil, false, false
	b.wake()
}

// Renew implements broker.Broker.
func (b *Broker) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	return b.renewAll(batch), nil
}

func (b *Broker) renewAll(batch []broker.Renewal) []error {
	errs := make([]error, len(batch))
	for i, r := range batch {
		e := b.held(r.Receipt)
		if e == nil {
			errs[i] = broker.ErrLeaseLost
			continue
		}
		length := r.Extend
		if length <= 0 {
			length = e.lease
		}
		e.until, e.ended = time.Now().Add(length), false
		if r.Start && !e.started {
			e.started = true
			e.starts++
		}
	}
	return errs
}

// Close implements broker.Broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.wake()
	}
	return nil
}

// waits reports whether a task is ready or delayed.
func (e *entry) waits() bool { return e.place == waiting || e.ended }

// inOrder returns the entries to keep: the dead by their death, others by
// publication.
func (b *Broker) inOrder(keep func(*entry) bool) []*entry {
	var found []*entry
	for e := range maps.Values(b.entries) {
		if keep(e) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(x, y *entry) int {
		return cmp.Or(cmp.Compare(x.death, y.death), cmp.Compare(x.publication, y.publication))
	})
	return found
}
