package runner

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

const (
	lookEvery = time.Second            // an exchange happens at least so often
	lookLeast = 200 * time.Microsecond // and not sooner than this because something will be due
	scanEvery = 100 * time.Millisecond // while something may start, or has progress to send
	startAge  = 10 * time.Millisecond  // a handler that runs for so long has its start reported
	newsEvery = 100 * time.Millisecond // between exchanges, when full, that a wake-up caused
)

// errContract is a broker's answer that lacks an element.
var errContract = errors.New("the broker answered for another number of items than it was asked about")

// fetcher owns the consumer: one goroutine that exchanges outcomes, renewals
// and new deliveries, as fast as the round trips return while there is any of
// them, and sleeps while there is none. There is no timer between an outcome
// and its exchange: while one exchange is under way the next one's outcomes
// gather.
type fetcher struct {
	r        *Runner
	consumer broker.Consumer
	waiter   *waiter
	order    *order
	marks    *registry
	unknown  *strangers
	pace     pace
	limits   limits
	stop     stopping

	pending []*Job     // outcomes to send with the next exchange
	parked  []*Job     // outcomes that were refused, and wait for another try
	live    []liveness // renewals to send with it

	air   air              // exchanges that are under way
	early []broker.Revoked // of what one of them may bring

	settled []verdictOf // scratch

	hungry   bool          // there may be more to receive than the last exchange brought
	news     bool          // a wake-up came while there was no room
	newsAt   time.Duration // when the waiter may be asked again while there is no room
	lookAt   time.Duration // the next exchange is due then, whatever happens
	scanAt   time.Duration // the list of what is held is to be looked through then
	returned int64         // starts counted when prefetched deliveries were last given back
	failures int           // exchanges that failed in a row
	retryAt  time.Duration

	low       int           // see line.low
	holdUntil time.Duration // outcomes gather until then, or until no more than low are ready
}

// liveness is one renewal and what it was made of.
type liveness struct {
	job      *Job
	renewal  broker.Renewal
	length   time.Duration // the lease's, if it succeeds
	progress *task.Progress
	extend   time.Duration
}

// verdictOf is the broker's answer to one settlement.
type verdictOf struct {
	job       *Job
	err       error
	uncertain bool
}

func newFetcher(r *Runner, c broker.Consumer, w *waiter) *fetcher {
	return &fetcher{
		r: r, consumer: c, waiter: w, order: newOrder(r.cfg.Queues), marks: newRegistry(r.cfg.Meter),
		unknown: newStrangers(), hungry: true, returned: -1, air: newAir(c),
	}
}

// loop runs until the runner has stopped. An error means that the broker was
// closed under it.
func (f *fetcher) loop() error {
	defer f.air.wait()
	for {
		f.r.turn()
		if err := f.landings(); err != nil {
			return err
		}
		now := f.r.now()
		p := f.prepare(now)
		switch {
		case p.finished:
			return nil
		case p.exchange:
			if err := f.exchange(p); err != nil {
				return err
			}
		default:
			f.sleep(now, p)
		}
	}
}

// plan is what the fetcher does next.
type plan struct {
	finished bool
	exchange bool
	room     int  // deliveries to ask for
	bytes    int  // of envelopes, at most
	full     bool // it cannot take more
	gather   bool // sleep, but not for long
}

// prepare gathers what is to be sent and decides whether to exchange or to
// sleep. In the step that decides to sleep it also asks to be woken, so that
// no outcome is overlooked in between.
func (f *fetcher) prepare(now time.Duration) plan {
	l := &f.r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	f.pending = append(f.pending, l.ended...)
	clear(l.ended)
	l.ended = l.ended[:0]
	f.unpark(now)
	if f.air.n > 0 {
		return f.another(now)
	}
	if f.drain(now) {
		return plan{finished: true}
	}
	if now >= f.scanAt || l.scanNow {
		f.scan(now)
	} else if l.marked {
		f.scanAt = min(f.scanAt, now+scanEvery)
	}
	p := plan{room: f.room(now), bytes: max(1, prefetchBytes-l.bytes), full: l.alone != nil || l.executing >= l.isolates}
	switch {
	case f.failures > 0:
		p.exchange = now >= f.retryAt
	case len(f.pending) > 0 || len(f.live) > 0 || now >= f.lookAt || f.news:
		p.exchange = true
	default:
		p.exchange = f.hungry && p.room > 0
	}
	l.enough, l.low = 1, -1
	if p.exchange && f.mayGather(now) {
		p.exchange, p.gather = false, true
		l.enough, l.low = f.air.enough(len(f.pending)), f.low
	}
	l.sleeping = !p.exchange
	return p
}

// room is how many deliveries to ask for. It is called under line.mu.
func (f *fetcher) room(now time.Duration) int {
	l := &f.r.line
	f.pace.sample(now, l.starts+f.limits.denied) // what is put off takes no time
	if l.mode != 0 || l.alone != nil {
		return 0
	}
	ahead := 0
	switch {
	case l.starts == f.returned: // what was fetched ahead went back, and nothing has started since
	case l.bytes >= prefetchBytes:
	case f.r.cfg.Prefetch > 0:
		ahead = l.wanted * (f.r.cfg.Prefetch - 1)
	default:
		ahead = f.pace.ahead()
	}
	return max(0, l.isolates-l.executing-l.readyCount()+ahead-f.air.room)
}

// gatherMost bounds how long outcomes gather.
const gatherMost = 5 * time.Millisecond

