package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// stuckGrace is how long a handler may take to return after its hard limit
// before its isolate is given up.
const stuckGrace = time.Second

// aloneWait bounds how long a suspect of a crash loop waits for the other
// handlers to end, while no new one starts. After that it runs beside those
// that are still there: they are few and long, and to give the suspect back
// instead would start its count anew (rule B17) or hand it straight back to
// this worker.
const aloneWait = 10 * time.Second

// isolate is one slot of the pool: a goroutine that executes job after job.
type isolate struct {
	gang *sync.WaitGroup // of those in service
	job  *Job            // guarded by line.mu
	left bool            // guarded by line.mu: given up, and out of gang
	id   []byte          // "goroutine 12 [", as a stack trace begins; set before its first job
}

// startIsolate adds an isolate to the pool. It is called under line.mu.
func (r *Runner) startIsolate() {
	iso := &isolate{gang: &r.gang}
	r.line.isolates++
	r.line.pool[iso] = struct{}{}
	iso.gang.Add(1)
	go r.isolate(iso)
}

func (r *Runner) isolate(iso *isolate) {
	iso.id = goroutineID()
	clean := false
	defer func() { r.retire(iso, clean) }()
	var j *Job
	for {
		if j = r.line.swap(iso, j); j == nil {
			clean = true
			return
		}
		r.execute(j)
	}
}

// retire ends an isolate. One whose handler ended the goroutine itself
// (runtime.Goexit) still has its job, and is replaced.
func (r *Runner) retire(iso *isolate, clean bool) {
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pool, iso)
	if !clean {
		l.through(iso, iso.job)
		if !iso.left && !l.closed {
			l.isolates--
			r.startIsolate()
		}
	}
	if !iso.left {
		iso.gang.Done()
	}
}

// execute runs one job to its outcome and leaves it in j.outcome.
func (r *Runner) execute(j *Job) {
	ctx, cancel := context.WithCancelCause(r.handlers)
	defer cancel(nil)
	j.ctx = ctx
	r.received(j)
	if j.alone() || j.Delivery.Redelivered {
		r.line.arm(j, cancel)
		if j.alone() {
			r.line.awaitQuiet(j, min(j.Delivery.Lease/2, aloneWait))
		}
		if j.Delivery.Redelivered && !r.agree(j) {
			return
		}
	}
	now := time.Now()
	if !r.begin(j, cancel, now) {
		return
	}
	j.marks.started.Add(1)
	if span := r.executing(j); span != nil {
		defer r.executed(j, span)
	}
	stop := r.limit(j)
	result, err := r.call(j)
	now, cause := time.Now(), context.Cause(j.ctx)
	stop()
	if err == nil {
		r.conclude(j, r.success(j, result, now))
	} else {
		r.conclude(j, r.outcome(j, j.judge(err, cause), now))
	}
}

// begin makes a job running, unless there is a reason not to execute it: then
// that is its outcome.
func (r *Runner) begin(j *Job, cancel context.CancelCauseFunc, now time.Time) bool {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if j.state != starting {
		return false
	}
	if r.since(now) >= j.leaseEnd {
		j.stop(ErrLeaseLost) // the process slept: another worker may have it
	}
	expired := j.Delivery.Envelope.Expired(r.byStore(now))
	if j.stopped == nil && !expired {
		j.state, j.Started, j.cancel = running, now, cancel
		return true
	}
	v := release
	switch {
	case errors.Is(j.stopped, ErrRevoked):
		v = verdict{state: task.Cancelled, reason: task.ReasonRevoked}
	case j.stopped == nil:
		v = verdict{state: task.Cancelled, reason: task.ReasonExpired}
	}
	j.outcome = r.outcome(j, v, now)
	return false
}

