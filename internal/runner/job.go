package runner

import (
	"context"
	"encoding/json"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// Job is one execution of a delivery. Its methods are safe for concurrent use,
// and do nothing once the execution has ended.
type Job struct {
	Delivery broker.Delivery
	Worker   string
	Started  time.Time
	Deadline time.Time // of the nearer limit; zero: none

	r     *Runner
	task  *Task // nil: this worker does not know the name
	marks *marks
	iso   *isolate // that executes it
	limit *Limit   // that was in force when it came; nil: none
	slot  bool     // it has one of it; set before it joins the line

	ctx   context.Context      // of the handler; the isolate's own until it is handed over
	trace measure.TraceContext // of its execute span; set before the handler runs

	// What follows is guarded by line.mu. Moments are counted from the
	// runner's start, by the monotonic clock.
	state      jobState
	cancel     context.CancelCauseFunc // of ctx; nil until there is one
	stopped    error                   // why the handler is to stop, or not to start
	prev, next *Job                    // neighbours in the list of what is held
	received   time.Duration           // when
	leaseEnd   time.Duration           // by the local clock, which began counting before the store's did
	renewAt    time.Duration
	reported   bool           // its start is in the store
	uncertain  bool           // its settlement was part of an exchange that failed
	refusals   int            // of its settlement
	progress   *task.Progress // not yet sent
	extend     time.Duration  // asked for and not yet sent; 0: none
	onSuccess  []broker.Publication
	consume    measure.Span // nil: not traced, or not begun
	outcome    task.Outcome // once ended
	followups  []broker.Publication
}

// jobState is where a job is on its way through the runner.
type jobState uint8

const (
	ready    jobState = iota // held, not taken by an isolate
	starting                 // taken; its start is being agreed with the broker
	running                  // its handler executes
	ended                    // its outcome waits to be stored
	gone                     // settled, lost or left: nothing of it is held any more
)

// Progress reports how far the handler is, from 0 to 100, with data of its
// own. It is stored with the next exchange, a tenth of a second later at most;
// of several reports in between only the last one counts.
func (j *Job) Progress(percent float64, data json.RawMessage) {
	p := &task.Progress{Percent: min(max(percent, 0), 100), Data: data, At: time.Now()}
	j.mark(func() { j.progress = p }, false)
}

// Heartbeat renews the lease now, for its usual length.
func (j *Job) Heartbeat() {
	j.mark(func() { j.extend = max(j.extend, j.Delivery.Lease) }, true)
}

// ExtendLease makes the lease end d from now, or later.
func (j *Job) ExtendLease(d time.Duration) {
	j.mark(func() { j.extend = max(j.extend, d) }, true)
}

// mark changes a running job and has the fetcher look at it: soon, or now.
func (j *Job) mark(change func(), now bool) {
	if j.r == nil { // not made by a runner
		return
	}
	l := &j.r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.state != running {
		return
	}
	change()
	if now {
		l.scanNow = true
	}
	l.marked = true
	l.wakeFetcher()
}

// OnSuccess adds publications that this attempt's success enqueues, in the
// step that stores it, or not at all.
func (j *Job) OnSuccess(p ...broker.Publication) {
	if j.r == nil {
		return
	}
	j.r.line.mu.Lock()
	defer j.r.line.mu.Unlock()
	if j.state == running {
		j.onSuccess = append(j.onSuccess, p...)
	}
}

// Envelope is the task's envelope; read-only.
func (j *Job) Envelope() *task.Envelope { return j.Delivery.Envelope }

// MaxRetries is how many attempts may follow the first: what the caller chose,
// else what the task's declaration here says, else the caller's default.
func (j *Job) MaxRetries() int {
	e := j.Delivery.Envelope
	if j.task != nil && j.task.MaxRetries != nil && string(e.Meta[task.MetaRetriesUnsaid]) == "true" {
		return *j.task.MaxRetries
	}
	return e.MaxRetries
}

// alone says whether this start is at least the third, so that the task is
// under suspicion of taking its process with it.
func (j *Job) alone() bool { return j.Delivery.Starts >= 2 }

// stop cancels the handler's context with that cause, or keeps it from
// starting; the first cause counts. It is called under line.mu.
func (j *Job) stop(cause error) {
	if j.stopped != nil {
		return
	}
	j.stopped = cause
	if j.cancel != nil {
		j.cancel(cause)
	}
}
