package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Check verifies the DB's own consistency: every task is in exactly one place,
// every status that is not terminal has an owner, counters and indexes agree
// with what they count. The error names everything that is wrong. It looks at
// all there is with the DB locked: it is for tests and for doctors.
func (db *DB) Check(ctx context.Context) error {
	if _, err := db.enter(ctx, nil); err != nil {
		return fmt.Errorf("check memory: %w", err)
	}
	defer db.leave()
	c := checker{db: db, seen: map[*record]string{}}
	for _, q := range db.queues {
		c.queue(q)
	}
	c.graveyard()
	checkPile(&c, "finished", &db.finished)
	for _, e := range db.finished.entries {
		c.found(e.item, "finished", done, foreign)
		if e.key != e.item.expires {
			c.fail("task %s: expires at %d but is kept until %d", e.item.id, e.item.expires, e.key)
		}
	}
	for id, r := range db.records {
		c.record(id, r)
	}
	for epoch, r := range db.held {
		if !r.held || r.epoch != epoch {
			c.fail("task %s: held %t at epoch %d, not at %d", r.id, r.held, r.epoch, epoch)
		}
	}
	for id, r := range db.outboxes {
		if db.records[id] != r || r.place != foreign || r.expires != 0 {
			c.fail("task %s has an outbox in place %d, expires at %d", id, r.place, r.expires)
		}
	}
	c.timeline()
	c.moments()
	c.selectors()
	c.plans()
	return errors.Join(c.errs...)
}

type checker struct {
	db   *DB
	seen map[*record]string // where each was found
	errs []error
}

func (c *checker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("check memory: "+format, args...))
}

// found notes that a record was found somewhere, where only records of those
// places may be.
func (c *checker) found(r *record, where string, places ...place) {
	if before, twice := c.seen[r]; twice {
		c.fail("task %s is in %s and in %s", r.id, before, where)
	}
	c.seen[r] = where
	if !slices.Contains(places, r.place) {
		c.fail("task %s is in %s, and says it is in place %d", r.id, where, r.place)
	}
	if c.db.records[r.id] != r {
		c.fail("task %s is in %s, and not among the records", r.id, where)
	}
}

func checkPile[T interface {
	comparable
	setIndex(int32)
}](c *checker, name string, p *pile[T]) {
	for i, e := range p.entries {
		if parent := (i - 1) / 2; i > 0 && p.entries[parent].key > e.key {
			c.fail("%s: entry %d is less than its parent", name, i)
		}
	}
}

func (c *checker) queue(q *queue) {
	n := 0
	for p := range q.levels {
		n += c.level(q, p)
	}
	if n != q.ready {
		c.fail("queue %s: %d ready tasks, counted as %d", q.name, n, q.ready)
	}
	checkPile(c, q.name+" due", &q.due)
	for i, e := range q.due.entries {
		c.found(e.item, q.name+" due", delayed)
		c.indexed(e.item, i)
	}
	checkPile(c, q.name+" leases", &q.leases)
	for i, e := range q.leases.entries {
		c.found(e.item, q.name+" leases", leased)
		c.indexed(e.item, i)
		if !e.item.held || e.item.holder == nil {
			c.fail("task %s is leased to nobody", e.item.id)
		}
	}
}

func (c *checker) indexed(r *record, i int) {
	if r.index != int32(i) {
		c.fail("task %s: index %d, and it is at %d", r.id, r.index, i)
	}
}

// level checks one priority of a queue and returns how many are ready in it.
func (c *checker) level(q *queue, p int) int {
	l := &q.levels[p]
	where := fmt.Sprintf("%s level %d", q.name, p)
	n, seq := 0, int64(0)
	var last *record
	for r := l.head; r != nil; last, r = r, r.next {
		c.found(r, where, ready)
		if r.prev != last || r.seq <= seq || r.env.Priority != p || r.q != q {
			c.fail("%s: task %s is out of place", where, r.id)
		}
		seq = r.seq
		n++
	}
	if l.tail != last {
		c.fail("%s: its tail is not the last one", where)
	}
	checkPile(c, where, &l.back)
	for i, e := range l.back.entries {
		c.found(e.item, where, ready)
		c.indexed(e.item, i)
		if e.key != e.item.seq || e.item.env.Priority != p || e.item.q != q {
			c.fail("%s: task %s is out of place", where, e.item.id)
		}
		n++
	}
	if filled := q.filled>>p&1 == 1; filled != (n > 0) {
		c.fail("%s: %d ready, filled %t", where, n, filled)
	}
	return n
}