// mayGather says whether there is a better moment than this for an exchange.
// When a large batch has just come in, the first outcomes are there at once,
// and to settle these few would cost as much as to settle many. So they gather
// until half of the batch is worked off, or there are enough for an exchange that
// another can overlap, but no longer than the last exchange took: that long they
// would have waited anyway, had they come a moment earlier. It is called under
// line.mu.
func (f *fetcher) mayGather(now time.Duration) bool {
	l := &f.r.line
	return now < f.holdUntil && l.readyCount() > f.low && l.mode == 0 && l.alone == nil &&
		f.failures == 0 && len(f.live) == 0 && !f.news && f.air.enough(len(f.pending)) > 0
}

// gatherFrom is how many deliveries must be ready for outcomes to gather.
const gatherFrom = 16

// gather starts the time in which outcomes gather, after an exchange that took
// that long.
func (f *fetcher) gather(took time.Duration) {
	l := &f.r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	f.holdUntil = 0
	if n := l.readyCount(); n >= gatherFrom {
		f.low, f.holdUntil = n/2, f.r.now()+min(took, gatherMost)
	}
}

// exchange is one round trip and what comes of it, here or, when there is much in
// it, beside the next one, to which it leaves half of the bytes.
func (f *fetcher) exchange(p plan) error {
	beside := f.air.enough(len(f.pending)) <= 0 && len(f.live) == 0
	if beside {
		p.bytes = max(1, p.bytes/2)
	}
	fl := f.air.board(f, p)
	if beside {
		f.air.launch(f.r, fl)
		return nil
	}
	fl.fly(f.r)
	return f.land(fl)
}

// land takes in what came of an exchange.
func (f *fetcher) land(fl *flight) error {
	crowded := f.air.land(fl)
	defer f.air.clear(fl)
	f.r.roundtrip("exchange", fl.took, fl.err)
	batch := &fl.batch
	if fl.err == nil && (len(batch.Settled) != len(fl.pending) || len(batch.Renewed) != len(fl.live)) {
		fl.err = errContract
	}
	if fl.err != nil {
		return f.failed(fl)
	}
	f.succeeded()
	at, room := f.r.since(fl.began), fl.plan.room
	f.r.ahead.Store(int64(batch.Ahead))
	f.settle(fl.pending, batch.Settled)
	f.renew(fl.live, batch.Renewed, at)
	f.receive(batch.Deliveries, at)
	f.revoke(batch.Revoked)
	f.gather(fl.took)
	if len(batch.Deliveries) == 1 {
		runtime.Gosched() // a lone task's isolate runs now, and not after whom this goroutine wakes next
	}

	f.news = false
	f.hungry = batch.More || room > 0 && len(batch.Deliveries) >= room || crowded && f.hungry
	next := lookEvery
	if batch.Next > 0 && room > 0 {
		next = min(next, max(batch.Next, lookLeast))
	}
	if next += f.r.now(); !crowded || next < f.lookAt {
		f.lookAt = next
	}
	if room > 0 || fl.plan.full {
		f.r.heard.Store(int64(at) + 1) // never 0
	}
	return nil
}

// failed notes that an exchange failed. Nothing is known of what it was to do:
// all of it is sent again.
func (f *fetcher) failed(fl *flight) error {
	if f.r.line.stopMode() == Hard {
		return nil
	}
	if errors.Is(fl.err, broker.ErrClosed) && fl.consumer == f.consumer {
		c, openErr := f.r.open()
		if openErr != nil {
			return fmt.Errorf("the broker was closed: %w", openErr)
		}
		if c != nil {
			f.waiter.use(c)
			f.consumer = c
		}
	}
	f.r.line.mu.Lock()
	for _, j := range fl.pending {
		j.uncertain = true
	}
	f.r.line.mu.Unlock()
	f.pending = append(f.pending, fl.pending...)
	f.failures++
	now := f.r.now()
	f.retryAt = now + patience(f.failures)
	f.scanAt = min(f.scanAt, f.retryAt)
	if loud(f.failures) {
		f.r.log.Warn("cannot reach the broker; will try again", "failures", f.failures, "error", fl.err)
	}
	return nil
}

func (f *fetcher) succeeded() {
	if f.failures > 0 {
		f.r.log.Info("the broker is back", "failures", f.failures)
	}
	f.failures = 0
}

// sleep waits for an outcome, a call from the broker, or the next moment at
// which something is due.
func (f *fetcher) sleep(now time.Duration, p plan) {
	until, room := f.scanAt, p.room
	switch {
	case f.air.n > 0:
		until = now + time.Hour // a call is bounded
	case f.failures > 0:
		until = min(until, f.retryAt)
	case p.gather:
		until = min(until, f.holdUntil)
	default:
		if !f.waiter.busy && (room > 0 || now >= f.newsAt) {
			f.waiter.ask(now, max(f.lookAt-now, lookLeast))
		}
		if f.waiter.busy {
			// The waiter brings the next look; this is for one that does not
			// return when it should.
			until = min(until, max(f.lookAt, f.waiter.until)+lookEvery)
		} else {
			until = min(until, f.lookAt)
			if room == 0 {
				until = min(until, max(f.newsAt, now))
			}
		}
	}
	if f.air.n == 0 { // else nothing of it is looked at before one is back
		for _, j := range f.parked {
			until = min(until, j.renewAt)
		}
		if at := f.stop.next(); at > 0 {
			until = min(until, at)
		}
	}
	f.waiter.timer.Reset(max(until-now, 0))
	defer f.waiter.timer.Stop()
	select {
	case <-f.r.line.kick:
	case <-f.waiter.timer.C:
	case fl := <-f.air.landed:
		f.air.landed <- fl // which landings takes in
	case <-f.waiter.woken:
		f.waiter.busy = false
		f.hungry = true
		if room == 0 {
			f.news = true
			f.newsAt = f.r.now() + newsEvery
		}
	}
	f.r.line.awake()
}
