package memory

import (
	"math/bits"

	"github.com/stemjobs/stem/task"
)

// queue is one named line of tasks, a level for each priority.
type queue struct {
	name   string
	levels [task.MaxPriority + 1]level
	filled uint16 // a bit for each level that is not empty

	due    pile[*record] // delayed tasks by their moment
	leases pile[*record] // leased tasks by the end of their lease
	ready  int
	dead   int

	moment int64 // in DB.moments: the earlier of the tops of due and leases
	index  int32 // there; -1: neither is filled

	touched bool
	paused  bool
	links   []link // the selectors that cover it
	db      *DB
}

// level is the ready tasks of one priority, in the order of their seq: those
// that never left it as a list, and those that came in late or came back as a
// pile.
type level struct {
	head, tail *record
	back       pile[*record]
}

func (q *queue) setIndex(i int32) { q.index = i }

// queue returns the queue of that name, which it makes if need be.
func (db *DB) queue(name string) *queue {
	q := db.queues[name]
	if q != nil {
		return q
	}
	if len(db.queues) >= db.queueLimit {
		db.dropQueues()
	}
	q = &queue{name: name, index: -1, db: db}
	_, q.paused = db.pauses[name]
	db.queues[name] = q
	if s := db.selectors[name]; s != nil {
		s.cover(q)
	}
	for _, s := range db.patterns {
		if s.matches(name) {
			s.cover(q)
		}
	}
	return q
}

// dropQueues forgets the queues that hold nothing and are not subscribed to by
// name.
func (db *DB) dropQueues() {
	for name, q := range db.queues {
		if q.unused() {
			for _, l := range q.links {
				l.selector.uncover(q)
			}
			delete(db.queues, name)
		}
	}
	db.queueLimit = max(1024, 2*len(db.queues))
}

func (q *queue) unused() bool {
	if q.ready+q.due.len()+q.leases.len()+q.dead > 0 || q.touched {
		return false
	}
	_, named := q.db.selectors[q.name]
	return !named
}

// ready puts a record that is nowhere into its line, at its old place if it
// has one.
func (db *DB) ready(r *record, since int64) {
	q := r.q
	r.place, r.since = ready, since
	l := &q.levels[r.env.Priority]
	q.filled |= 1 << r.env.Priority
	if r.seq == 0 {
		db.seq++
		r.seq = db.seq
		l.append(r)
	} else {
		l.back.push(r, r.seq)
	}
	q.ready++
	if q.ready == 1 && !q.paused {
		for i := range q.links {
			q.links[i].selector.fill(q, i)
		}
	}
	q.touch()
}

// delay puts a record that is nowhere among the delayed ones.
func (db *DB) delay(r *record, until int64) {
	if r.seq == 0 {
		db.seq++
		r.seq = db.seq
	}
	r.place = delayed
	r.q.due.push(r, until)
	r.q.reschedule()
}

// first is the ready task that is delivered next, nil when there is none.
func (q *queue) first() *record {
	if q.filled == 0 {
		return nil
	}
	l := &q.levels[bits.Len16(q.filled)-1]
	if b, seq := l.back.top(); b != nil && (l.head == nil || seq < l.head.seq) {
		return b
	}
	return l.head
}

// detach takes a ready, delayed or leased record out of its place. Who takes
// it out of due or leases calls reschedule afterwards.
func (q *queue) detach(r *record) {
	switch r.place {
	case ready:
		q.unready(r)
	case delayed:
		q.due.remove(r.index)
	case leased:
		q.leases.remove(r.index)
	}
	r.place = nowhere
}

func (q *queue) unready(r *record) {
	l := &q.levels[r.env.Priority]
	if r.index >= 0 {
		l.back.remove(r.index)
	} else {
		l.unlink(r)
	}
	if l.head == nil && l.back.len() == 0 {
		q.filled &^= 1 << r.env.Priority
	}
	q.ready--
	if q.ready == 0 && !q.paused {
		for i := range q.links {
			q.links[i].selector.drain(q, i)
		}
	}
}

func (l *level) append(r *record) {
	r.prev = l.tail
	if l.tail != nil {
		l.tail.next = r
	} else {
		l.head = r
	}
	l.tail = r
}

func (l *level) unlink(r *record) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.tail = r.prev
	}
	r.prev, r.next = nil, nil
}

// reschedule tells the DB of the queue's next moment. It follows every change
// of due or leases.
func (q *queue) reschedule() {
	d, next := q.due.top()
	if l, end := q.leases.top(); l != nil && (d == nil || end < next) {
		next = end
	} else if d == nil {
		if q.index >= 0 {
			q.db.moments.remove(q.index)
		}
		return
	}
	switch {
	case q.index < 0:
		q.db.moments.push(q, next)
	case next != q.moment:
		q.db.moments.change(q.index, next)
	}
	q.moment = next
}
