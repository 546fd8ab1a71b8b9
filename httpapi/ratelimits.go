package httpapi

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
)

// rateLimits are those of the tasks that pullers take, as far as this server
// knows them: as declared, or as changed since.
type rateLimits struct {
	s        *Server
	limiter  store.Limiter // nil: the store keeps none
	declared map[string]rateLimit

	mu       sync.Mutex
	changed  map[string]*runner.Limit // by the name that a task is declared with; nil: none
	read     time.Time                // when; zero: never
	failures int                      // of the limiter, in a row
}

// rateLimit is a declared task's.
type rateLimit struct {
	name  string // that it is declared with
	limit *runner.Limit
}

const (
	ratesEvery = 2 * time.Second // how old what is known of changes may be
	ratesTime  = 2 * time.Second // for one call
)

func (r *rateLimits) init(s *Server) {
	r.s = s
	if broker.CapabilitiesOf(s.client.Broker()).Has(broker.PowerRates) {
		r.limiter, _ = broker.As[store.Limiter](s.client.Broker())
	}
	r.declared = map[string]rateLimit{}
	for name, t := range s.tasks {
		r.declared[name] = rateLimit{name: t.Name(), limit: limitOf(t.Name(), t.Info().RateLimit)}
	}
}

func limitOf(name string, l *stem.RateLimit) *runner.Limit {
	if l == nil {
		return nil
	}
	return runner.NewLimit(name, store.Rate{Count: l.Count, Per: l.Per, Burst: l.Burst}, l.FailOpen)
}

// refresh learns what is changed, if that was long ago. What was known stays
// when it cannot.
func (r *rateLimits) refresh(ctx context.Context, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.read.IsZero() && now.Sub(r.read) < ratesEvery {
		return
	}
	r.read = now
	ctx, cancel := context.WithTimeout(ctx, ratesTime)
	defer cancel()
	all, err := r.s.client.RateChanges(ctx)
	if err != nil {
		r.s.opts.Logger.WarnContext(ctx, "cannot read changes of rate limits; those known stay in force", "error", err)
		return
	}
	r.changed = make(map[string]*runner.Limit, len(all))
	for i := range all {
		l, err := all[i].Limit()
		if err != nil {
			r.s.opts.Logger.WarnContext(ctx, "a changed rate limit cannot be read; the declared one is in force", "task", all[i].Task, "error", err)
			continue
		}
		limit := limitOf(all[i].Task, l)
		if d := r.declared[all[i].Task]; limit != nil && d.limit != nil {
			limit.FailOpen = d.limit.FailOpen
		}
		r.changed[all[i].Task] = limit
	}
}

// forget has what is changed read anew when it is needed next.
func (r *rateLimits) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = time.Time{}
}

// of is the limit that is in force for a task; nil: none.
func (r *rateLimits) of(name string) *runner.Limit {
	d, known := r.declared[name]
	if known {
		name = d.name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.changed[name]; ok {
		return l
	}
	return d.limit
}

// sift says of each delivery whether it may start now; for one that may not it
// has the settlement that puts it off.
func (r *rateLimits) sift(ctx context.Context, e runner.Elsewhere, ds []*broker.Delivery, now time.Time) map[*broker.Delivery]broker.Settlement {
	r.refresh(ctx, now)
	var asking []*broker.Delivery
	var limits []*runner.Limit
	var batch []store.Reservation
	for _, d := range ds {
		l := r.of(d.Envelope.Name)
		if l == nil || e.HasSlot(d, now) {
			continue
		}
		asking, limits = append(asking, d), append(limits, l)
		batch = append(batch, l.Reservation(d))
	}
	if len(batch) == 0 {
		return nil
	}
	slots, err := r.reserve(ctx, batch)
	off := map[*broker.Delivery]broker.Settlement{}
	for i, d := range asking {
		var s store.Slot
		if err == nil {
			s = slots[i]
		}
		switch failed := errors.Join(err, s.Err); {
		case failed == nil && s.Wait <= 0, failed != nil && limits[i].FailOpen:
		case failed == nil:
			off[d] = e.PutOff(d, s.At, 0, now)
		default:
			off[d] = e.PutOff(d, time.Time{}, time.Second+rand.N(4*time.Second), now)
		}
	}
	return off
}

func (r *rateLimits) reserve(ctx context.Context, batch []store.Reservation) ([]store.Slot, error) {
	slots, err := []store.Slot(nil), broker.ErrUnsupported
	if r.limiter != nil {
		ctx, cancel := context.WithTimeout(ctx, ratesTime)
		defer cancel()
		slots, err = r.limiter.Reserve(ctx, batch)
		slots, err = runner.Slots(len(batch), slots, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	bad := runner.SlotError(slots, err)
	if bad == nil {
		r.failures = 0
		return slots, nil
	}
	if r.failures++; r.failures&(r.failures-1) == 0 {
		r.s.opts.Logger.WarnContext(ctx, "cannot ask for slots of rate limits; tasks with one wait, but for those that fail open",
			"failures", r.failures, "error", bad)
	}
	return slots, err
}
