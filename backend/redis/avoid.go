package redis

import (
	"context"
	"time"
)

// avoid leaves a partition out for a while, from which no answer came: it must
// not hold up the others. What is to be settled and renewed there is tried still.
func (c *consumer) avoid(ctx context.Context, partition int, err error) {
	if len(c.parts) == 1 || ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	p := &c.parts[partition]
	p.failures++
	n := p.failures
	p.avoidUntil = time.Now().Add(min(100*time.Millisecond<<min(n, 10), 5*time.Second))
	p.waits = false
	c.mu.Unlock()
	if n&(n-1) == 0 { // the 1st, 2nd, 4th, …
		c.db.log.Warn("a partition does not answer; the others go on, and it is asked again",
			"partition", partition, "worker", c.sub.Worker, "failures", n, "error", err)
	}
}

func (p *presence) avoided(now time.Time) bool { return now.Before(p.avoidUntil) }

// avoided lists the partitions that are left out just now.
func (c *consumer) avoided() []bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	list := make([]bool, len(c.parts))
	for i := range c.parts {
		list[i] = c.parts[i].avoided(now)
	}
	return list
}