// limit starts the clocks of a task's time limits; the function that it
// returns stops them.
func (r *Runner) limit(j *Job) (stop func()) {
	soft, hard := j.task.SoftTimeout, j.task.HardTimeout
	if soft <= 0 && hard <= 0 {
		return func() {}
	}
	stop = func() {}
	if soft > 0 {
		j.Deadline = j.Started.Add(soft)
		ctx, cancel := context.WithDeadlineCause(j.ctx, j.Deadline, ErrSoftTimeout)
		j.ctx, stop = ctx, cancel
	}
	if hard <= 0 {
		return stop
	}
	if at := j.Started.Add(hard); soft <= 0 || at.Before(j.Deadline) {
		j.Deadline = at
		ctx, cancel := context.WithDeadlineCause(j.ctx, at, ErrHardTimeout)
		j.ctx, stop = ctx, cancel
	}
	inner := stop
	timer := time.AfterFunc(hard, func() { r.overdue(j) })
	return func() { timer.Stop(); inner() }
}

// call is the handler itself. A panic is an error with its stack.
func (r *Runner) call(j *Job) (result json.RawMessage, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			result, err = nil, &panicError{value: v, stack: clip(string(debug.Stack()), maxStack)}
			return
		}
		// runtime.Goexit: the deferred calls are all that still runs here.
		exit := errors.New("the handler ended its goroutine (runtime.Goexit)")
		r.conclude(j, r.outcome(j, j.judge(exit, context.Cause(j.ctx)), time.Now()))
	}()
	result, err = j.task.Handle(j.ctx, j)
	returned = true
	return result, err
}

// conclude makes o the job's outcome, with what follows from it. A
// follow-up that cannot be read makes a success a failure: it would be lost
// without a word.
func (r *Runner) conclude(j *Job, o task.Outcome) {
	o, next := r.followups(j, o)
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if j.state == ended || j.state == gone {
		return
	}
	if o.State == task.Succeeded {
		next = append(next, j.onSuccess...)
		if j.ignoresResult() {
			o.Result = nil
		}
	}
	j.outcome, j.followups = o, next
}

// followups are what an outcome enqueues. The outcome is another one where
// they cannot be read.
func (r *Runner) followups(j *Job, o task.Outcome) (task.Outcome, []broker.Publication) {
	next, err := links(j.Delivery.Envelope, &o)
	if err != nil && o.State == task.Succeeded {
		v := j.failed(&ResultError{Reason: task.ReasonResultInvalid, Err: err}, nil)
		o = r.outcome(j, v, o.EndedAt)
		if next, err = links(j.Delivery.Envelope, &o); err != nil {
			next = nil
		}
	}
	j.continueTrace(next)
	return o, next
}

// overdue is the end of an attempt that reached its hard limit: its outcome is
// settled, whatever the handler does.
func (r *Runner) overdue(j *Job) {
	v := j.failed(fmt.Errorf("%w after %s", ErrHardTimeout, j.task.HardTimeout), nil)
	r.conclude(j, r.outcome(j, v, time.Now()))
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.state != running {
		return
	}
	l.finish(j)
	j.stop(ErrHardTimeout)
	time.AfterFunc(stuckGrace, func() { r.stuck(j) })
}

// stuck gives up the isolate of a handler that did not return, and replaces
// it, as long as no more than Concurrency are lost.
func (r *Runner) stuck(j *Job) {
	l := &r.line
	l.mu.Lock()
	iso := j.iso
	if iso.job != j || iso.left || l.closed {
		l.mu.Unlock()
		return
	}
	l.leave(iso)
	replaced := l.lost <= l.wanted
	if replaced {
		r.startIsolate()
	}
	lost := l.lost
	l.wakeFetcher()
	l.mu.Unlock()

	r.log.Error("handler does not return after its hard limit", "task", j.Delivery.Envelope.Name,
		"task_id", j.Delivery.Envelope.ID, "queue", j.Delivery.Queue, "attempt", j.Delivery.Attempt,
		"lost", lost, "replaced", replaced, "stack", stackOf(iso.id))
}

// goroutineID is how the caller's own stack trace begins: "goroutine 12 [".
func goroutineID() []byte {
	buf := make([]byte, 64)
	buf = buf[:runtime.Stack(buf, false)]
	if i := bytes.IndexByte(buf, '['); i > 0 {
		return buf[:i+1]
	}
	return nil
}

// stackOf finds the stack trace of one goroutine among those of all.
func stackOf(id []byte) string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, block := range bytes.Split(buf, []byte("\n\n")) {
		if len(id) > 0 && bytes.HasPrefix(block, id) {
			return clip(string(block), maxStack)
		}
	}
	return ""
}
