package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
)

const (
	// dueSize is how many due or lapsed tasks are moved at a time, and
	// duePages how often one exchange does so before it has any for its
	// consumer. The first of many that are due together do not wait for the
	// last.
	dueSize  = 128
	duePages = 40
	// nextScan is how many coming moments one exchange looks at to find the
	// first of a subscribed queue. Past them it names the last one it saw,
	// which is too early at worst.
	nextScan = 256
	// leftMost is how many queues an exchange names that have more.
	leftMost = 4
)

// selection is what a consumer asks for.
type selection struct {
	entries []string // names and patterns, in the order to serve
	all     []string // the whole subscription
	want    broker.Want
	lease   time.Duration
	worker  string
	turn    int // which queue of a pattern comes first this time
}

// exchanged is what one exchange came to.
type exchanged struct {
	settled []error
	renewed []error
	taken   []taken
	left    []string // queues with ready tasks left: the first few
	more    bool
	next    time.Duration
}

// taken is a task that was just leased.
type taken struct {
	row
	since    int64 // "at" before it was leased
	envelope []byte
	queue    string
	lease    time.Duration
}

// exchange settles, renews and receives, in one transaction.
func (db *DB) exchange(ctx context.Context, done []settlement, live []renewal, sel *selection) (x exchanged, err error) {
	err = db.write(ctx, func(t *tx) (err error) {
		x = exchanged{settled: make([]error, len(done)), renewed: make([]error, len(live))}
		for i := range done {
			if x.settled[i], err = t.settle(&done[i]); err != nil {
				return fmt.Errorf("settle %s: %w", done[i].Receipt, err)
			}
		}
		for i := range live {
			if x.renewed[i], err = t.renew(&live[i]); err != nil {
				return fmt.Errorf("renew %s: %w", live[i].Receipt, err)
			}
		}
		if sel == nil {
			return nil
		}
		if err := t.receive(sel, &x); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		return nil
	})
	if err != nil {
		return exchanged{}, err
	}
	return x, nil
}

// receive moves what is due, leases what is ready, and says when to come back.
func (t *tx) receive(sel *selection, x *exchanged) error {
	worker, err := t.workerID(sel.worker)
	if err != nil {
		return err
	}
	var queues []numberedQueue
	overdue := true
	for page := 0; page < duePages && overdue; page++ {
		if overdue, err = t.moveDue(); err != nil {
			return err
		}
		if queues, err = t.readyQueues(sel.entries, sel.turn); err != nil {
			return err
		}
		if err := t.lease(sel, queues, worker, x); err != nil {
			return err
		}
		if len(x.taken) > 0 || sel.want.Count <= 0 {
			break
		}
	}
	if x.left, err = t.readyIn(queues); err != nil {
		return err
	}
	x.more = len(x.left) > 0 || overdue
	x.next, err = t.nextOf(t.db, sel.all)
	return err
}

// moveDue makes ready what has come due and takes back what lapsed, in every
// queue. It reports whether there is more of it.
func (t *tx) moveDue() (more bool, err error) {
	var list []row
	err = t.each("due", func(s *sqlite3.Stmt) bool {
		list = append(list, row{})
		scanRow(s, &list[len(list)-1])
		return true
	}, t.now, dueSize)
	if err != nil {
		return false, err
	}
	keepLeases := t.now < t.w.reclaimAt.UnixMilli()
	for i := range list {
		r := &list[i]
		switch {
		case r.place == delayed:
			r.flags |= flagWaited
			err = t.move(r, ready, r.at)
		case keepLeases:
		case r.has(flagRevoked):
			err = t.cancelRevoked(r)
		default:
			r.flags = r.flags&^flagReserved | flagLapsed | flagRedelivered
			err = t.move(r, ready, r.at)
		}
		if err != nil {
			return false, err
		}
	}
	return len(list) == dueSize, nil
}

// numberedQueue is a queue by its number in the file.
type numberedQueue struct {
	id     int64
	name   string
	shared int // how many queues its pattern stands for
}

