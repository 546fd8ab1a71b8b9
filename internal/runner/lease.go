package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// scan looks through everything that is held: for leases at half their
// length, starts to report, progress to send, and deliveries that no isolate
// took in time. It is called under line.mu.
func (f *fetcher) scan(now time.Duration) {
	l := &f.r.line
	l.scanNow, l.marked = false, false
	f.live = f.live[:0]
	next := now + time.Hour
	stale := false
	for j := l.held.first; j != nil; j = j.next {
		switch j.state {
		case ended: // its settlement goes with every exchange
			continue
		case ready:
			stale = stale || now >= j.received+prefetchAge
			next = min(next, now+scanEvery)
		case running:
			if !j.reported {
				next = min(next, now+scanEvery)
			}
		}
		if now >= j.leaseEnd && f.failures > 0 {
			// It could not be renewed in time: another worker may have it.
			j.stop(ErrLeaseLost)
		}
		if errors.Is(j.stopped, ErrLeaseLost) {
			continue
		}
		if v, due := f.liveness(j, now); due {
			f.live = append(f.live, v)
		} else {
			next = min(next, j.renewAt)
		}
		next = min(next, j.leaseEnd)
	}
	if stale {
		f.giveBack(now, func(j *Job) bool { return now >= j.received+prefetchAge })
	}
	f.scanAt = max(next, now+time.Millisecond)
}

// liveness is what j's next renewal would say, and whether it is due.
func (f *fetcher) liveness(j *Job, now time.Duration) (liveness, bool) {
	begin := j.state == running && !j.reported && now-f.r.since(j.Started) >= startAge
	if now < j.renewAt && j.extend == 0 && j.progress == nil && !begin {
		return liveness{}, false
	}
	v := liveness{job: j, length: j.Delivery.Lease, progress: j.progress, extend: j.extend}
	v.renewal = broker.Renewal{
		Receipt: j.Delivery.Receipt, Start: j.state == running && !j.reported,
		Progress: j.progress, Worker: f.r.cfg.ID,
	}
	// A lease that was extended is not to be cut short by a usual renewal.
	if longer := max(j.extend, j.leaseEnd-now); longer > v.length {
		v.length, v.renewal.Extend = longer, longer
	}
	return v, true
}

// giveBack releases the ready jobs that match, in their place. It is called
// under line.mu.
func (f *fetcher) giveBack(now time.Duration, match func(*Job) bool) {
	l := &f.r.line
	at := f.r.time(now)
	for _, j := range l.withdraw(match) {
		j.state = ended
		j.outcome = f.r.outcome(j, release, at)
		f.pending = append(f.pending, j)
	}
	f.returned = l.starts
}

// settle takes the broker's answers to what was sent.
func (f *fetcher) settle(sent []*Job, answers []error) {
	if len(answers) == 0 {
		return
	}
	l := &f.r.line
	f.settled = f.settled[:0]
	l.mu.Lock()
	stopping := l.mode != 0
	for i, j := range sent {
		err := answers[i]
		if err != nil && !errors.Is(err, broker.ErrLeaseLost) && f.refused(j, err) {
			continue
		}
		f.settled = append(f.settled, verdictOf{job: j, err: err, uncertain: j.uncertain})
		l.held.remove(j)
	}
	l.mu.Unlock()
	for i := range f.settled {
		v := &f.settled[i]
		switch {
		case v.err == nil:
			f.r.stored(v.job)
			if stopping {
				f.stop.count(v.job.outcome.State)
			}
		case errors.Is(v.err, broker.ErrLeaseLost):
			f.r.lostLease(v.job, v.uncertain, v.err)
		default:
			f.r.log.Error("an outcome cannot be stored; the task will be delivered again",
				"task", v.job.Delivery.Envelope.Name, "task_id", v.job.Delivery.Envelope.ID, "error", v.err)
		}
	}
	clear(f.settled)
}

