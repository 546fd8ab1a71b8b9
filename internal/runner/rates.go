package runner

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Rates reads what people have changed of rate limits: by the name that a task
// is declared with; nil is no limit. What it does not have is as declared.
type Rates func(ctx context.Context) (map[string]*Limit, error)

// rates is what a runner knows of it. It reads when it begins, when somebody
// says that there is something new, whenever it begins to listen for that, and
// beside a heartbeat if tasks came since the last time: so whoever did not hear
// of a change, since it was stopped or the store was away, finds out, and a fleet
// that is idle asks nothing.
type rates struct {
	changed atomic.Pointer[map[string]*Limit] // nil: nothing is
	used    atomic.Bool                       // a task came since the last read

	mu       sync.Mutex // one read after the other, so that the newest stays
	failures int        // in a row
}

// ratesPatience bounds one read.
const ratesPatience = 2 * time.Second

// use is the limit of a task that came; nil: none.
func (s *rates) use(t *Task) *Limit {
	if !s.used.Load() {
		s.used.Store(true)
	}
	return s.inForce(t)
}

func (s *rates) inForce(t *Task) *Limit {
	if m := s.changed.Load(); m != nil {
		if l, ok := (*m)[t.Name]; ok {
			return l
		}
	}
	return t.Limit
}

// readRates learns what is changed. What was known stays when it cannot.
func (r *Runner) readRates(ctx context.Context) error {
	if r.cfg.Rates == nil {
		return nil
	}
	s := &r.rates
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used.Store(false)
	call, cancel := context.WithTimeout(ctx, ratesPatience)
	defer cancel()
	m, err := r.cfg.Rates(call)
	if err != nil {
		s.used.Store(true) // the next heartbeat tries again
		s.failures++
		if ctx.Err() == nil && loud(s.failures) {
			r.log.Warn("cannot read changes of rate limits; those known stay in force", "failures", s.failures, "error", err)
		}
		return err
	}
	s.failures = 0
	if len(m) == 0 {
		s.changed.Store(nil)
		return nil
	}
	s.changed.Store(&m)
	return nil
}

// refreshRates reads beside a heartbeat, if there was a use of it.
func (r *Runner) refreshRates(ctx context.Context) {
	if r.rates.used.Load() {
		_ = r.readRates(ctx) // it is logged there, and tried again
	}
}

// rated obeys KindRate.
func (r *Runner) rated(ctx context.Context, a RateArgs) (Rated, error) {
	t := r.cfg.Lookup(a.Task)
	before := r.rateOf(t)
	if err := r.readRates(ctx); err != nil {
		return Rated{}, fmt.Errorf("cannot read the change: %w", err)
	}
	return Rated{Known: t != nil, Before: before, After: r.rateOf(t)}, nil
}

// rateOf tells the rate that is in force for a task.
func (r *Runner) rateOf(t *Task) string {
	if t == nil {
		return ""
	}
	if l := r.rates.inForce(t); l != nil {
		return l.Rate.String()
	}
	return NoRate
}

// NoRate is how a task without a limit is told.
const NoRate = "none"

// RateArgs are those of KindRate.
type RateArgs struct {
	Task string `json:"task"`
}

// Rated is the reply to KindRate: the rate before and after, such as 10/s.
type Rated struct {
	Known  bool   `json:"known"` // false: this worker does not execute the task
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}
