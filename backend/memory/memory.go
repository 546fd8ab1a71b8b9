// Package memory keeps tasks and their statuses in the process, and they are
// gone with it: for tests, for a program of one process, and as the reference
// of what a backend does. Everything the contracts of broker and store ask for
// works here, priorities, delays, leases and dead letters included.
//
//	db := memory.New()
//	defer db.Close()
//	b, results := db.Broker(), db.Results()
//
// All of it is one data structure under one mutex. Each task is one record,
// which is at any moment in exactly one place (ready, delayed, leased, dead,
// done); Check verifies that. One timer rings at the next moment at which
// anything is due, so there are no goroutines, and an idle DB costs nothing.
package memory

import (
	"context"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// DB is one store in memory. Its methods, and those of all that it hands out,
// are safe for concurrent use.
type DB struct {
	mu     sync.Mutex
	closed bool

	records  map[string]*record // every task and status there is, by id
	timeline timeline           // the same, by the time they were enqueued
	held     map[int64]*record  // the held ones by the epoch of their lease
	queues   map[string]*queue
	moments  pile[*queue]  // queues by their next moment
	finished pile[*record] // done records by the end of their retention
	dead     graveyard
	claims   map[string]claim
	limits   map[string]*store.Lines // of rate limits, by key
	beats    map[string]beat
	watches  map[string][]*watch
	outboxes map[string]*record // foreign records whose outcome is not cleared
	plans    plans
	memos    map[string]memo
	audit    []noted // oldest first
	pauses   map[string]broker.Pause
	wire     wire

	selectors map[string]*selector // what open consumers subscribe to
	patterns  []*selector          // those of them that are patterns
	touched   []*queue             // got ready tasks in the present call
	idle      int                  // consumers that wait for work

	seq   int64 // of the newest place in a line
	epoch int64 // of the newest lease or replay of any task

	alarm *time.Timer
	armed int64 // when the alarm rings; 0: not at all

	queueLimit int   // how many queues there may be before unused ones are dropped
	claimLimit int   // the same of claims
	limitLimit int   // the same of keys of rate limits
	limitClock int64 // the newest moment at which a slot was given, in µs
	memoLimit  int   // the same of memos
}

// New returns an empty DB. Close it to end the calls that wait on it.
func New() *DB {
	return &DB{
		records:    map[string]*record{},
		held:       map[int64]*record{},
		timeline:   timeline{buckets: map[int64]*bucket{}},
		queues:     map[string]*queue{},
		claims:     map[string]claim{},
		limits:     map[string]*store.Lines{},
		beats:      map[string]beat{},
		watches:    map[string][]*watch{},
		outboxes:   map[string]*record{},
		pauses:     map[string]broker.Pause{},
		selectors:  map[string]*selector{},
		queueLimit: 1024,
		claimLimit: 1024,
		limitLimit: 1024,
	}
}

// Broker returns a broker on this DB. Each call returns another one, with
// consumers of its own, as if it were another process; all share the tasks.
// It has the powers that its Capabilities list.
func (db *DB) Broker() broker.Broker { return &tasks{db: db} }

// Results returns a result store on this DB, which is also a store.Watcher and
// has store.Outboxes.
// For the brokers of the same DB it is atomic (broker.Atomic); for brokers
// elsewhere it is an ordinary store of its own.
func (db *DB) Results() store.Results { return &results{db: db} }

// Heartbeats returns the store of workers' heartbeats.
func (db *DB) Heartbeats() store.Heartbeats { return &heartbeats{db: db} }

// Close ends every broker, consumer and store of the DB: their calls, those
// that wait included, return broker.ErrClosed. It is never an error, and may
// be called again.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.closed = true
	if db.alarm != nil {
		db.alarm.Stop()
	}
	for _, s := range db.selectors {
		for _, c := range s.consumers {
			c.signal()
		}
	}
	db.plans.stir()
	db.wire.stir()
	return nil
}

// enter begins a call of something that may be closed by itself (nil: it may
// not): it locks the DB and brings it up to now, or returns the error that ends
// the call, with the DB unlocked.
func (db *DB) enter(ctx context.Context, closed *bool) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return now, err
	}
	db.mu.Lock()
	if db.closed || closed != nil && *closed {
		db.mu.Unlock()
		return now, broker.ErrClosed
	}
	now = time.Now()
	db.sweep(now)
	return now, nil
}

// leave ends what enter began: it wakes who waits for what became ready.
func (db *DB) leave() {
	db.settleDown()
	db.mu.Unlock()
}

// settleDown wakes one consumer for each queue that got ready tasks, and sets
// the alarm.
func (db *DB) settleDown() {
	for _, q := range db.touched {
		q.touched = false
		if q.open() {
			q.wakeOne()
		}
	}
	clear(db.touched)
	db.touched = db.touched[:0]
	db.setAlarm()
}

// sweepFinished is how many ended statuses one call removes at most. Readers
// do not see the others either; they only take memory a little longer.
const sweepFinished = 256

// sweep does what has become due by now: delayed tasks become ready, ended
// leases return their tasks, old statuses go.
func (db *DB) sweep(now time.Time) {
	n := now.UnixNano()
	for q, at := db.moments.top(); q != nil && at <= n; q, at = db.moments.top() {
		db.sweepQueue(q, now)
	}
	for range sweepFinished {
		r, at := db.finished.top()
		if r == nil || at > n {
			break
		}
		db.remove(r)
	}
}

func (db *DB) sweepQueue(q *queue, now time.Time) {
	n := now.UnixNano()
	for r, at := q.due.top(); r != nil && at <= n; r, at = q.due.top() {
		q.detach(r)
		db.ready(r, at)
	}
	for r, at := q.leases.top(); r != nil && at <= n; r, at = q.leases.top() {
		q.detach(r)
		if r.revocation() != nil {
			db.cancelRevoked(r, now)
			continue
		}
		r.reserved = false
		db.ready(r, at) // still held: who comes late, but first, may settle it
	}
	q.reschedule()
}

// setAlarm makes the alarm ring at the next moment, if it would ring too late.
func (db *DB) setAlarm() {
	next := int64(0)
	if q, at := db.moments.top(); q != nil {
		next = at
	}
	if r, at := db.finished.top(); r != nil {
		// Old statuses are in no hurry: they share a look each second.
		at = after(at-at%int64(time.Second), time.Second)
		if next == 0 || at < next {
			next = at
		}
	}
	if next == 0 || db.armed != 0 && db.armed <= next || db.closed {
		return
	}
	db.armed = next
	wait := max(time.Duration(next-time.Now().UnixNano()), 0)
	if db.alarm == nil {
		db.alarm = time.AfterFunc(wait, db.ring)
	} else {
		db.alarm.Reset(wait)
	}
}

// ring is what the alarm calls.
func (db *DB) ring() {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return
	}
	db.armed = 0
	db.sweep(time.Now())
	db.settleDown()
}

// after is the moment d after n, at most the last one there is.
func after(n int64, d time.Duration) int64 {
	if sum := n + int64(d); sum >= n {
		return sum
	}
	return lastMoment
}

// Moments are nanoseconds since 1970, which reach to the year 2262; what is
// later is never due while a process lives.
const lastMoment = 1<<63 - 1

// momentOf is the moment of a time; 0 for the zero one.
func momentOf(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() > 2261:
		return lastMoment
	}
	return t.UnixNano()
}

// timeOf is the time of a moment.
func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
