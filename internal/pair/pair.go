package pair

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Options shape a join. The zero value works.
type Options struct {
	Logger *slog.Logger  // nil: discards
	Meter  measure.Meter // nil: measures nothing
}

// Joined is a broker whose statuses are in another store. It is safe for
// concurrent use. It starts no goroutines, and what it remembers it can lose:
// all that matters is in the two stores.
type Joined struct {
	inner   broker.Broker
	results store.Results
	owner   broker.Owner // nil: the broker cannot tell what it holds
	caps    broker.Capabilities
	log     *slog.Logger
	meter   measure.Meter

	mu    sync.Mutex
	held  map[store.Key]*held
	sweep int // how many are held when the next sweep is due
	late  late
}

// Join presents b and r as one broker. b must not keep its statuses in r
// (broker.Atomic): such a broker needs no join.
func Join(b broker.Broker, r store.Results, o Options) *Joined {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Meter == nil {
		o.Meter = measure.None
	}
	j := &Joined{
		inner: b, results: r, caps: broker.CapabilitiesOf(b), log: o.Logger, meter: o.Meter,
		held: map[store.Key]*held{}, sweep: minSweep,
	}
	j.owner, _ = broker.As[broker.Owner](b)
	return j
}

// Unwrap gives broker.As access to the powers of the broker that is joined;
// those that touch statuses are replaced.
func (j *Joined) Unwrap() broker.Broker {
	b := j.inner
	if i, ok := broker.As[broker.DeadImporter](j.inner); ok {
		b = &importer{Broker: b, j: j, inner: i}
	}
	if r, ok := broker.As[broker.Revoker](j.inner); ok {
		b = &revoker{Broker: b, j: j, inner: r}
	}
	return b
}

// Queues describes queues: see broker.Broker.
func (j *Joined) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	return j.inner.Queues(ctx, names...)
}

// Close closes the broker, and not the result store.
func (j *Joined) Close() error { return j.inner.Close() }

// Publish stores tasks in the broker, then creates their statuses. An id that
// has a status, in whatever state, is known: a status never comes before its
// task. That makes one read of the result store a batch, and holds rule B2 also
// for what the broker has forgotten.
func (j *Joined) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	j.catchUp(ctx)
	known, err := j.known(ctx, batch)
	if err != nil {
		return nil, err
	}
	outcomes := make([]broker.Outcome, len(batch))
	fresh := make([]broker.Publication, 0, len(batch))
	at := make([]int, 0, len(batch)) // index of each fresh one
	for i, p := range batch {
		if p.Envelope != nil && known[p.Envelope.ID] {
			outcomes[i] = broker.Outcome{State: broker.Exists, ExistingID: p.Envelope.ID}
			continue
		}
		fresh, at = append(fresh, p), append(at, i)
	}
	answers, err := j.inner.Publish(ctx, fresh)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(fresh) {
		return nil, errContract
	}
	var l late
	for k, o := range answers {
		outcomes[at[k]] = o
		// One that exists without a status was stored by a call that did not
		// come to create it.
		if o.State == broker.Stored || o.State == broker.Exists {
			l.create(fresh[k].Envelope)
		}
	}
	j.write(ctx, l)
	return outcomes, nil
}

// known says which of the publications' ids have a status.
func (j *Joined) known(ctx context.Context, batch []broker.Publication) (map[string]bool, error) {
	ids := make([]string, 0, len(batch))
	for _, p := range batch {
		if p.Envelope != nil && task.ValidateID(p.Envelope.ID) == nil {
			ids = append(ids, p.Envelope.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := j.get(ctx, ids)
	if err != nil {
		return nil, err
	}
	var known map[string]bool // mostly none is
	for i := range found {
		if found[i].Err == nil {
			if known == nil {
				known = map[string]bool{}
			}
			known[ids[i]] = true
		}
	}
	return known, nil
}

// unseen is for how long a status may be created after its task was published,
// at the latest. A task that ends within it with nothing to keep leaves a
// record of its own for that long, so that no status is created after the end.
const unseen = time.Second

// retention is how long an outcome's status is to be kept.
func retention(o *task.Outcome, e *task.Envelope) time.Duration {
	switch {
	case o.Keep != 0 || e != nil && !shown(e):
		return o.Keep
	case e != nil && time.Since(e.EnqueuedAt) > time.Minute:
		return 0
	default:
		return unseen
	}
}

// shown reports whether a task has a status while it waits.
func shown(e *task.Envelope) bool { return string(e.Meta[task.MetaRetention]) != "0" }