func (c *checker) graveyard() {
	live, deadIn := 0, map[*queue]int{}
	for _, g := range c.db.dead.graves {
		if g.filled() {
			live++
			deadIn[g.r.q]++
			c.found(g.r, "graveyard", dead)
		}
	}
	if live != c.db.dead.live {
		c.fail("%d dead letters, counted as %d", live, c.db.dead.live)
	}
	for _, q := range c.db.queues {
		if q.dead != deadIn[q] {
			c.fail("queue %s: %d dead, counted as %d", q.name, deadIn[q], q.dead)
		}
	}
}

// record checks that a record's state and its place agree, and that it was
// found there.
func (c *checker) record(id string, r *record) {
	_, owned := c.seen[r]
	legal := false
	switch r.place {
	case ready, delayed, leased:
		legal = owned && !r.state.terminal()
	case dead:
		legal = owned && r.state == failed
	case done:
		legal = owned == (r.expires != 0) && (r.state == succeeded || r.state == cancelled)
	case foreign:
		legal = owned == (r.expires != 0)
	}
	if !legal {
		c.fail("task %s is %s in place %d, found %q: it has no owner", id, r.state.name(), r.place, c.seen[r])
	}
	if id != r.id || r.removed {
		c.fail("task %s is kept as %s, removed %t", r.id, id, r.removed)
	}
	if r.held != (c.db.held[r.epoch] == r) {
		c.fail("task %s: held %t, and not so among the held", id, r.held)
	}
	if r.held && r.place != leased && r.place != ready {
		c.fail("task %s is held in place %d", id, r.place)
	}
}

func (c *checker) timeline() {
	t, n := &c.db.timeline, 0
	for key, b := range t.buckets {
		live := 0
		for _, r := range b.records {
			if !r.removed {
				live++
				if c.db.records[r.id] != r || r.at>>bucketBits != key {
					c.fail("task %s is in the timeline by mistake", r.id)
				}
			}
		}
		if _, listed := slices.BinarySearch(t.keys, key); live != b.live || live == 0 || !listed {
			c.fail("timeline %d: %d records, counted as %d, listed %t", key, live, b.live, listed)
		}
		n += live
	}
	if n != len(c.db.records) {
		c.fail("%d records, %d of them in the timeline", len(c.db.records), n)
	}
}

func (c *checker) moments() {
	checkPile(c, "moments", &c.db.moments)
	for i, e := range c.db.moments.entries {
		if e.item.index != int32(i) || e.item.moment != e.key {
			c.fail("queue %s: index %d and moment %d, and it is at %d with %d", e.item.name, e.item.index, e.item.moment, i, e.key)
		}
	}
	for _, q := range c.db.queues {
		d, next := q.due.top()
		if l, end := q.leases.top(); l != nil && (d == nil || end < next) {
			d, next = l, end
		}
		if (d != nil) != (q.index >= 0) || d != nil && q.moment != next {
			c.fail("queue %s: its next moment is %d, noted as %d", q.name, next, q.moment)
		}
	}
}

func (c *checker) selectors() {
	idlers := map[*consumer]bool{}
	defer func() {
		if len(idlers) != c.db.idle {
			c.fail("%d idle consumers, counted as %d", len(idlers), c.db.idle)
		}
	}()
	for _, s := range c.db.selectors {
		idle := 0
		for _, o := range s.consumers {
			if o.idle {
				idlers[o] = true
				idle++
			}
		}
		if idle != s.idle {
			c.fail("selector %s: %d idle consumers, counted as %d", s.text, idle, s.idle)
		}
		filled := 0
		for _, q := range c.db.queues {
			linked := slices.IndexFunc(q.links, func(l link) bool { return l.selector == s })
			if (linked >= 0) != s.matches(q.name) {
				c.fail("selector %s: covers queue %s: %t", s.text, q.name, linked >= 0)
			}
			if linked < 0 {
				continue
			}
			at := q.links[linked].filled
			if q.open() {
				filled++
			}
			if (at >= 0) != q.open() || at >= 0 && s.filled[at] != q {
				c.fail("selector %s: queue %s with %d ready is at %d", s.text, q.name, q.ready, at)
			}
		}
		if filled != len(s.filled) {
			c.fail("selector %s: %d queues with ready tasks, counted as %d", s.text, filled, len(s.filled))
		}
	}
}
