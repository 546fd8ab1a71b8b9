package pair_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// errCrashed is what every call says after the process died.
var errCrashed = errors.New("crashed")

// errAway is what a call says whose store is away.
var errAway = fmt.Errorf("away: %w", broker.ErrUnavailable)

// fault makes a process die at its n-th call to either store: before the call
// does anything, or after it did it and before its answer arrives. With stall
// it does not die, but stops there while stall runs. A zero fault does neither.
type fault struct {
	at    int // from 1; 0: never
	after bool
	stall func()
	die   func() // how it dies; nil: all its calls fail from then on

	roll func() (fails, loses bool) // what befalls any call by chance

	mu    sync.Mutex
	fails map[string]int // how often calls of that name still fail
	loses map[string]int // how often their answers still get lost
	calls []string
	dead  bool
}

// call counts one call, and runs it.
func call[T any](f *fault, name string, do func() (T, error)) (T, error) {
	var none T
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return none, errCrashed
	}
	f.calls = append(f.calls, name)
	fails, loses := f.fails[name] > 0, f.loses[name] > 0
	if fails {
		f.fails[name]--
	} else if loses {
		f.loses[name]--
	}
	if f.roll != nil {
		fails, loses = f.roll()
	}
	hit := len(f.calls) == f.at
	f.dead = hit && f.stall == nil
	dead, stalls := f.dead, hit && f.stall != nil
	f.mu.Unlock()
	if stalls && !f.after {
		f.stall()
	}
	if dead && !f.after {
		return none, f.end()
	}
	if fails {
		return none, errAway
	}
	v, err := do()
	if stalls && f.after {
		f.stall()
	}
	if dead {
		return none, f.end()
	}
	if loses && err == nil {
		return none, errAway
	}
	return v, err
}

func do(f *fault, name string, do func() error) error {
	_, err := call(f, name, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

func (f *fault) end() error {
	if f.die != nil {
		f.die()
	}
	return errCrashed
}

// arm starts counting anew.
func (f *fault) arm(at int, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.after, f.calls, f.dead = at, after, nil, false
}

// fail lets the next n calls of that name fail.
func (f *fault) fail(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails == nil {
		f.fails = map[string]int{}
	}
	f.fails[name] = n
}

// lose lets the answers of the next n calls of that name get lost.
func (f *fault) lose(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loses == nil {
		f.loses = map[string]int{}
	}
	f.loses[name] = n
}

// met is the call at which it died or stopped; "" if it did not come so far.
func (f *fault) met() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == 0 || len(f.calls) < f.at {
		return ""
	}
	return f.calls[f.at-1]
}

// faultyBroker is a broker of a process that may die. It has the powers that a
// join needs.
type faultyBroker struct {
	inner broker.Broker
	f     *fault
}

func (b *faultyBroker) Capabilities() broker.Capabilities { return broker.CapabilitiesOf(b.inner) }

func (b *faultyBroker) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	return call(b.f, "broker.Publish", func() ([]broker.Outcome, error) { return b.inner.Publish(ctx, batch) })
}

func (b *faultyBroker) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	return call(b.f, "broker.Open", func() (broker.Consumer, error) {
		c, err := b.inner.Open(ctx, s)
		return &faultyConsumer{c, b.f}, err
	})
}

func (b *faultyBroker) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	return call(b.f, "broker.Settle", func() ([]error, error) { return b.inner.Settle(ctx, batch) })
}

func (b *faultyBroker) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	return call(b.f, "broker.Renew", func() ([]error, error) { return b.inner.Renew(ctx, batch) })
}

func (b *faultyBroker) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	return call(b.f, "broker.Queues", func() ([]broker.QueueInfo, error) { return b.inner.Queues(ctx, names...) })
}

func (b *faultyBroker) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	return call(b.f, "broker.Purge", func() ([]string, error) { return b.inner.Purge(ctx, p) })
}

func (b *faultyBroker) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	r, _ := broker.As[broker.Revoker](b.inner)
	return call(b.f, "broker.Revoke", func() ([]broker.RevokeAnswer, error) { return r.Revoke(ctx, batch) })
}

