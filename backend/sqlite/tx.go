package sqlite

import (
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/task"
)

// tx is one transaction of the writer, with what must follow its commit.
type tx struct {
	*conn
	db  *DB
	w   *writer
	now int64 // ms: the store's clock, read once the lock was held

	seq    int64            // the last number given; -1: not read yet
	first  int64            // seq as it was read
	counts map[int64]*count // what to add to the counters of queues, by number
	queues map[string]int64 // numbers given or read here
	staff  map[string]int64 // the same of workers

	woken   map[int64]int  // queues that got ready tasks, and how many are left
	soon    map[int64]bool // queues with a task that comes due before anybody looks by himself
	changed []string       // ids of tasks whose status changed
	revoked bool           // a leased task was revoked
	topics  []string       // what ears are to be told
	served  []service      // consumers that waited, with what was received for them

	committing bool
}

type count struct{ ready, delayed, leased, dead int }

func newTx(w *writer) *tx {
	return &tx{
		conn: w.conn, db: w.db, w: w, now: time.Now().UnixMilli(), seq: -1,
		counts: make(map[int64]*count), woken: make(map[int64]int),
	}
}

// nextSeq gives a place at the end of the line.
func (t *tx) nextSeq() (int64, error) {
	if t.seq < 0 {
		if _, err := t.one("seq", func(s *sqlite3.Stmt) { t.seq = s.ColumnInt64(0) }); err != nil {
			return 0, err
		}
		t.first = t.seq
	}
	t.seq++
	return t.seq, nil
}

// queueID returns the number of a queue, which is added if need be.
func (t *tx) queueID(name string) (int64, error) {
	if id, ok := t.queues[name]; ok {
		return id, nil
	}
	id, found, err := t.db.names.queueID(t.conn, name)
	if err != nil {
		return 0, err
	}
	if !found {
		if _, err := t.one("add-queue", func(s *sqlite3.Stmt) { id = s.ColumnInt64(0) }, name); err != nil {
			return 0, err
		}
	}
	if t.queues == nil {
		t.queues = make(map[string]int64)
	}
	t.queues[name] = id
	return id, nil
}

// workerID returns the number of a worker, which is added if need be.
func (t *tx) workerID(name string) (id int64, err error) {
	if id, ok := t.staff[name]; ok {
		return id, nil
	}
	id, found := t.db.names.workers.id(name)
	if !found {
		if found, err = t.one("worker-id", func(s *sqlite3.Stmt) { id = s.ColumnInt64(0) }, name); err != nil {
			return 0, err
		}
	}
	if !found {
		if _, err := t.one("add-worker", func(s *sqlite3.Stmt) { id = s.ColumnInt64(0) }, name); err != nil {
			return 0, err
		}
	}
	if t.staff == nil {
		t.staff = make(map[string]int64)
	}
	t.staff[name] = id
	return id, nil
}

// add counts n tasks into, or out of, a place.
func (t *tx) add(queue int64, p place, n int) {
	c := t.counts[queue]
	if c == nil {
		c = new(count)
		t.counts[queue] = c
	}
	switch p {
	case ready:
		c.ready += n
	case delayed:
		c.delayed += n
	case leased:
		c.leased += n
	case dead:
		c.dead += n
	}
}

// wake notes that n tasks of a queue became ready.
func (t *tx) wake(queue int64, n int) { t.woken[queue] += n }

// lookEvery is how often a waiting consumer looks by itself, at least.
const lookEvery = time.Second

// comesDue notes that a task of a queue was given a moment. Who waits has been
// told another one, and must hear of it when it is nearer than his next look.
func (t *tx) comesDue(queue, at int64) {
	if at-t.now > lookEvery.Milliseconds() {
		return
	}
	if t.soon == nil {
		t.soon = make(map[int64]bool)
	}
	t.soon[queue] = true
}

// touched notes that a task's status changed.
func (t *tx) touched(id string) {
	t.changed = append(t.changed, id)
}

// bySeq reads a row, and reports whether it is there.
func (t *tx) bySeq(seq int64, r *row) (bool, error) {
	return t.one("by-seq", func(s *sqlite3.Stmt) { scanRow(s, r) }, seq)
}

// byID reads the row of a task whose status is not past its retention.
func (t *tx) byID(id string, r *row) (bool, error) {
	found, err := t.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, r) }, id)
	return found && !r.gone(t.now), err
}

// move puts a task into another place and saves the rest of its row too.
func (t *tx) move(r *row, to place, at int64) error {
	if r.place != to {
		t.add(r.queue, r.place, -1)
		t.add(r.queue, to, 1)
	}
	switch to {
	case ready:
		t.wake(r.queue, 1)
	case delayed:
		t.comesDue(r.queue, at)
	}
	r.place, r.at = to, at
	return t.save(r)
}

func (t *tx) save(r *row) error {
	s, err := t.stmt("save")
	if err != nil {
		return err
	}
	bind := [...]int64{
		int64(r.place), int64(r.phase), r.at, r.epoch, int64(r.attempt), int64(r.starts),
		int64(r.base), int64(r.replays), int64(r.flags), r.worker, r.seq,
	}
	for i, v := range bind {
		if err := s.BindInt64(i+1, v); err != nil {
			return failed("save a task", err)
		}
	}
	if err := s.Exec(); err != nil {
		return failed("save a task", err)
	}
	return nil
}

// saveNote writes a task's note. The caller saves the row after it.
func (t *tx) saveNote(r *row, n *note) error {
	r.flags |= flagNote
	var reason any
	if n.reason != "" {
		reason = n.reason
	}
	return t.exec("set-note", r.seq, n.worker, n.started, n.ended, n.replayed, n.result, reason, n.errors, n.progress)
}