// Refusals of a settlement that a broker, which is there, gives: the first may
// be an accident, the second makes the outcome a failure that says so, and
// after the last the task is left to its lease.
const (
	refusalsToFail = 2
	refusalsToDrop = 4
)

// refused parks an outcome that the broker would not store, to send it again
// later, and says whether it did. It is called under line.mu.
func (f *fetcher) refused(j *Job, err error) bool {
	if errors.Is(err, broker.ErrUnavailable) {
		j.uncertain = true // a part of the store did not answer, and may have stored it
	} else {
		switch j.refusals++; j.refusals {
		case refusalsToFail:
			why := fmt.Errorf("the broker refused the outcome %s: %w", j.outcome.State, err)
			v := j.failed(&ResultError{Reason: task.ReasonResultInvalid, Err: why}, nil)
			j.outcome, j.followups = f.r.outcome(j, v, time.Now()), nil
		case refusalsToDrop:
			return false
		}
	}
	j.renewAt = f.r.now() + patience(max(1, j.refusals))
	f.parked = append(f.parked, j)
	return true
}

// unpark makes refused outcomes pending again when their moment has come.
func (f *fetcher) unpark(now time.Duration) {
	if len(f.parked) == 0 {
		return
	}
	kept := f.parked[:0]
	for _, j := range f.parked {
		if now >= j.renewAt {
			f.pending = append(f.pending, j)
		} else {
			kept = append(kept, j)
		}
	}
	clear(f.parked[len(kept):])
	f.parked = kept
}

// renew takes the broker's answers to the renewals of a call that began at
// that moment.
func (f *fetcher) renew(sent []liveness, answers []error, at time.Duration) {
	if len(answers) == 0 {
		return
	}
	l := &f.r.line
	renewed := 0
	l.mu.Lock()
	for i := range sent {
		v := &sent[i]
		if answers[i] != nil || v.job.state == gone {
			continue
		}
		renewed++
		v.job.renewed(at, v.length)
		v.job.reported = v.job.reported || v.renewal.Start
		if v.job.progress == v.progress {
			v.job.progress = nil
		}
		if v.job.extend == v.extend {
			v.job.extend = 0
		}
		f.scanAt = min(f.scanAt, v.job.renewAt)
	}
	l.mu.Unlock()
	if renewed > 0 {
		f.r.renewedAt.Store(f.r.time(at).UnixMilli())
		f.r.leaseRenewed.Add(float64(renewed))
	}
	for i, err := range answers {
		switch j := sent[i].job; {
		case err == nil:
		case errors.Is(err, broker.ErrLeaseLost):
			f.r.lose(j, err)
		case errors.Is(err, broker.ErrSettled):
			// The outcome is known: what runs here is a repetition.
			f.r.stopSettled(j)
		default:
			f.scanAt = 0 // try again with the next exchange
			f.r.log.Debug("lease not renewed", "task_id", j.Delivery.Envelope.ID, "error", err)
		}
	}
}

// revoke stops what somebody asked to stop. What is not there may come with an
// exchange that is under way: it is told again then.
func (f *fetcher) revoke(news []broker.Revoked) {
	news, f.early = append(f.early, news...), nil
	if len(news) == 0 {
		return
	}
	l := &f.r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, rv := range news {
		cancelled := verdict{state: task.Cancelled, reason: task.ReasonRevoked}
		for _, j := range l.withdraw(func(j *Job) bool { return j.Delivery.Receipt == rv.Receipt }) {
			j.state = ended
			j.outcome = f.r.outcome(j, cancelled, now)
			f.pending = append(f.pending, j)
		}
		known := false
		for j := l.held.first; j != nil; j = j.next {
			if j.Delivery.Receipt != rv.Receipt {
				continue
			}
			known = true
			if j.state == starting || j.state == running && rv.Terminate {
				j.stop(ErrRevoked)
			}
		}
		if !known && f.air.n > 0 {
			f.early = append(f.early, rv)
		}
	}
}