// readyQueuesOf lists the queues to serve, in order, each once. Those of one
// pattern take turns at being the first.
func (c *conn) readyQueuesOf(db *DB, entries []string, turn int) ([]numberedQueue, error) {
	paused, err := c.paused()
	if err != nil {
		return nil, err
	}
	var list []numberedQueue
	seen := make(map[int64]bool, len(entries))
	add := func(id int64, name string, shared int) {
		if !seen[id] && !paused[id] {
			seen[id] = true
			list = append(list, numberedQueue{id, name, shared})
		}
	}
	for _, entry := range entries {
		if !broker.IsPattern(entry) {
			id, found, err := db.names.queueID(c, entry)
			if err != nil {
				return nil, err
			}
			if found {
				add(id, entry, 1)
			}
			continue
		}
		var match []numberedQueue
		err := c.each("ready-queues", func(s *sqlite3.Stmt) bool {
			if name := s.ColumnText(1); broker.Match(entry, name) && !paused[s.ColumnInt64(0)] {
				match = append(match, numberedQueue{id: s.ColumnInt64(0), name: name})
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		for i := range match {
			q := match[(i+turn)%len(match)]
			add(q.id, q.name, len(match))
		}
	}
	return list, nil
}

// readyQueues is readyQueuesOf within a transaction, whose counters are not
// written yet: they are, first, for a pattern's sake.
func (t *tx) readyQueues(entries []string, turn int) ([]numberedQueue, error) {
	for _, entry := range entries {
		if broker.IsPattern(entry) {
			if err := t.writeCounts(); err != nil {
				return nil, err
			}
			break
		}
	}
	return t.readyQueuesOf(t.db, entries, turn)
}

// lease takes ready tasks up to what is wanted. The queues of a pattern get
// equal shares first, and then what is left.
func (t *tx) lease(sel *selection, queues []numberedQueue, worker int64, x *exchanged) error {
	room := room{count: sel.want.Count, bytes: sel.want.Bytes, bounded: sel.want.Bytes > 0, first: true}
	again := false
	for _, q := range queues {
		limit := room.count
		if q.shared > 1 {
			limit = max(limit/q.shared, 1)
			again = true
		}
		if err := t.leaseFrom(sel, q, min(limit, room.count), &room, worker, x); err != nil {
			return err
		}
	}
	for _, q := range queues {
		if again && q.shared > 1 && room.count > 0 {
			if err := t.leaseFrom(sel, q, room.count, &room, worker, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// room is what may still be taken.
type room struct {
	count   int
	bytes   int
	bounded bool
	first   bool
}

// takes reports whether a task of that size fits, and makes the room smaller.
func (r *room) takes(size int) bool {
	if r.bounded && !r.first && size > r.bytes {
		r.count = 0
		return false
	}
	r.first = false
	r.bytes -= size
	r.count--
	return true
}

func (t *tx) leaseFrom(sel *selection, q numberedQueue, limit int, room *room, worker int64, x *exchanged) error {
	if limit <= 0 {
		return nil
	}
	from := len(x.taken)
	err := t.each("ready", func(s *sqlite3.Stmt) bool {
		var v taken
		scanRow(s, &v.row)
		if !room.takes(v.size) {
			return false
		}
		v.envelope = s.ColumnBlob(envelopeColumn, make([]byte, 0, v.size))
		v.queue = q.name
		x.taken = append(x.taken, v)
		return true
	}, q.id, limit)
	if err != nil {
		return err
	}
	for i := from; i < len(x.taken); i++ {
		v := &x.taken[i]
		v.since, v.lease = v.at, sel.lease
		if v.own > 0 {
			v.lease = time.Duration(v.own) * time.Millisecond
		}
		v.epoch++
		v.worker = worker
		// The delivery is told that it was redelivered; the row keeps that
		// until a settlement.
		v.flags &^= flagStarted | flagLapsed
		waited := v.flags & flagWaited
		v.flags &^= flagWaited
		if err := t.move(&v.row, leased, t.now+max(v.lease.Milliseconds(), 1)); err != nil {
			return err
		}
		v.flags |= waited
	}
	t.wake(q.id, from-len(x.taken))
	return nil
}

// readyIn names the first few of the queues that have a ready task.
func (c *conn) readyIn(queues []numberedQueue) (names []string, err error) {
	for _, q := range queues {
		found, err := c.one("any-ready", func(*sqlite3.Stmt) {}, q.id)
		if err != nil {
			return nil, err
		}
		if found {
			names = append(names, q.name)
		}
		if len(names) == leftMost {
			break
		}
	}
	return names, nil
}

// nextOf is how long until the next moment of a subscribed queue; 0: unknown.
func (c *conn) nextOf(db *DB, entries []string) (time.Duration, error) {
	last, found, scanned := int64(0), false, 0
	var fault error
	match := make(map[int64]bool)
	err := c.each("next", func(s *sqlite3.Stmt) bool {
		last = s.ColumnInt64(0)
		queue := s.ColumnInt64(1)
		scanned++
		subscribed, known := match[queue]
		if !known {
			name, err := db.names.queue(c, queue)
			if err != nil {
				fault = err
				return false
			}
			subscribed = matchAny(entries, name)
			match[queue] = subscribed
		}
		found = subscribed
		return !found
	}, nextScan)
	switch {
	case err != nil:
		return 0, err
	case fault != nil:
		return 0, fault
	case !found && scanned < nextScan:
		return 0, nil
	}
	return max(time.Until(time.UnixMilli(last)), 100*time.Microsecond), nil
}

func matchAny(entries []string, name string) bool {
	for _, e := range entries {
		if broker.Match(e, name) {
			return true
		}
	}
	return false
}

// look is the part of an exchange that needs no lock: whether there is
// anything to do, in which queues, and if there is nothing, when.
func (db *DB) look(ctx context.Context, sel *selection) (work bool, x exchanged, err error) {
	err = db.read(ctx, func(c *conn) error {
		x = exchanged{}
		now := time.Now().UnixMilli()
		_, err := c.one("next", func(s *sqlite3.Stmt) { work = s.ColumnInt64(0) <= now }, 1)
		if err != nil {
			return err
		}
		queues, err := c.readyQueuesOf(db, sel.entries, 0)
		if err != nil {
			return err
		}
		if x.left, err = c.readyIn(queues); err != nil {
			return err
		}
		if work = work || len(x.left) > 0; work {
			return nil
		}
		x.next, err = c.nextOf(db, sel.all)
		return err
	})
	return work, x, err
}
