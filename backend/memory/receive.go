package memory

import (
	"time"

	"github.com/stemjobs/stem/broker"
)

// catch is what one exchange receives.
type catch struct {
	c     *consumer
	now   time.Time
	left  int  // deliveries that are still wanted
	bytes int  // that are still wanted; below 0: any number
	full  bool // the next one would be too large
	out   []broker.Delivery
}

func (c *consumer) receive(entries []*selector, want broker.Want, now time.Time) []broker.Delivery {
	n := 0
	for _, s := range entries {
		for i := 0; i < len(s.filled) && n < want.Count; i++ {
			n += s.filled[i].ready
		}
	}
	if n == 0 {
		return nil
	}
	g := catch{c: c, now: now, left: want.Count, bytes: -1, out: make([]broker.Delivery, 0, min(n, want.Count))}
	if want.Bytes > 0 {
		g.bytes = want.Bytes
	}
	for _, s := range entries {
		s.serve(&g)
	}
	return g.out
}

// serve takes from the selector's queues in turn, from each its share.
func (s *selector) serve(g *catch) {
	for g.left > 0 && !g.full && len(s.filled) > 0 {
		s.turn %= len(s.filled)
		q := s.filled[s.turn]
		q.serve(g, max(1, g.left/len(s.filled)))
		if q.ready > 0 {
			s.turn++
		}
	}
}

func (q *queue) serve(g *catch, share int) {
	for ; share > 0 && q.ready > 0; share-- {
		r := q.first()
		if g.bytes >= 0 {
			if len(g.out) > 0 && int(r.size) > g.bytes {
				g.full = true
				break
			}
			g.bytes = max(g.bytes-int(r.size), 0)
		}
		q.unready(r)
		q.lend(r, g.c, g.now)
		g.left--
		g.out = append(g.out, r.delivery())
	}
	q.reschedule()
}

// lend leases a record that is nowhere to a consumer.
func (q *queue) lend(r *record, c *consumer, now time.Time) {
	r.redelivered = r.redelivered || r.held
	q.db.letGo(r)
	q.db.epoch++
	r.epoch = q.db.epoch
	r.place, r.held, r.started, r.holder = leased, true, false, c
	q.db.held[r.epoch] = r
	q.leases.push(r, after(now.UnixNano(), r.lease()))
}

// lease is the length of a held record's lease.
func (r *record) lease() time.Duration { return r.holder.sub.LeaseOf(r.env) }

func (r *record) delivery() broker.Delivery {
	d := broker.Delivery{
		Receipt:  broker.Receipt{ID: r.id, Epoch: r.epoch},
		Envelope: r.env, Queue: r.q.name, Size: int(r.size), Lease: r.lease(),
		Attempt: r.attempt, Starts: int(r.starts), Redelivered: r.redelivered, Reserved: r.reserved,
	}
	if x := r.extra; x != nil {
		d.RetryBase, d.NotBefore, d.Replays = x.retryBase, x.notBefore, x.replays
	}
	return d
}
