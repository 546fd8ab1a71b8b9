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
	taken   bool          // guarded by pullers.mu: part of the exchange under way
	leaving bool          // guarded by pullers.mu: answer, with nothing if need be
	got     []*given      // the line's, until it is answered
	err     error
	out     chan struct{} // closed by the answer
}

const (
	lineIdle   = time.Minute      // without anything to do, then it closes
	lineLook   = time.Second      // a lost notification costs at most so much
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
	began := time.Now()
	call, cancel := context.WithTimeout(ctx, brokerTime)
	batch, err := consumer.Exchange(call, nil, nil, want)
	cancel()
	if err == nil {
		l.p.revoked(batch.Revoked)
		err = l.start(ctx, batch.Deliveries, taken, began)
	}
	waiting := l.p.giveOut(l, taken, err)
	switch {
	case err != nil:
		return lineLook, err
	case batch.More && waiting:
		return 0, nil
	case !waiting:
		return lineSlow, nil
	case batch.Next > 0:
		return min(batch.Next, lineLook), nil
	}
	return lineLook, nil
}

// start settles what must not be executed, reports the start of the rest, and
// divides it among the demands, the oldest first.
func (l *line) start(ctx context.Context, ds []broker.Delivery, taken []*demand, began time.Time) error {
	if len(ds) == 0 {
		return nil
	}
	now := time.Now()
	var refused []broker.Settlement
	var refusals []*broker.Delivery
	var gs []*given
	var renewals []broker.Renewal
	to, room := 0, 0
	if len(taken) > 0 {
		room = taken[0].count
	}
	for i := range ds {
		l.p.s.tally.Received(&ds[i])
		if st, no := l.p.refuse(&ds[i], now); no {
			refused, refusals = append(refused, st), append(refusals, &ds[i])
			continue
		}
		for room == 0 && to+1 < len(taken) {
			to++
			room = taken[to].count
		}
		if room == 0 {
			break // more than was asked for: closing gives it back
		}
		room--
		d := taken[to]
		g := &given{delivery: ds[i], line: l, worker: d.worker, lease: d.lease, started: now, to: d}
		if g.lease == 0 {
			g.lease = ds[i].Lease
		}
		g.until = began.Add(g.lease)
		gs = append(gs, g)
		renewals = append(renewals, broker.Renewal{Receipt: ds[i].Receipt, Start: true, Extend: g.lease, Worker: g.worker})
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTime)
	defer cancel()
	l.settleRefused(call, refused, refusals)
	if len(renewals) == 0 {
		return nil
	}
	errs, err := l.p.broker().Renew(call, renewals)
	if err != nil {
		l.p.giveBack(call, gs)
		return err
	}
	for i, g := range gs {
		if errs[i] == nil {
			g.to.got = append(g.to.got, g)
			l.p.s.tally.Started(&g.delivery)
		}
	}
	return nil
}

// settleRefused settles deliveries that must not be executed.
func (l *line) settleRefused(ctx context.Context, refused []broker.Settlement, ds []*broker.Delivery) {
	if len(refused) == 0 {
		return
	}
	errs, err := l.p.broker().Settle(ctx, refused)
	if err != nil {
		l.p.log.Warn("cannot settle what must not be executed", "count", len(refused), "error", err)
		return
	}
	for i, d := range ds {
		if errs[i] == nil {
			l.p.s.tally.Ended(d, &refused[i].Outcome)
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

// refuse is the settlement of what nobody may execute.
func (p *pullers) refuse(d *broker.Delivery, now time.Time) (broker.Settlement, bool) {
	e := runner.Elsewhere{Worker: p.worker, Keep: p.s.opts.Retention, MaxDeliveries: p.s.opts.MaxDeliveries}
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
