package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
)

// groupTime is how long a group takes in more work before it commits. With the
// commit itself it bounds how long the lock is held against other processes.
const groupTime = 3 * time.Millisecond

// writer is the one goroutine of a process that writes. It commits whatever
// has gathered while the commit before was under way (group commit), inside a
// lock on a side file: SQLite's own busy handler polls, and starves processes
// for seconds, whereas this lock wakes who waits for it.
type writer struct {
	db   *DB
	lock *os.File
	conn *conn // nil after a failed commit, until it is opened again

	mu    sync.Mutex
	queue []*op
	wake  chan struct{} // capacity 1: the queue has something
	ended chan struct{}

	pages     int       // of the WAL after the last commit
	nextSweep time.Time // when to look again for what has expired
	reclaimAt time.Time // no lease is taken back before; see begin
	ck        *checkpointer
}

// op is one call's share of a transaction. fn may run twice, on a fresh
// transaction each time, and sets its results anew.
type op struct {
	fn    func(t *tx) error
	taken atomic.Bool // by the writer, or by a caller that gave up
	err   error
	done  chan struct{}
}

func newWriter(ctx context.Context, db *DB) (*writer, error) {
	lock, err := os.OpenFile(db.path+"-lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open %s: its lock file: %w", db.path, err)
	}
	w := &writer{db: db, lock: lock, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if err := w.prepare(ctx); err != nil {
		return nil, errors.Join(db.full(err), lock.Close())
	}
	w.ck = newCheckpointer(db)
	go w.run()
	return w, nil
}

// prepare opens the connection and migrates, under the lock.
func (w *writer) prepare(ctx context.Context) (err error) {
	for {
		got, err := lockFile(w.lock, false)
		if err != nil {
			return fmt.Errorf("lock %s: %w", w.lock.Name(), err)
		}
		if got {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("open %s: wait for another process to release %s: %w", w.db.path, w.lock.Name(), ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	defer func() {
		if e := unlockFile(w.lock); err == nil && e != nil {
			err = fmt.Errorf("unlock %s: %w", w.lock.Name(), e)
		}
	}()
	if err := w.open(ctx, true); err != nil {
		return err
	}
	if err := w.db.migrate(ctx, w.conn); err != nil {
		return errors.Join(err, w.conn.close())
	}
	return nil
}

func (w *writer) open(ctx context.Context, create bool) error {
	c, err := w.db.openConn(ctx, create, writerCache)
	if err != nil {
		return err
	}
	c.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error {
		w.pages = pages
		return nil
	})
	c.writes = true
	w.conn = c
	return nil
}

// write runs fn in the next transaction and returns when it is committed.
func (db *DB) write(ctx context.Context, fn func(t *tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{fn: fn, done: make(chan struct{})}
	if !db.writer.add(o) {
		return broker.ErrClosed
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-o.done // it is being written: a matter of milliseconds
		return o.err
	}
}

func (w *writer) add(o *op) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.db.isClosed() {
		return false
	}
	w.queue = append(w.queue, o)
	signal(w.wake)
	return true
}

// next takes the next op, or nil.
func (w *writer) next() *op {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 {
		o := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		if o.taken.CompareAndSwap(false, true) {
			return o
		}
	}
	w.queue = nil
	return nil
}

func (w *writer) pending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) > 0
}

func (w *writer) run() {
	defer close(w.ended)
	for {
		select {
		case <-w.wake:
		case <-w.db.closed:
			w.failAll(broker.ErrClosed)
			return
		}
		for w.pending() && !w.db.isClosed() {
			w.group()
		}
	}
}

// failAll ends whatever waits.
func (w *writer) failAll(err error) {
	for o := w.next(); o != nil; o = w.next() {
		o.err = err
		close(o.done)
	}
}

// group writes one group of ops and answers them.
func (w *writer) group() {
	if err := w.acquire(); err != nil {
		w.failAll(err)
		return
	}
	ops, t, err := w.transaction(w.next)
	if err != nil && len(ops) > 1 && t != nil && !t.committing {
		// One of them cannot be written: it must fail alone.
		w.alone(ops)
		ops = nil
	}
	w.checkpointIfLong()
	if e := unlockFile(w.lock); e != nil {
		w.db.log.Error("unlock the SQLite file", "file", w.lock.Name(), "error", e)
	}
	w.answer(ops, t, err)
}

