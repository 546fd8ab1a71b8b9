package redis

import (
	"context"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
)

// presence is what a consumer knows of itself in one partition.
type presence struct {
	waits  bool      // it is registered there as waiting
	called bool      // it was called from there since
	lookAt time.Time // until then it need not look
	keeps  bool      // it is one of those who keep the time

	failures   int       // in a row, while others answered
	avoidUntil time.Time // it is not asked until then
}

// keeperLooks is how often those look who keep the time for all.
const keeperLooks = time.Second

// restful reports whether a look can be left to others: it waits everywhere,
// was not called, and its own time to look has not come.
func (c *consumer) restful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waited {
		return false
	}
	now := time.Now()
	for i := range c.parts {
		p := &c.parts[i]
		if !p.waits || p.called || p.keeps || !now.Before(p.lookAt) {
			return false
		}
	}
	return true
}

func (c *consumer) untilLook() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := time.Minute
	for i := range c.parts {
		switch p := &c.parts[i]; {
		case p.waits:
			next = min(next, time.Until(p.lookAt))
		case p.failures > 0:
			next = min(next, time.Until(p.avoidUntil))
		}
	}
	return max(next, time.Millisecond)
}

// takeCall takes the token, which stands for what the next exchange sees.
func (c *consumer) takeCall() bool {
	select {
	case <-c.token:
		return true
	default:
		return false
	}
}

// call wakes the consumer, for work of that partition.
func (c *consumer) call(partition int) {
	c.mu.Lock()
	if partition < len(c.parts) {
		c.parts[partition].waits = false
		c.parts[partition].called = true
	}
	c.mu.Unlock()
	signal(c.token)
}

// callAll has it look everywhere.
func (c *consumer) callAll() {
	c.mu.Lock()
	for i := range c.parts {
		c.parts[i].waits, c.parts[i].called = false, true
	}
	c.mu.Unlock()
	signal(c.token)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is told already
	}
}

// Wait implements broker.Consumer. An exchange that left room has registered the
// consumer; one that wants work and is not registered looks at once.
func (c *consumer) Wait(ctx context.Context, atMost time.Duration) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	if c.takeCall() {
		signal(c.token) // its next exchange takes it
		return nil
	}
	if atMost <= 0 {
		return nil
	}
	until := time.Now().Add(atMost)
	for again := true; again; {
		if work, err := c.register(ctx); work || err != nil {
			return err
		}
		var err error
		if again, err = c.rest(ctx, min(time.Until(until), c.untilLook())); err != nil {
			return err
		}
	}
	return nil
}

// rest waits for a call, and reports whether the consumer is to register again.
func (c *consumer) rest(ctx context.Context, atMost time.Duration) (again bool, err error) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-c.apart:
		return true, nil
	case <-c.token:
		signal(c.token)
		return false, nil
	case <-timer.C:
		c.mu.Lock()
		c.waited = true
		c.mu.Unlock()
		return false, nil
	case <-ctx.Done():
		c.giveUp()
		return false, ctx.Err()
	case <-c.closed:
		return false, broker.ErrClosed
	}
}

// giveUp is for a wait that was ended: nobody listens to calls any more.
func (c *consumer) giveUp() {
	c.mu.Lock()
	waits := slices.ContainsFunc(c.parts, func(p presence) bool { return p.waits || p.called })
	c.mu.Unlock()
	if !waits {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := c.leave(ctx, false); err != nil {
		c.db.log.Debug("end a wait", "worker", c.sub.Worker, "error", err)
	}
}

// register makes sure that a consumer that wants work will be called for it. It
// reports whether there is some already.
func (c *consumer) register(ctx context.Context) (work bool, err error) {
	c.mu.Lock()
	var asks []ask
	now := time.Now()
	for i := range c.parts {
		if c.hungry && !c.parts[i].waits && !c.parts[i].avoided(now) {
			asks = append(asks, ask{partition: i, sel: &selection{consumer: c, queues: c.queues, count: -1}})
		}
	}
	c.mu.Unlock()
	if len(asks) == 0 {
		return false, nil
	}
	answers, err := c.db.exchanges(ctx, asks, nil, nil, nil)
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		c.db.log.Warn("look for work", "worker", c.sub.Worker, "error", err)
		return false, nil
	}
	for i := range answers {
		if answers[i].err != nil {
			c.avoid(ctx, asks[i].partition, answers[i].err)
			continue
		}
		c.note(&asks[i], &answers[i], nil)
		work = work || answers[i].more
	}
	return work, nil
}

// note keeps what a partition said of waiting there, to an exchange or, where that
// is nil, to a Wait. A call is answered by the first exchange that knows of it.
func (c *consumer) note(q *ask, a *answer, x *exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.parts[q.partition]
	p.failures, p.avoidUntil = 0, time.Time{}
	p.waits = a.patience >= 0
	p.lookAt = time.Now().Add(max(a.patience, keeperLooks))
	p.keeps = a.patience == 0
	p.called = p.called && !q.sel.called
	if x != nil && c.flying.over(x) {
		p.waits = false
	}
}
