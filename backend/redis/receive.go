package redis

import (
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
		if _, err := x.send(ctx, asks); err != nil {
			x.giveBack(ctx)
			return err
		}
	}
	x.c.db.deliver(ctx, parcelsOf(x.c.db, x.items, x.batch.Settled))
	if err := x.others(ctx, first, asked); err != nil {
		if len(x.batch.Deliveries)+len(x.items)+len(x.live) == 0 {
			return err
		}
		// What is taken, settled and renewed is; those partitions are asked again.
		x.c.db.log.Warn("some partitions were not asked for tasks", "worker", x.c.sub.Worker, "error", err)
	}
	if x.next >= 0 {
		x.batch.Next = max(x.next, 100*time.Microsecond)
	}
	if n := x.c.untilLook(); x.batch.Next == 0 || x.batch.Next > n {
		x.batch.Next = n
	}
	return nil
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
	for i := range c.parts {
		if k := (c.first + i) % n; c.parts[k].called {
			c.first = k
			return k
		}
	}
	c.first = (c.first + 1) % n
	return c.first
}

// ask adds the consumer's own question to what goes to a partition anyway. One
// that wants nothing asks everywhere: for news, and to wait no more.
func (x *exchange) ask(asks []ask, first int, asked []bool) []ask {
	for p := range asked {
		if p != first && x.want.Count > 0 {
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
func (x *exchange) send(ctx context.Context, asks []ask) (more []int, err error) {
	answers, err := x.c.db.exchanges(ctx, asks, x.items, x.live, x.renewals)
	for i := range answers {
		a := &answers[i]
		if a.failed {
			continue
		}
		a.verdicts(a.settled, asks[i].done, x.batch.Settled)
		a.verdicts(a.renewed, asks[i].live, x.batch.Renewed)
		if asks[i].sel == nil {
			continue
		}
		x.c.note(asks[i].partition, a)
		x.batch.Deliveries = append(x.batch.Deliveries, a.deliveries...)
		x.values = append(x.values, a.values...)
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
	return more, err
}

// smallBytes is a bound under which partitions are asked one after the other,
// and in full.
const smallBytes = 1 << 20

// others asks the partitions that were not asked yet for what is still wanted,
// each for its share, and then those that have more.
func (x *exchange) others(ctx context.Context, first int, asked []bool) error {
	if x.want.Count <= 0 || len(asked) == 1 {
		return nil
	}
	var left []int
	for i := 1; i < len(asked); i++ {
		left = append(left, (first+i)%len(asked))
	}
	for len(left) > 0 {
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
		more, err := x.send(ctx, asks)
		if err != nil {
			return err
		}
		left = append(left, more...)
	}
	return x.decline(ctx)
}

// decline takes a consumer that has all that it wanted off those who wait, in
// partitions that had nothing for it or were not asked. A call from there goes to
// another.
func (x *exchange) decline(ctx context.Context) error {
	if x.left > 0 {
		return nil
	}
	var asks []ask
	for p := range x.c.parts {
		if s := x.selection(p, 0, 0); s.waits || s.called {
			asks = append(asks, ask{partition: p, sel: s})
		}
	}
	if len(asks) == 0 {
		return nil
	}
	_, err := x.send(ctx, asks)
	return err
}
