package sqlite

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/task"
)

// place is where a task is; the partial indexes of stem_task are by it. 0 and
// 1 are left out, so that all take the same width.
type place int64

const (
	ready   place = 2
	delayed place = 3
	leased  place = 4
	done    place = 5 // succeeded or cancelled: a status that is kept
	dead    place = 6
)

// flags of a task.
const (
	flagStarted     = 1 << iota // in its newest lease
	flagLapsed                  // its lease ended, and nobody took it since: its receipt is good still
	flagRedelivered             // a lease ended without settlement
	flagWaited                  // "at" of a ready task is when it became due
	flagNote                    // it has a row in stem_note
	flagClaims                  // it took claims that end with it
	flagRevoked                 // it is leased, and has a row in stem_revoke
	flagTrimmed                 // its envelope is cut down to what a status shows
	flagHidden                  // it is dead, and keeps no status
	flagReserved                // it has a slot of a rate limit, or had it when its newest lease began
	flagBare                    // its status keeps no args: see task.KeepsArgs
)

// forever is the "at" of a status that is never removed: the year 9999.
const forever = 253402300799999

// row is one row of stem_task, without the envelope.
type row struct {
	seq      int64
	id       string
	queue    int64
	rank     int
	place    place
	phase    int
	at       int64 // ms
	epoch    int64
	attempt  int
	starts   int
	base     int
	replays  int
	flags    int
	worker   int64
	own      int64 // ms
	enqueued int64 // ms
	size     int   // of the envelope
}

// envelopeColumn is where the envelope is, in statements that read it.
const envelopeColumn = 17

func scanRow(s *sqlite3.Stmt, r *row) {
	r.seq = s.ColumnInt64(0)
	r.id = s.ColumnText(1)
	r.queue = s.ColumnInt64(2)
	r.rank = s.ColumnInt(3)
	r.place = place(s.ColumnInt64(4))
	r.phase = s.ColumnInt(5)
	r.at = s.ColumnInt64(6)
	r.epoch = s.ColumnInt64(7)
	r.attempt = s.ColumnInt(8)
	r.starts = s.ColumnInt(9)
	r.base = s.ColumnInt(10)
	r.replays = s.ColumnInt(11)
	r.flags = s.ColumnInt(12)
	r.worker = s.ColumnInt64(13)
	r.own = s.ColumnInt64(14)
	r.enqueued = s.ColumnInt64(15)
	r.size = s.ColumnInt(16)
}

func (r *row) has(flag int) bool { return r.flags&flag != 0 }

// held reports whether a receipt of that epoch is good.
func (r *row) held(epoch int64) bool {
	return r.epoch == epoch && (r.place == leased || r.place == ready && r.has(flagLapsed))
}

// gone reports whether the status of a finished task is past its retention.
func (r *row) gone(now int64) bool { return r.place == done && r.at <= now }

func (r *row) terminal() bool { return r.place == done || r.place == dead }

// phaseOf and stateOf translate between a state and its number in the file.
func phaseOf(s task.State) int {
	for i, state := range task.States() {
		if s == state {
			return i
		}
	}
	return -1
}

func stateOf(phase int) task.State {
	if all := task.States(); phase >= 0 && phase < len(all) {
		return all[phase]
	}
	return ""
}

// note is one row of stem_note. Times are µs since 1970; 0: none.
type note struct {
	worker   int64
	started  int64
	ended    int64
	replayed int64
	result   []byte
	reason   string
	errors   []byte // JSON of []task.Error
	progress []byte // JSON of task.Progress
}

// note reads a task's note; without one it is empty.
func (c *conn) note(r *row) (n note, err error) {
	if !r.has(flagNote) {
		return n, nil
	}
	_, err = c.one("note", func(s *sqlite3.Stmt) {
		n = note{
			worker: s.ColumnInt64(0), started: s.ColumnInt64(1), ended: s.ColumnInt64(2), replayed: s.ColumnInt64(3),
			reason: s.ColumnText(5),
		}
		n.result, n.errors, n.progress = blob(s, 4), blob(s, 6), blob(s, 7)
	}, r.seq)
	return n, err
}

