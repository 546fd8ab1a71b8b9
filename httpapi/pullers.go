package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// maxLines bounds how many sets of queues are consumed at once.
const maxLines = 256

// pullers is the pull API's state: its lines, and the leases that are out.
type pullers struct {
	s      *Server
	log    *slog.Logger
	worker string       // the consumers' own name
	ahead  atomic.Int64 // ns: how far the store's clock is ahead of ours, as a line last heard

	mu     sync.Mutex
	lines  map[string]*line
	given  map[broker.Receipt]*given
	swept  time.Time
	closed bool
	wg     sync.WaitGroup
}

// given is a lease that a puller holds. It is kept for a minute after its end,
// as long as nobody settles it: what is kept of it spares reading the status.
type given struct {
	delivery broker.Delivery
	line     *line
	to       *demand
	worker   string
	lease    time.Duration
	started  time.Time
	until    time.Time // guarded by pullers.mu
	revoked  bool      // guarded by pullers.mu
	lost     bool      // guarded by pullers.mu: counted as such
}

const (
	sweepEvery = 10 * time.Second
	sweepAfter = time.Minute
)

func (p *pullers) init(s *Server) {
	p.s, p.log, p.worker = s, s.opts.Logger, workerName()
	p.lines = map[string]*line{}
	p.given = map[broker.Receipt]*given{}
}

func (p *pullers) broker() broker.Broker { return p.s.client.Broker() }

// close waits for the lines, which end with Server.stop.
func (p *pullers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
}

// ask joins the line of those queues.
func (p *pullers) ask(queues []string, d *demand) (*line, *Problem) {
	key := strings.Join(queues, ",")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.s.stop.Err() != nil {
		return nil, problem(busy, "the server is stopping; try again")
	}
	l := p.lines[key]
	if l == nil {
		if len(p.lines) >= maxLines {
			return nil, problem(busy, "%d different sets of queues are asked for already", maxLines)
		}
		l = &line{p: p, key: key, queues: slices.Clone(queues)}
		p.lines[key] = l
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			l.run(p.s.stop)
		}()
	}
	l.pending = append(l.pending, d)
	l.look()
	return l, nil
}

// look has the line look again. It is called under mu.
func (l *line) look() {
	l.kicked = true
	if l.kick != nil {
		l.kick()
	}
}

// withdraw takes a demand back. One that is being served is answered soon, and
// withdraw waits for that.
func (p *pullers) withdraw(l *line, d *demand) {
	p.mu.Lock()
	if d.taken {
		d.leaving = true
		p.mu.Unlock()
		<-d.out
		return
	}
	if i := slices.Index(l.pending, d); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
		if len(l.pending) == 0 {
			l.look() // so that work is not announced to a line that wants none
		}
	}
	p.mu.Unlock()
}

// take takes the demands for one exchange.
func (p *pullers) take(l *line) []*demand {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.kicked = false
	taken := l.pending
	l.pending = nil
	for _, d := range taken {
		d.taken = true
	}
	return taken
}

// giveOut answers the demands that got something, or wait no longer, and says
// whether any still waits. There are more tasks behind some that were put off: who
// does not wait is not told that there are none because of these.
func (p *pullers) giveOut(l *line, taken []*demand, more bool, err error) (waiting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stopping := p.s.stop.Err() != nil
	if stopping {
		err = nil // an empty answer: ask another server
	}
	var rest []*demand
	for _, d := range taken {
		d.taken = false
		if more {
			d.rounds++
		}
		once := d.once && !(more && d.rounds < lineRounds)
		if err == nil && len(d.got) == 0 && !once && !d.leaving && !stopping {
			rest = append(rest, d)
			continue
		}
		if len(d.got) == 0 {
			d.err = err
		}
		for _, g := range d.got {
			g.to = nil
			p.given[g.delivery.Receipt] = g
			l.held++
		}
		close(d.out)
	}
	l.pending = append(rest, l.pending...)
	p.sweep(time.Now())
	return len(l.pending) > 0
}

// canWait lets the line sleep, unless there is something new.
func (p *pullers) canWait(l *line, kick context.CancelFunc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.kicked {
		return false
	}
	l.kick = kick
	return true
}

// retire ends a line that has been of no use for a while.
func (p *pullers) retire(l *line, idle time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if idle < lineIdle || l.held > 0 || len(l.pending) > 0 {
		return false
	}
	delete(p.lines, l.key)
	return true
}

// endLine answers all that wait at a line that cannot go on.
func (p *pullers) endLine(l *line, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.stop.Err() != nil {
		err = nil // an empty answer: ask another server
	}
	delete(p.lines, l.key)
	for _, d := range l.pending {
		d.err = err
		close(d.out)
	}
	l.pending = nil
}

// sweep forgets leases that ended without a settlement. It is called under mu.
func (p *pullers) sweep(now time.Time) {
	if now.Sub(p.swept) < sweepEvery {
		return
	}
	p.swept = now
	for r, g := range p.given {
		if now.Sub(g.until) > sweepAfter {
			p.drop(r, g)
		}
	}
}

func (p *pullers) drop(r broker.Receipt, g *given) {
	delete(p.given, r)
	g.line.held--
}

// revoked notes what the broker said of tasks that are to stop.
func (p *pullers) revoked(news []broker.Revoked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range news {
		if g := p.given[n.Receipt]; g != nil && n.Terminate {
			g.revoked = true
		}
	}
}

// find returns the lease that a receipt stands for, if this server gave it.
func (p *pullers) find(r broker.Receipt) (g *given, revoked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g = p.given[r]; g != nil {
		revoked = g.revoked
	}
	return g, revoked
}

// settled forgets leases that are over.
func (p *pullers) settled(rs ...broker.Receipt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range rs {
		if g := p.given[r]; g != nil {
			p.drop(r, g)
		}
	}
}

// lose counts a lease that passed to another worker, once.
func (p *pullers) lose(d *broker.Delivery) {
	p.mu.Lock()
	g := p.given[d.Receipt]
	counted := g != nil && g.lost
	if g != nil {
		g.lost = true
	}
	p.mu.Unlock()
	if !counted {
		p.s.tally.Lost(d)
	}
}

// extended notes a lease's new end.
func (p *pullers) extended(r broker.Receipt, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.given[r]; g != nil {
		g.until = until
	}
}

// giveBack returns what nobody is going to execute, also when ctx has ended; what cannot be returned
// comes back when its lease ends.
func (p *pullers) giveBack(ctx context.Context, gs []*given) {
	if len(gs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTime)
	defer cancel()
	now := time.Now()
	batch := make([]broker.Settlement, len(gs))
	receipts := make([]broker.Receipt, len(gs))
	for i, g := range gs {
		batch[i] = p.elsewhere(g.worker).GivenBack(&g.delivery, now)
		receipts[i] = g.delivery.Receipt
	}
	if _, err := p.broker().Settle(ctx, batch); err != nil {
		p.log.Warn("cannot give tasks back", "count", len(gs), "error", err)
	}
	p.settled(receipts...)
}

// argsError is the failure of a task whose arguments cannot be decoded here.
func argsError(err error) error {
	reason := task.ReasonArgsInvalid
	if errors.Is(err, encode.ErrUnknown) {
		reason = task.ReasonEncoderUnknown
	}
	return &runner.ArgsError{Reason: reason, Err: err}
}
