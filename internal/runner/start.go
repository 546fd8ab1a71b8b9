package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
)

// starter agrees with the broker, before the handler runs, on the start of
// what was delivered before: the start is counted, and an outcome that is
// stored already comes to light. Starts that are asked for while one call is
// under way share the next.
type starter struct {
	mu      sync.Mutex
	waiting []*startCall
	wake    chan struct{}
}

type startCall struct {
	job  *Job
	done chan error // holds one
}

// agree starts j by a call of its own, and says whether it is to be executed.
// If it is not, nothing is left to do for it, or begin finds out what.
func (r *Runner) agree(j *Job) bool {
	c := &startCall{job: j, done: make(chan error, 1)}
	r.starter.mu.Lock()
	r.starter.waiting = append(r.starter.waiting, c)
	r.starter.mu.Unlock()
	select {
	case r.starter.wake <- struct{}{}:
	default:
	}
	var err error
	select {
	case err = <-c.done:
	case <-j.ctx.Done():
		return true // begin sees that it was stopped, and why
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, broker.ErrSettled):
		r.log.Debug("outcome was stored already", "task", j.Delivery.Envelope.Name, "task_id", j.Delivery.Envelope.ID)
		r.drop(j)
	default:
		r.lose(j, err)
	}
	return false
}

// runStarter serves agree until ctx ends.
func (r *Runner) runStarter(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-r.starter.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			calls := r.starter.take()
			if len(calls) == 0 {
				break
			}
			err := r.starts(ctx, calls)
			if err == nil {
				failures = 0
				continue
			}
			failures++
			if loud(failures) {
				r.log.Warn("cannot report starts to the broker", "failures", failures, "error", err)
			}
			pause(ctx, patience(failures))
		}
	}
}

// take returns the calls that somebody still waits for.
func (s *starter) take() []*startCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []*startCall
	for _, c := range s.waiting {
		if c.job.ctx.Err() == nil {
			calls = append(calls, c)
		}
	}
	s.waiting = nil
	return calls
}

// starts sends one batch. After an error of the whole, the calls wait again.
func (r *Runner) starts(ctx context.Context, calls []*startCall) error {
	batch := make([]broker.Renewal, len(calls))
	for i, c := range calls {
		batch[i] = broker.Renewal{Receipt: c.job.Delivery.Receipt, Start: true, Worker: r.cfg.ID}
	}
	ctx, cancel := context.WithTimeout(ctx, r.callTimeout())
	defer cancel()
	began := time.Now()
	errs, err := r.cfg.Broker.Renew(ctx, batch)
	r.roundtrip("renew", time.Since(began), err)
	if err == nil && len(errs) != len(calls) {
		err = errContract
	}
	if err != nil {
		r.starter.mu.Lock()
		r.starter.waiting = append(calls, r.starter.waiting...)
		r.starter.mu.Unlock()
		return err
	}
	r.line.mu.Lock()
	for i, c := range calls {
		if errs[i] == nil {
			c.job.reported = true
			c.job.renewed(r.since(began), c.job.Delivery.Lease)
		}
	}
	r.line.mu.Unlock()
	var failed error
	for i, c := range calls {
		if errors.Is(errs[i], broker.ErrUnavailable) {
			failed = errs[i]
			r.starter.mu.Lock()
			r.starter.waiting = append(r.starter.waiting, c)
			r.starter.mu.Unlock()
			continue
		}
		c.done <- errs[i]
	}
	return failed
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