// blob returns a copy of a column; nil for NULL, and only then.
func blob(s *sqlite3.Stmt, column int) []byte {
	if s.ColumnType(column) == sqlite3.NULL {
		return nil
	}
	return append([]byte{}, s.ColumnRawBlob(column)...)
}

func (n *note) errorList() ([]task.Error, error) {
	if n.errors == nil {
		return nil, nil
	}
	var list []task.Error
	if err := json.Unmarshal(n.errors, &list); err != nil {
		return nil, fmt.Errorf("read the errors of attempts: %w", err)
	}
	return list, nil
}

// addError adds the error of one more attempt.
func (n *note) addError(e *task.Error) error {
	if e == nil {
		return nil
	}
	list, err := n.errorList()
	if err != nil {
		return err
	}
	if n.errors, err = json.Marshal(task.AppendError(list, e)); err != nil {
		return fmt.Errorf("keep the error of an attempt: %w", err)
	}
	return nil
}

func (n *note) setProgress(p *task.Progress) (err error) {
	if p == nil {
		return nil
	}
	if n.progress, err = json.Marshal(p); err != nil {
		return fmt.Errorf("%w progress: %w", task.ErrInvalid, err)
	}
	return nil
}

// micros and moment translate between a time and its µs in the file.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// millis is the first whole millisecond that is not before t.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	ms := t.UnixMilli()
	if t.Sub(time.UnixMilli(ms)) > 0 {
		ms++
	}
	return min(ms, forever-1)
}

// until is the "at" of what is kept for a time from now.
func until(now int64, keep time.Duration) int64 {
	if keep < 0 {
		return forever
	}
	return min(now+max(keep.Milliseconds(), 1), forever-1)
}

// statusOf puts a status together from a task's row, envelope and note.
func (c *conn) statusOf(db *DB, r *row, envelope []byte) (s task.Status, err error) {
	e, err := task.Decode(envelope)
	if err != nil || e == nil {
		e = &task.Envelope{ID: r.id, Priority: task.MaxPriority - r.rank, EnqueuedAt: time.UnixMilli(r.enqueued).UTC()}
	}
	n, err := c.note(r)
	if err != nil {
		return s, err
	}
	s = task.NewStatus(e)
	if r.has(flagTrimmed) {
		s.Args = e.Args
		if r.has(flagBare) {
			s.Args = nil // and not null
		}
	}
	if s.Queue, err = db.names.queue(c, r.queue); err != nil {
		return s, err
	}
	s.State, s.Attempt, s.Epoch, s.Starts = stateOf(r.phase), r.attempt, r.epoch, r.starts
	if s.Worker, err = db.names.worker(c, n.worker); err != nil {
		return s, err
	}
	s.StartedAt, s.FinishedAt, s.LastReplayAt = moment(n.started), moment(n.ended), moment(n.replayed)
	s.Result, s.Reason, s.ReplayCount = n.result, n.reason, r.replays
	if r.place == delayed || r.place == ready && r.has(flagWaited) {
		s.NotBefore = time.UnixMilli(r.at).UTC()
	}
	if r.place == done && r.at != forever {
		s.ExpiresAt = time.UnixMilli(r.at).UTC()
	}
	s.MarkRateLimited(r.has(flagReserved))
	if s.Errors, err = n.errorList(); err != nil {
		return s, err
	}
	if k := len(s.Errors); k > 0 {
		s.Error = &s.Errors[k-1]
	}
	if n.progress != nil {
		s.Progress = new(task.Progress)
		if err := json.Unmarshal(n.progress, s.Progress); err != nil {
			return s, fmt.Errorf("read the progress of %s: %w", r.id, err)
		}
	}
	return s, nil
}