func (b *faultyBroker) Holds(ctx context.Context, ids ...string) ([]bool, error) {
	o, _ := broker.As[broker.Owner](b.inner)
	return call(b.f, "broker.Holds", func() ([]bool, error) { return o.Holds(ctx, ids...) })
}

func (b *faultyBroker) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	i, _ := broker.As[broker.DeadImporter](b.inner)
	return call(b.f, "broker.Import", func() ([]error, error) { return i.ImportDeadLetters(ctx, batch) })
}

func (b *faultyBroker) DeadLetters() broker.DeadLetters {
	return &faultyDeadLetters{b.inner.DeadLetters(), b.f}
}

func (b *faultyBroker) Close() error { return b.inner.Close() }

type faultyDeadLetters struct {
	broker.DeadLetters
	f *fault
}

func (d *faultyDeadLetters) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	return call(d.f, "broker.Replay", func() (broker.Replayed, error) { return d.DeadLetters.ReplayDeadLetters(ctx, f, o) })
}

func (d *faultyDeadLetters) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	return call(d.f, "broker.PurgeDead", func() (broker.Purged, error) { return d.DeadLetters.PurgeDeadLetters(ctx, f, o) })
}

type faultyConsumer struct {
	inner broker.Consumer
	f     *fault
}

func (c *faultyConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	return call(c.f, "broker.Exchange", func() (broker.Batch, error) { return c.inner.Exchange(ctx, done, live, want) })
}

func (c *faultyConsumer) Wait(ctx context.Context, atMost time.Duration) error {
	return c.inner.Wait(ctx, atMost)
}

func (c *faultyConsumer) Close(ctx context.Context) error {
	return do(c.f, "broker.CloseConsumer", func() error { return c.inner.Close(ctx) })
}

// faultyResults is a result store of a process that may die.
type faultyResults struct {
	store.Results
	f *fault
	*ends
}

// ends counts, over all processes, how often each task went from a state that
// is not terminal to one that is.
type ends struct {
	mu    sync.Mutex
	ended map[string]int
}

func (r *faultyResults) Create(ctx context.Context, batch []task.Status) ([]error, error) {
	return call(r.f, "results.Create", func() ([]error, error) { return r.Results.Create(ctx, batch) })
}

func (r *faultyResults) Update(ctx context.Context, batch []store.Update) ([]store.Answer, error) {
	return call(r.f, "results.Update", func() ([]store.Answer, error) { return r.Results.Update(ctx, batch) })
}

func (r *faultyResults) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	return call(r.f, "results.Record", func() ([]error, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		ids := make([]string, len(batch))
		for i := range batch {
			ids[i] = batch[i].ID
		}
		before, err := r.Results.Get(ctx, ids...)
		if err != nil {
			return nil, err
		}
		errs, err := r.Results.Record(ctx, batch)
		for i := range errs {
			if errs[i] == nil && batch[i].Outcome.State.Terminal() && !before[i].Status.State.Terminal() {
				r.ended[ids[i]]++
			}
		}
		return errs, err
	})
}

func (r *faultyResults) Clear(ctx context.Context, batch []store.Key) error {
	return do(r.f, "results.Clear", func() error { return r.Results.Clear(ctx, batch) })
}

func (r *faultyResults) Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error) {
	return call(r.f, "results.Requeue", func() ([]error, error) { return r.Results.Requeue(ctx, batch) })
}

func (r *faultyResults) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	return call(r.f, "results.Get", func() ([]store.Found, error) { return r.Results.Get(ctx, ids...) })
}

func (r *faultyResults) List(ctx context.Context, q store.Query) (store.List, error) {
	return call(r.f, "results.List", func() (store.List, error) { return r.Results.List(ctx, q) })
}

func (r *faultyResults) Delete(ctx context.Context, ids ...string) ([]error, error) {
	return call(r.f, "results.Delete", func() ([]error, error) { return r.Results.Delete(ctx, ids...) })
}

func (r *faultyResults) ListOutboxes(ctx context.Context, before time.Time, p broker.Page) ([]store.Record, string, error) {
	type page struct {
		records []store.Record
		next    string
	}
	v, err := call(r.f, "results.ListOutboxes", func() (page, error) {
		records, next, err := r.Results.(store.Outboxes).ListOutboxes(ctx, before, p)
		return page{records, next}, err
	})
	return v.records, v.next, err
}
