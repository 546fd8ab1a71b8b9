package runner

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
)

// overlapFrom is how many outcomes an exchange must carry to be under way beside
// another. One with fewer is over sooner than it pays to look after it.
const overlapFrom = 32

// flight is one exchange under way.
type flight struct {
	plan     plan
	pending  []*Job     // whose outcomes it carries
	live     []liveness // whose renewals
	consumer broker.Consumer

	done     []broker.Settlement
	renewals []broker.Renewal
	want     broker.Want

	began time.Time
	took  time.Duration
	batch broker.Batch
	err   error
}

// air is what is known of exchanges that are under way. Where the consumer takes
// two at once (broker.Overlapping), the store works on one while the answer of the
// other is read and its tasks are executed: neither waits for the other.
// Renewals fly alone, so that none is overtaken by its task's settlement.
type air struct {
	most    int  // at once
	n       int  // that have not been landed
	crowded bool // two were at once, since there was none
	room    int  // deliveries that they ask for
	bytes   int
	landed  chan *flight // back, of those that were launched
	idle    []*flight    // for their slices
}

// maxFlights is how many exchanges are under way at most.
const maxFlights = 2

func newAir(c broker.Consumer) air {
	a := air{most: 1, landed: make(chan *flight, maxFlights)}
	if o, ok := c.(broker.Overlapping); ok {
		a.most = min(maxFlights, o.MaxExchanges())
	}
	return a
}

// enough is how many outcomes are missing for an exchange that others may overlap.
func (a *air) enough(pending int) int {
	if a.most == 1 {
		return math.MaxInt
	}
	return overlapFrom - pending
}

// board makes a flight of what is pending.
func (a *air) board(f *fetcher, p plan) *flight {
	fl := &flight{}
	if n := len(a.idle); n > 0 {
		fl, a.idle = a.idle[n-1], a.idle[:n-1]
	}
	fl.plan, fl.consumer = p, f.consumer
	fl.pending, f.pending = f.pending, fl.pending[:0]
	fl.live, f.live = f.live, fl.live[:0]
	for _, j := range fl.pending {
		fl.done = append(fl.done, broker.Settlement{Receipt: j.Delivery.Receipt, Outcome: j.outcome, Followups: j.followups})
	}
	for i := range fl.live {
		fl.renewals = append(fl.renewals, fl.live[i].renewal)
	}
	fl.want = broker.Want{Count: p.room, Bytes: p.bytes}
	if p.room > 0 {
		fl.want.Queues = slices.Clone(f.order.next())
	}
	a.crowded = a.crowded || a.n > 0
	a.n++
	a.room += p.room
	a.bytes += p.bytes
	return fl
}

// fly makes the call.
func (fl *flight) fly(r *Runner) {
	ctx, cancel := context.WithTimeout(r.calling, r.callTimeout())
	defer cancel()
	fl.began = time.Now()
	fl.batch, fl.err = fl.consumer.Exchange(ctx, fl.done, fl.renewals, fl.want)
	fl.took = time.Since(fl.began)
}

// launch has the call made by a goroutine of its own.
func (a *air) launch(r *Runner, fl *flight) {
	go func() {
		fl.fly(r)
		a.landed <- fl
	}()
}

// land notes that a flight is back, and reports whether others may have overlapped
// it: then its answer may be older than one that is known.
func (a *air) land(fl *flight) (crowded bool) {
	a.n--
	a.room -= fl.plan.room
	a.bytes -= fl.plan.bytes
	crowded = a.crowded
	a.crowded = crowded && a.n > 0
	return crowded
}

// clear lets go of what a flight carried, and keeps its slices.
func (a *air) clear(fl *flight) {
	clear(fl.pending)
	clear(fl.live)
	clear(fl.done) // lets go of results
	clear(fl.renewals)
	*fl = flight{pending: fl.pending[:0], live: fl.live[:0], done: fl.done[:0], renewals: fl.renewals[:0]}
	a.idle = append(a.idle, fl)
}

// wait returns when no call is under way.
func (a *air) wait() {
	for range a.n {
		<-a.landed
	}
}

// landings takes in the exchanges that are back.
func (f *fetcher) landings() error {
	for {
		select {
		case fl := <-f.air.landed:
			if err := f.land(fl); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// another decides whether a second exchange flies beside the first: when enough
// outcomes wait for it, and nothing is due that must fly alone. It is called under
// line.mu.
func (f *fetcher) another(now time.Duration) plan {
	l := &f.r.line
	if l.marked {
		f.scanAt = min(f.scanAt, now+scanEvery)
	}
	may := f.air.n < f.air.most && l.mode == 0 && l.alone == nil && !l.scanNow && now < f.scanAt &&
		f.failures == 0 && len(f.live) == 0
	l.enough, l.low = math.MaxInt, -1
	var p plan
	if may {
		l.enough = f.air.enough(len(f.pending))
		p.exchange = l.enough <= 0
	}
	if p.exchange {
		p.room, p.full = f.room(now), l.executing >= l.isolates
		p.bytes = max(1, prefetchBytes-l.bytes-f.air.bytes)
	}
	l.sleeping = !p.exchange
	return p
}
