package httpapi

import (
	"context"
	"errors"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// line takes the tasks of one set of queues for everybody who asks for them:
// one consumer, owned by one goroutine. It receives as much as is asked for at
// the moment, reports the starts, and hands over. So what a puller holds is
// started, and stays its own until its lease ends, whatever becomes of the line.
type line struct {
	p      *pullers
	key    string
	queues []string

	// Guarded by pullers.mu.
	pending []*demand
	held    int                // leases that are out
	kicked  bool               // look again
	kick    context.CancelFunc // ends the wait under way
}

// demand is one request for tasks.
type demand struct {
	worker  string
	count   int
	lease   time.Duration // 0: the task's own
	once    bool          // it does not wait
	rounds  int           // how often it came away with nothing since tasks were put off
	taken   bool          // guarded by pullers.mu: part of the exchange under way
	leaving bool          // guarded by pullers.mu: answer, with nothing if need be
	got     []*given      // the line's, until it is answered
	err     error
	out     chan struct{} // closed by the answer
}

const (
	lineIdle   = time.Minute      // without anything to do, then it closes
	lineLook   = time.Second      // a lost notification costs at most so much
	lineRounds = 100              // exchanges for who does not wait, past tasks that are put off
	lineSlow   = 10 * time.Second // looks of a line that only waits for revocations
	exchangeOf = 1000             // tasks received at once
	bytesOf    = 4 << 20          // of them
	brokerTime = 30 * time.Second // for one call
)

// run is the line's goroutine.
func (l *line) run(ctx context.Context) {
	consumer, err := l.p.broker().Open(ctx, broker.Subscription{Worker: l.p.worker, Queues: l.queues})
	if err != nil {
		l.p.endLine(l, err)
		return
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := consumer.Close(ctx); err != nil && !errors.Is(err, broker.ErrClosed) {
			l.p.log.Warn("cannot close a consumer", "queues", l.queues, "error", err)
		}
	}()
	for idle := time.Now(); ; {
		taken := l.p.take(l)
		if len(taken) > 0 {
			idle = time.Now()
		}
		next, err := l.exchange(ctx, consumer, taken)
		if ctx.Err() != nil || errors.Is(err, broker.ErrClosed) {
			l.p.endLine(l, err)
			return
		}
		if l.p.retire(l, time.Since(idle)) {
			return
		}
		if next > 0 || err != nil {
			l.wait(ctx, consumer, max(next, time.Millisecond), err)
		}
	}
}

// exchange serves the demands as far as there is work, and says how long to
// wait before the next look; 0: not at all.
func (l *line) exchange(ctx context.Context, consumer broker.Consumer, taken []*demand) (time.Duration, error) {
	want := broker.Want{Bytes: bytesOf}
	for _, d := range taken {
		want.Count += d.count
	}
	want.Count = min(want.Count, exchangeOf)
	began, put := time.Now(), false
	call, cancel := context.WithTimeout(ctx, brokerTime)
	batch, err := consumer.Exchange(call, nil, nil, want)
	cancel()
	if err == nil {
		l.p.revoked(batch.Revoked)
		l.p.ahead.Store(int64(batch.Ahead))
		put, err = l.start(ctx, batch.Deliveries, taken, began)
	}
	waiting := l.p.giveOut(l, taken, put && batch.More, err)
	switch {
	case err != nil:
		return lineLook, err
	case (batch.More || put) && waiting: // the moment of what was put off is not in Next yet
		return 0, nil
	case !waiting:
		return lineSlow, nil
	case batch.Next > 0:
		return min(batch.Next, lineLook), nil
	}
	return lineLook, nil
}

// start settles what must not be executed, puts off what has to wait for its rate
// limit, reports the start of the rest, and divides it among the demands, the oldest
// first. It says whether something was put off, in whose place more can come.
func (l *line) start(ctx context.Context, ds []broker.Delivery, taken []*demand, began time.Time) (put bool, err error) {
	if len(ds) == 0 {
		return false, nil
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTime)
	defer cancel()
	sound, put := l.sift(call, ds)
	gs := l.divide(sound, taken, began)
	if len(gs) == 0 {
		return put, nil
	}
	renewals := make([]broker.Renewal, len(gs))
	for i, g := range gs {
		renewals[i] = broker.Renewal{Receipt: g.delivery.Receipt, Start: true, Extend: g.lease, Worker: g.worker}
	}
	errs, err := l.p.broker().Renew(call, renewals)
	if err != nil {
		l.p.giveBack(call, gs)
		return put, err
	}
	for i, g := range gs {
		if errs[i] == nil {
			g.to.got = append(g.to.got, g)
			l.p.s.tally.Started(&g.delivery)
		}
	}
	return put, nil
}

// sift settles what is not to be handed out now, and returns the rest.
func (l *line) sift(ctx context.Context, ds []broker.Delivery) (sound []*broker.Delivery, put bool) {
	now := time.Now()
	var away []broker.Settlement
	var gone []*broker.Delivery
	for i := range ds {
		l.p.s.tally.Received(&ds[i])
		if st, no := l.p.refuse(&ds[i], now); no {
			away, gone = append(away, st), append(gone, &ds[i])
			continue
		}
		sound = append(sound, &ds[i])
	}
	off := l.p.s.limits.sift(ctx, l.p.elsewhere(l.p.worker), sound, now)
	if len(off) > 0 {
		kept := sound[:0]
		for _, d := range sound {
			if st, wait := off[d]; wait {
				away, gone = append(away, st), append(gone, d)
			} else {
				kept = append(kept, d)
			}
		}
		sound = kept
	}
	l.settleAway(ctx, away, gone)
	return sound, len(off) > 0
}

// divide gives deliveries to the demands, the oldest first.
func (l *line) divide(ds []*broker.Delivery, taken []*demand, began time.Time) []*given {
	now := time.Now()
	gs := make([]*given, 0, len(ds))
	to, room := 0, 0
	if len(taken) > 0 {
		room = taken[0].count
	}
	for _, d := range ds {
		for room == 0 && to+1 < len(taken) {
			to++
			room = taken[to].count
		}
		if room == 0 {
			break // more than was asked for: closing gives it back
		}
		room--
		dm := taken[to]
		g := &given{delivery: *d, line: l, worker: dm.worker, lease: dm.lease, started: now, to: dm}
		if g.lease == 0 {
			g.lease = d.Lease
		}
		g.until = began.Add(g.lease)
		gs = append(gs, g)
	}
	return gs
}

// settleAway settles deliveries that are not executed now.
func (l *line) settleAway(ctx context.Context, away []broker.Settlement, ds []*broker.Delivery) {
	if len(away) == 0 {
		return
	}
	errs, err := l.p.broker().Settle(ctx, away)
	if err != nil {
		l.p.log.Warn("cannot settle what is not executed now", "count", len(away), "error", err)
		return
	}
	for i, d := range ds {
		if errs[i] == nil {
			l.p.s.tally.Ended(d, &away[i].Outcome)
		}
	}
}

// wait returns when there may be something to do.
func (l *line) wait(ctx context.Context, consumer broker.Consumer, atMost time.Duration, failed error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	if !l.p.canWait(l, cancel) {
		return
	}
	if failed != nil || consumer.Wait(ctx, atMost) != nil {
		<-ctx.Done() // the store is away, or somebody kicked
	}
	l.p.mu.Lock()
	l.kick = nil
	l.p.mu.Unlock()
}

// elsewhere judges what a worker executes.
func (p *pullers) elsewhere(worker string) runner.Elsewhere {
	return runner.Elsewhere{
		Worker: worker, Keep: p.s.opts.Retention, MaxDeliveries: p.s.opts.MaxDeliveries, Ahead: time.Duration(p.ahead.Load()),
	}
}

// refuse is the settlement of what nobody may execute.
func (p *pullers) refuse(d *broker.Delivery, now time.Time) (broker.Settlement, bool) {
	e := p.elsewhere(p.worker)
	if st, no := e.Refuse(d, now); no {
		return st, true
	}
	if d.Envelope.Headers[task.HeaderEncoder] == "" {
		return broker.Settlement{}, false
	}
	args, err := p.s.client.DecodeArgs(d.Envelope)
	if err != nil {
		return e.Failed(d, now, argsError(err), now), true
	}
	plain := *d.Envelope // what the store handed out is not ours to change
	plain.Args = args
	d.Envelope = &plain
	return broker.Settlement{}, false
}