// remove deletes a task with all that belongs to it.
func (t *tx) remove(r *row) error {
	t.add(r.queue, r.place, -1)
	if r.has(flagNote) {
		if err := t.exec("delete-note", r.seq); err != nil {
			return err
		}
	}
	if err := t.endClaims(r); err != nil {
		return err
	}
	if err := t.endRevocation(r); err != nil {
		return err
	}
	return t.exec("delete", r.seq)
}

// endClaims releases what a task holds until its end.
func (t *tx) endClaims(r *row) error {
	if !r.has(flagClaims) {
		return nil
	}
	r.flags &^= flagClaims
	return t.exec("release-claims", r.id)
}

func (t *tx) endRevocation(r *row) error {
	if !r.has(flagRevoked) {
		return nil
	}
	r.flags &^= flagRevoked
	return t.exec("delete-revocation", r.seq)
}

// keptEnvelope is the size up to which a finished task's envelope stays as it
// is: cutting it down costs more than it saves.
const keptEnvelope = 2048

// retain ends a task: its status is kept for a time, or it is removed.
func (t *tx) retain(r *row, keep time.Duration) error {
	t.touched(r.id)
	if keep == 0 {
		return t.remove(r)
	}
	if err := t.endClaims(r); err != nil {
		return err
	}
	if err := t.endRevocation(r); err != nil {
		return err
	}
	if (r.size > keptEnvelope || r.has(flagBare)) && !r.has(flagTrimmed) {
		if err := t.trim(r); err != nil {
			return err
		}
	}
	r.flags &^= flagLapsed | flagRedelivered | flagWaited | flagReserved
	return t.move(r, done, until(t.now, keep))
}

// trim cuts a stored envelope down to what a status shows of it.
func (t *tx) trim(r *row) error {
	var data []byte
	if _, err := t.one("envelope", func(s *sqlite3.Stmt) { data = blob(s, 0) }, r.seq); err != nil {
		return err
	}
	e, err := task.Decode(data)
	if err != nil || e == nil {
		return nil // it is no envelope: there is nothing to cut
	}
	kept := *e
	kept.Args, kept.Headers, kept.Unknown = task.KeepArgs(e.Args), nil, nil
	if !task.KeepsArgs(e.Meta) {
		kept.Args = nil
	}
	if data, err = task.Encode(&kept); err != nil {
		return nil // kept whole instead
	}
	r.flags |= flagTrimmed
	return t.exec("set-envelope", data, r.seq)
}

// cancel ends a task that no handler holds.
func (t *tx) cancel(r *row, reason string, keep time.Duration) error {
	r.phase = phaseOf(task.Cancelled)
	if keep != 0 {
		n, err := t.note(r)
		if err != nil {
			return err
		}
		n.reason, n.ended = reason, t.now*1000
		if err := t.saveNote(r, &n); err != nil {
			return err
		}
	}
	return t.retain(r, keep)
}

// finish writes what the whole group shares.
func (t *tx) finish() error {
	if err := t.sweep(); err != nil {
		return err
	}
	if t.seq > t.first {
		if err := t.exec("set-seq", t.seq); err != nil {
			return err
		}
	}
	return t.writeCounts()
}

// writeCounts brings the counters of queues up to what the transaction did.
func (t *tx) writeCounts() error {
	for queue, c := range t.counts {
		if *c == (count{}) {
			continue
		}
		if err := t.exec("count", c.ready, c.delayed, c.leased, c.dead, queue); err != nil {
			return err
		}
		*c = count{}
	}
	return nil
}

// sweepSize is how many expired rows of each kind one group removes;
// sweepPause is between two looks when there was less.
const (
	sweepSize  = 200
	sweepPause = 500 * time.Millisecond
)

// sweep removes what has expired. Readers do not see it before that either.
func (t *tx) sweep() error {
	now := time.UnixMilli(t.now)
	if now.Before(t.w.nextSweep) {
		return nil
	}
	var expired []row
	err := t.each("expired", func(s *sqlite3.Stmt) bool {
		expired = append(expired, row{})
		scanRow(s, &expired[len(expired)-1])
		return true
	}, t.now, sweepSize)
	if err != nil {
		return err
	}
	for i := range expired {
		if err := t.remove(&expired[i]); err != nil {
			return err
		}
	}
	for _, statement := range []string{"expire-claims", "expire-records", "expire-limits", "expire-memos", "expire-audit"} {
		if err := t.exec(statement, t.now, sweepSize); err != nil {
			return err
		}
	}
	if len(expired) < sweepSize {
		t.w.nextSweep = now.Add(sweepPause)
	}
	return nil
}

// committed makes the outside learn of the commit, but for what tellOthers does.
func (t *tx) committed() {
	for name, id := range t.queues {
		t.db.names.queues.remember(id, name)
	}
	for name, id := range t.staff {
		t.db.names.workers.remember(id, name)
	}
	for id := range t.soon {
		t.woken[id] = max(t.woken[id], 1)
	}
	var queues []string
	for id, n := range t.woken {
		if n <= 0 {
			continue
		}
		name, err := t.db.names.queue(t.conn, id)
		if err != nil {
			t.db.log.Error("wake the consumers of a queue", "queue", id, "error", err)
			continue
		}
		queues = append(queues, name)
	}
	t.db.hub.committed(queues, t.changed, t.revoked)
	if len(t.topics) > 0 {
		t.db.hub.tellTopics(t.topics)
	}
}

// tellOthers tells the other processes which statuses changed. It looks for them
// in a directory, which nobody here has to wait for.
func (t *tx) tellOthers() {
	if len(t.changed) > 0 && t.db.hub.dir.watched() {
		t.db.hub.dir.tell(t.changed)
	}
}
