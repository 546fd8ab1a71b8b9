package runner

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// receive makes jobs of deliveries whose lease began at that moment. What is
// not to be executed gets its settlement at once; the rest joins the line.
func (f *fetcher) receive(ds []broker.Delivery, at time.Duration) {
	if len(ds) == 0 {
		return
	}
	now := time.Now()
	jobs := make([]*Job, 0, len(ds))
	all := make([]*Job, 0, len(ds))
	for i := range ds {
		j := &Job{Delivery: ds[i], Worker: f.r.cfg.ID, r: f.r, received: at}
		if j.Delivery.Lease <= 0 {
			j.Delivery.Lease = f.r.cfg.Lease
		}
		j.renewed(at, j.Delivery.Lease)
		j.reported = j.Delivery.Redelivered // by a call of its own
		j.marks = f.marks.of(j.Delivery.Envelope.Name, j.Delivery.Queue)
		if j.Delivery.Redelivered {
			j.marks.redelivered.Add(1)
		}
		all = append(all, j)
		if v, ok := f.refuse(j, now); ok {
			f.r.conclude(j, f.r.outcome(j, v, now))
			j.state = ended
			f.pending = append(f.pending, j)
			continue
		}
		f.scanAt = min(f.scanAt, at+scanEvery, j.renewAt)
		if j.slotOf(f.r.byStore(now)) {
			jobs = append(jobs, j)
		} else {
			f.limits.asking = append(f.limits.asking, j)
		}
	}
	f.join(all, jobs)
	f.limit(f.limits.asking)
	clear(f.limits.asking)
	f.limits.asking = f.limits.asking[:0]
}

// join holds jobs, of which those that are ready join the line.
func (f *fetcher) join(all, ready []*Job) {
	l := &f.r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range all {
		l.held.add(j)
	}
	l.push(ready)
}

// refuse says why a delivery is not to be executed at all, if there is a
// reason.
func (f *fetcher) refuse(j *Job, now time.Time) (verdict, bool) {
	if v, refused := refusal(&j.Delivery, f.r.cfg.MaxDeliveries, f.r.byStore(now)); refused {
		return v, true
	}
	if j.task = f.r.cfg.Lookup(j.Delivery.Envelope.Name); j.task != nil {
		return verdict{}, false
	}
	j.marks.unknown.Add(1)
	return f.unknown.judge(f.r, j, now), true
}

// refusal says why nobody is to execute a delivery, if there is a reason. now is by
// the store's clock.
func refusal(d *broker.Delivery, maxDeliveries int, now time.Time) (verdict, bool) {
	if d.Malformed != nil {
		return verdict{
			state: task.Failed, reason: task.ReasonMalformed, kind: task.ReasonMalformed,
			err: fmt.Errorf("the stored entry is no envelope: %w", d.Malformed),
		}, true
	}
	if d.Envelope.Expired(now) {
		return verdict{state: task.Cancelled, reason: task.ReasonExpired}, true
	}
	if d.Starts >= maxDeliveries {
		return verdict{
			state: task.Failed, reason: task.ReasonCrashLoop, kind: task.ReasonCrashLoop,
			err: fmt.Errorf("started %d times without an outcome: it takes its worker with it, or outlives its lease", d.Starts),
		}, true
	}
	return verdict{}, false
}
