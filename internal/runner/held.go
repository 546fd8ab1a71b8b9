package runner

import (
	"time"
)

// held is the list of jobs whose delivery this worker has: ready, starting,
// running, or with an outcome that is not stored yet. It is guarded by
// line.mu.
type held struct {
	first, last *Job
	n           int
}

func (h *held) add(j *Job) {
	j.prev = h.last
	if h.last != nil {
		h.last.next = j
	} else {
		h.first = j
	}
	h.last = j
	h.n++
}

// remove takes j out, once; its state is gone then.
func (h *held) remove(j *Job) {
	if j.state == gone {
		return
	}
	if j.prev != nil {
		j.prev.next = j.next
	} else {
		h.first = j.next
	}
	if j.next != nil {
		j.next.prev = j.prev
	} else {
		h.last = j.prev
	}
	j.prev, j.next = nil, nil
	j.state = gone
	h.n--
}

// renewed notes that the lease was extended by a call that began at that
// moment. It is renewed again at half the task's usual length before its end.
func (j *Job) renewed(began, length time.Duration) {
	j.leaseEnd = began + length
	j.renewAt = j.leaseEnd - min(length, j.Delivery.Lease)/2
}

// drop forgets a job that needs no settlement.
func (r *Runner) drop(j *Job) {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	r.line.held.remove(j)
}

// lose ends a job whose delivery belongs to somebody else: its handler is told
// to stop, and its outcome will not be stored.
func (r *Runner) lose(j *Job, err error) {
	r.line.mu.Lock()
	uncertain := j.uncertain && j.state == ended
	known := j.state != gone
	r.line.held.remove(j)
	j.stop(ErrLeaseLost)
	r.line.mu.Unlock()
	if known {
		r.lostLease(j, uncertain, err)
	}
}

// stopSettled ends a job whose outcome turned out to be stored already.
func (r *Runner) stopSettled(j *Job) {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	r.line.held.remove(j)
	j.stop(ErrLeaseLost)
}
