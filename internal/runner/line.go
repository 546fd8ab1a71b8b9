package runner

import (
	"context"
	"sync"
	"time"
)

// line is what the fetcher and the isolates share: the deliveries that wait
// for an isolate, one list for all of them so that a long task never holds a
// short one behind it, and the outcomes that wait to be stored. Its one mutex
// also guards the jobs' own state.
type line struct {
	mu   sync.Mutex
	work sync.Cond // on mu: there is something to take, or the line closed

	queue []*Job // ready jobs from head on, first come first served
	head  int
	bytes int // of the envelopes in it

	held  held   // every job that is not gone
	ended []*Job // of them, those whose outcome the fetcher has not taken

	pool map[*isolate]struct{} // every isolate whose goroutine lives

	wanted    int // isolates that the worker is to have
	isolates  int // in service: not lost, not left behind
	executing int // of them, with a job
	idle      int // of them, waiting to be called
	lost      int // handlers past their hard limit that have not returned
	starts    int64

	// alone is the job that runs, or waits to run, with no other beside it;
	// quiet is closed when the last other one ended.
	alone *Job
	quiet chan struct{}

	open   bool // the pool was started
	closed bool

	// The fetcher sleeps until something is sent on kick. Whoever has news for
	// it sends when sleeping is set.
	kick     chan struct{}
	sleeping bool
	enough   int  // so many outcomes wake it,
	low      int  // and any outcome when no more jobs than this are ready
	scanNow  bool // a lease is to be renewed at once
	marked   bool // a job has progress or an extension to send

	mode Mode // 0: not stopping
}

func (l *line) init(wanted int) {
	l.wanted = wanted
	l.work.L = &l.mu
	l.kick = make(chan struct{}, 1)
	l.pool = map[*isolate]struct{}{}
}

// wakeFetcher is called under mu.
func (l *line) wakeFetcher() {
	if !l.sleeping {
		return
	}
	l.sleeping = false
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// awake notes that the fetcher needs no waking.
func (l *line) awake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sleeping = false
}

func (l *line) stopMode() Mode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode
}

func (l *line) readyCount() int { return len(l.queue) - l.head }

// push adds received jobs and wakes as many isolates as that needs. It is
// called under mu.
func (l *line) push(jobs []*Job) {
	if l.head > 0 && l.head*2 >= len(l.queue) {
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	for _, j := range jobs {
		l.queue = append(l.queue, j)
		l.bytes += j.Delivery.Size
	}
	l.call(len(jobs))
}

// call wakes up to n isolates.
func (l *line) call(n int) {
	for range min(n, l.idle) {
		l.work.Signal()
	}
}

func (l *line) pop() *Job {
	j := l.queue[l.head]
	l.queue[l.head] = nil
	l.head++
	l.bytes -= j.Delivery.Size
	return j
}

// withdraw takes the ready jobs that match out of the queue. It is called
// under mu.
func (l *line) withdraw(match func(*Job) bool) []*Job {
	var out []*Job
	kept := l.queue[:l.head]
	for _, j := range l.queue[l.head:] {
		if match(j) {
			out = append(out, j)
			l.bytes -= j.Delivery.Size
		} else {
			kept = append(kept, j)
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
	return out
}

// finish records that j's outcome is to be stored. It is called under mu, and
// does nothing for a job that is not the line's business any more.
func (l *line) finish(j *Job) {
	if j.state == ended || j.state == gone {
		return
	}
	j.state = ended
	l.ended = append(l.ended, j)
	if len(l.ended) >= l.enough || l.readyCount() <= l.low {
		l.wakeFetcher()
	}
}

// swap hands in the job that an isolate is through with, nil at first, and
// waits for the next. It returns nil when the isolate is to leave.
func (l *line) swap(iso *isolate, done *Job) *Job {
	l.mu.Lock()
	defer l.mu.Unlock()
	if done != nil {
		l.through(iso, done)
	}
	for {
		if l.closed || iso.left {
			return nil
		}
		if l.isolates > l.wanted {
			l.isolates--
			return nil
		}
		if l.alone == nil && l.readyCount() > 0 {
			j := l.pop()
			if j.alone() {
				l.alone = j
			}
			j.state, j.iso, iso.job = starting, iso, j
			l.executing++
			l.starts++
			return j
		}
		l.idle++
		l.work.Wait()
		l.idle--
	}
}

// through ends what binds an isolate and its job. It is called under mu.
func (l *line) through(iso *isolate, j *Job) {
	iso.job = nil
	l.finish(j)
	if l.alone == j {
		l.alone = nil
		l.call(l.readyCount())
	}
	if iso.left {
		l.lost--
		if l.isolates < l.wanted && !l.closed { // its place was not taken
			iso.left = false
			l.isolates++
			iso.gang.Add(1)
		}
	} else {
		l.executing--
	}
	if l.quiet != nil && l.executing == 1 { // the one that waits for it
		close(l.quiet)
		l.quiet = nil
	}
	if j.state == gone || l.mode != 0 { // there is no outcome to wake it
		l.wakeFetcher()
	}
}

// leave gives up an isolate whose handler does not return. It is called under
// mu, and once.
func (l *line) leave(iso *isolate) {
	iso.left = true
	l.isolates--
	l.executing--
	l.lost++
	if l.alone == iso.job {
		l.alone = nil
		l.call(l.readyCount())
	}
	iso.gang.Done()
}

// arm lets j be stopped before it runs.
func (l *line) arm(j *Job, cancel context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.cancel = cancel; j.stopped != nil {
		cancel(j.stopped)
	}
}

// awaitQuiet waits until j runs alone, or for as long as it may.
func (l *line) awaitQuiet(j *Job, atMost time.Duration) {
	l.mu.Lock()
	if l.executing == 1 {
		l.mu.Unlock()
		return
	}
	quiet := make(chan struct{})
	l.quiet = quiet
	l.mu.Unlock()

	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-quiet:
	case <-timer.C:
	case <-j.ctx.Done():
	}
	l.mu.Lock()
	l.quiet = nil
	l.mu.Unlock()
}

// close sends the isolates home as they become idle.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.work.Broadcast()
}
