package redis

import (
	"cmp"
	"context"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// exchange is one Exchange on its way. With one partition it is one script; with
// several, the first asks one partition for all that is wanted while the others
// settle what is theirs, and the rest are asked only for what is missing.
type exchange struct {
	c        *consumer
	items    []settlement
	live     []broker.Renewal
	renewals [][]string
	want     broker.Want
	order    string

	left   int // deliveries that are still wanted
	bytes  int // that are still wanted; 0: no bound
	batch  broker.Batch
	values []string      // of its deliveries
	next   time.Duration // the earliest; -1: none yet

	stopping []broker.Receipt // renewed, and asked to stop

	number int  // counted by its consumer
	alone  bool // none other of its was under way when it began

	answered int   // asks
	failed   error // the first of those that were not
}

func (x *exchange) run(ctx context.Context) error {
	x.next = -1
	rounds := x.c.db.asks(x.items, x.live, x.batch.Renewed)
	if len(rounds) == 0 {
		rounds = append(rounds, nil)
	}
	n := len(x.c.db.tags)
	first := x.c.pick(n)
	asked := make([]bool, n)
	for i, asks := range rounds {
		if i == len(rounds)-1 {
			asks = x.ask(asks, first, asked)
		}
		x.send(ctx, asks)
		if err := x.ends(ctx, n == 1); err != nil {
			return err
		}
	}
	x.c.db.deliver(ctx, parcelsOf(x.c.db, x.items, x.batch.Settled))
	x.others(ctx, first, asked)
	if err := x.ends(ctx, x.answered == 0); err != nil {
		return err
	}
	if x.next >= 0 {
		x.batch.Next = max(x.next, 100*time.Microsecond)
	}
	if n := x.c.untilLook(); x.batch.Next == 0 || x.batch.Next > n {
		x.batch.Next = n
	}
	return nil
}

// ends reports whether the exchange ends with an error: when its caller's context
// has ended, or when the error counts, since no partition is left that could answer.
// Else the partitions that answer are served, and what belongs to the others has
// their errors.
func (x *exchange) ends(ctx context.Context, counts bool) error {
	if x.failed == nil || !counts && ctx.Err() == nil {
		return nil
	}
	x.giveBack(ctx)
	return x.failed
}

// giveBack releases what was taken by an exchange that failed: nobody will hear
// of it before its lease ends.
func (x *exchange) giveBack(ctx context.Context) {
	if len(x.batch.Deliveries) == 0 {
		return
	}
	back := make([]broker.Settlement, len(x.batch.Deliveries))
	for i := range back {
		back[i] = broker.Settlement{Receipt: x.batch.Deliveries[i].Receipt, Outcome: task.Outcome{State: task.Queued}}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, _, err := x.c.db.settleAndRenew(ctx, back, nil); err != nil {
		x.c.db.log.Warn("give back what a failed exchange took", "tasks", len(back), "error", err)
	}
}

// pick chooses the partition to begin with: one that called, or the next.
func (c *consumer) pick(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i := range c.parts {
		if k := (c.first + i) % n; c.parts[k].called && !c.parts[k].avoided(now) {
			c.first = k
			return k
		}
	}
	for range n {
		if c.first = (c.first + 1) % n; !c.parts[c.first].avoided(now) {
			break
		}
	}
	return c.first
}

// ask adds the consumer's own question to what goes to a partition anyway. One
// that wants nothing asks everywhere: for news, and to wait no more.
func (x *exchange) ask(asks []ask, first int, asked []bool) []ask {
	avoided := x.c.avoided()
	for p := range asked {
		if p != first && (x.want.Count > 0 || avoided[p]) {
			continue
		}
		asked[p] = true
		k := -1
		for i := range asks {
			if asks[i].partition == p {
				k = i
			}
		}
		if k < 0 {
			k = len(asks)
			asks = append(asks, ask{partition: p})
		}
		asks[k].sel = x.selection(p, x.left, x.bytes)
	}
	return asks
}

func (x *exchange) selection(p, count, bytes int) *selection {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return &selection{
		consumer: c, queues: x.order, count: count, bytes: bytes, turn: c.turn,
		waits: c.parts[p].waits, called: c.parts[p].called, holds: len(c.held) > 0, strict: len(x.batch.Deliveries) > 0,
	}
}

// send runs asks and gathers their answers. It returns the partitions that have
// more, where there was room for it.
func (x *exchange) send(ctx context.Context, asks []ask) (more []int) {
	answers, err := x.c.db.exchanges(ctx, asks, x.items, x.live, x.renewals)
	x.failed = cmp.Or(x.failed, err)
	for i := range answers {
		a := &answers[i]
		a.verdicts(a.settled, asks[i].done, x.batch.Settled)
		a.verdicts(a.renewed, asks[i].live, x.batch.Renewed)
		if a.err != nil {
			x.failed = cmp.Or(x.failed, a.err)
			x.c.avoid(ctx, asks[i].partition, a.err)
			continue
		}
		x.answered++
		if asks[i].sel == nil {
			continue
		}
		x.c.note(&asks[i], a, x)
		if x.batch.Deliveries == nil {
			x.batch.Deliveries, x.values = a.deliveries, a.values
		} else {
			x.batch.Deliveries, x.values = append(x.batch.Deliveries, a.deliveries...), append(x.values, a.values...)
		}
		x.batch.Revoked = append(x.batch.Revoked, a.revoked...)
		if n := asks[i].sel.count; a.more && n > 0 && len(a.deliveries) >= n {
			more = append(more, asks[i].partition)
		}
		x.batch.More = x.batch.More || a.more
		x.left -= len(a.deliveries)
		for k := range a.deliveries {
			x.bytes -= a.deliveries[k].Size
		}
		if a.next >= 0 && (x.next < 0 || a.next < x.next) {
			x.next = a.next
		}
		if a.skipped > 0 {
			x.c.db.log.Warn("entries of queues without a task were dropped", "entries", a.skipped, "partition", asks[i].partition)
		}
		if a.foreign != "" {
			x.c.db.log.Error("a queue cannot be served, and the others are", "worker", x.c.sub.Worker, "error", wrongType(a.foreign, nil))
		}
		for k, l := range asks[i].live {
			if a.renewed[k] == 'v' {
				x.stopping = append(x.stopping, x.live[l].Receipt)
			}
		}
	}
	return more
}

// smallBytes is a bound under which partitions are asked one after the other,
// and in full.
const smallBytes = 1 << 20

// others asks the partitions that were not asked yet for what is still wanted,
// each for its share, and then those that have more.
func (x *exchange) others(ctx context.Context, first int, asked []bool) {
	if x.want.Count <= 0 || len(asked) == 1 {
		return
	}
	var left []int
	avoided := x.c.avoided()
	for i := 1; i < len(asked); i++ {
		if p := (first + i) % len(asked); !avoided[p] {
			left = append(left, p)
		}
	}
	for len(left) > 0 && ctx.Err() == nil {
		if x.left <= 0 || x.want.Bytes > 0 && x.bytes <= 0 {
			x.batch.More = true // it was not looked
			break
		}
		n := min(len(left), x.left)
		if x.want.Bytes > 0 && x.bytes < smallBytes {
			n = 1
		}
		asks := make([]ask, 0, n)
		for _, p := range left[:n] {
			asks = append(asks, ask{partition: p, sel: x.selection(p, x.left/n, x.bytes/n)})
		}
		left = left[n:]
		left = append(left, x.send(ctx, asks)...)
	}
	x.decline(ctx)
}

// decline takes a consumer that has all that it wanted off those who wait, in
// partitions that had nothing for it or were not asked. A call from there goes to
// another.
func (x *exchange) decline(ctx context.Context) {
	if x.left > 0 {
		return
	}
	var asks []ask
	for p := range x.c.parts {
		if s := x.selection(p, 0, 0); s.waits || s.called {
			asks = append(asks, ask{partition: p, sel: s})
		}
	}
	if len(asks) > 0 {
		x.send(ctx, asks)
	}
}