// alone runs each op in a transaction of its own, under the lock.
func (w *writer) alone(ops []*op) {
	for _, o := range ops {
		once := o
		_, t, err := w.transaction(func() *op {
			o := once
			once = nil
			return o
		})
		w.answer([]*op{o}, t, err)
	}
}

func (w *writer) answer(ops []*op, t *tx, err error) {
	if t != nil && err == nil {
		t.committed()
	}
	for _, o := range ops {
		o.err = err
		close(o.done)
	}
	if t == nil {
		return
	}
	if t.handOut(err == nil) {
		// Who is woken last runs first, and in place of this goroutine: no other
		// thread has to wake up for it, and what other processes are to hear costs
		// it nothing.
		runtime.Gosched()
	}
	if err == nil {
		t.tellOthers()
	}
}

// acquire takes the lock. Work gathers, and callers may still give up, until
// it has it.
func (w *writer) acquire() error {
	got, err := lockFile(w.lock, false)
	if got || err != nil {
		return err
	}
	since := time.Now()
	if _, err := lockFile(w.lock, true); err != nil {
		return fmt.Errorf("lock %s: %w: %w", w.lock.Name(), broker.ErrUnavailable, err)
	}
	// Who held the lock for so long kept all others from renewing their
	// leases. They get the chance before anything is taken back.
	if waited := time.Since(since); waited > w.db.hub.shortestLease()/4 {
		w.reclaimAt = time.Now().Add(waited)
		w.db.log.Warn("waited for the SQLite file's lock", "file", w.lock.Name(), "waited", waited.String())
	}
	return nil
}

// transaction runs ops from next until there are none, or for groupTime, and
// commits. It returns those it took.
func (w *writer) transaction(next func() *op) (ops []*op, t *tx, err error) {
	start := time.Now()
	o := next()
	if o == nil {
		return nil, nil, nil
	}
	ops = append(ops, o)
	if w.conn == nil {
		if err := w.open(context.Background(), false); err != nil {
			return ops, nil, err
		}
	}
	if err := w.conn.exec("begin"); err != nil {
		return ops, nil, err
	}
	t = newTx(w)
	for {
		if err := o.fn(t); err != nil {
			return ops, t, w.rollback(err)
		}
		if time.Since(start) > groupTime {
			break
		}
		if o = next(); o == nil {
			break
		}
		ops = append(ops, o)
	}
	if err := t.wakeNobodyPaused(); err != nil {
		return ops, t, w.rollback(err)
	}
	if err := t.serve(); err != nil {
		return ops, t, w.rollback(err)
	}
	if err := t.finish(); err != nil {
		return ops, t, w.rollback(err)
	}
	t.committing = true
	if err := w.conn.Exec("COMMIT"); err != nil {
		return ops, t, w.reopen(w.db.full(failed("commit", err)))
	}
	return ops, t, nil
}

func (w *writer) rollback(err error) error {
	err = w.db.full(err)
	if w.conn.GetAutocommit() {
		return err // SQLite did it itself
	}
	if e := w.conn.Exec("ROLLBACK"); e != nil {
		return w.reopen(errors.Join(err, failed("rollback", e)))
	}
	return err
}

// reopen closes the connection after an error that leaves its state in doubt:
// a write or an fsync that failed may be tried again only from what the disk
// has.
func (w *writer) reopen(err error) error {
	if e := w.conn.close(); e != nil {
		w.db.log.Error("close the SQLite file after a failed commit", "file", w.db.path, "error", e)
	}
	w.conn = nil
	return err
}

// checkpointIfLong has the WAL copied into the file: beside the writer from
// walSoft pages on, and by the writer itself, which holds the lock, when that
// could not keep up.
func (w *writer) checkpointIfLong() {
	if w.conn == nil || w.pages < walSoft {
		return
	}
	if w.pages < walLimit {
		w.ck.ask(w.pages)
		return
	}
	if _, _, err := w.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE); err != nil && !errors.Is(err, sqlite3.BUSY) {
		w.db.log.Warn("checkpoint the SQLite file", "file", w.db.path, "error", err)
	}
}

func (w *writer) close() error {
	<-w.ended
	err := w.ck.close()
	if w.conn != nil {
		err = errors.Join(err, w.conn.close())
	}
	return errors.Join(err, w.lock.Close())
}

// signal puts a token into a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
