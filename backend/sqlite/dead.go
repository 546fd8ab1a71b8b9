package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// deadPage is how many dead letters one transaction replays or purges, so that
// a sweep over many hinders nobody for long.
const deadPage = 500

// namedMost is how many entries an answer names; see broker.Replayed.
const namedMost = 1000

// DeadLetters implements broker.Broker.
func (b *fileBroker) DeadLetters() broker.DeadLetters { return &deadLetters{b} }

type deadLetters struct{ b *fileBroker }

// deadCursor is a position in the listing by time and place in line.
type deadCursor struct{ at, seq int64 }

func (c deadCursor) String() string {
	return strconv.FormatInt(c.at, 10) + "." + strconv.FormatInt(c.seq, 10)
}

func parseDeadCursor(s string) (c deadCursor, err error) {
	if s == "" {
		return deadCursor{at: 1 << 62}, nil
	}
	at, seq, _ := strings.Cut(s, ".")
	c.at, err = strconv.ParseInt(at, 10, 64)
	if err == nil {
		c.seq, err = strconv.ParseInt(seq, 10, 64)
	}
	if err != nil {
		return c, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, s)
	}
	return c, nil
}

// ListDeadLetters implements broker.DeadLetters: newest first.
func (d *deadLetters) ListDeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	if err := d.b.check(ctx); err != nil {
		return nil, "", err
	}
	from, err := parseDeadCursor(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	var list []broker.DeadLetter
	var cursor string
	err = d.b.db.scan(ctx, func(c *conn) error {
		list, cursor = nil, ""
		return c.eachDead(d.b.db, false, from, f, func(l *broker.DeadLetter, at deadCursor) bool {
			if len(list) == p.Size() {
				return false
			}
			list = append(list, *l)
			if len(list) == p.Size() {
				cursor = at.String()
			}
			return true
		})
	})
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	return list, cursor, nil
}

// eachDead calls fn for every dead letter that matches, from a position on,
// until it returns false: newest first, or with oldestFirst the other way.
func (c *conn) eachDead(db *DB, oldestFirst bool, from deadCursor, f broker.DeadFilter, fn func(l *broker.DeadLetter, at deadCursor) bool) error {
	var fault error
	look := func(r *row, envelope []byte) bool {
		var l broker.DeadLetter
		if l, fault = c.deadLetter(db, r, envelope); fault != nil {
			return false
		}
		return !f.Match(&l) || fn(&l, deadCursor{r.at, r.seq})
	}
	if len(f.IDs) > 0 {
		return firstError(c.eachDeadOf(f.IDs, oldestFirst, from, look), fault)
	}
	statement := "dead"
	if oldestFirst {
		statement = "dead-oldest"
	}
	err := c.each(statement, func(s *sqlite3.Stmt) bool {
		var r row
		scanRow(s, &r)
		return look(&r, blob(s, envelopeColumn))
	}, from.at, from.seq)
	return firstError(err, fault)
}

// eachDeadOf is eachDead over named tasks, which are found by id.
func (c *conn) eachDeadOf(ids []string, oldestFirst bool, from deadCursor, look func(r *row, envelope []byte) bool) error {
	var list []row
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		if seen[id] {
			continue
		}
		seen[id] = true
		_, err := c.one("by-id", func(s *sqlite3.Stmt) {
			var r row
			if scanRow(s, &r); r.place == dead && from.before(&r, oldestFirst) {
				list = append(list, r)
			}
		}, id)
		if err != nil {
			return err
		}
	}
	slices.SortFunc(list, func(a, b row) int {
		if oldestFirst {
			return compareDead(&a, &b)
		}
		return compareDead(&b, &a)
	})
	for i := range list {
		var envelope []byte
		if _, err := c.one("envelope", func(s *sqlite3.Stmt) { envelope = blob(s, 0) }, list[i].seq); err != nil {
			return err
		}
		if !look(&list[i], envelope) {
			return nil
		}
	}
	return nil
}

func compareDead(a, b *row) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) }

// before reports whether a listing comes to r after the cursor.
func (c deadCursor) before(r *row, oldestFirst bool) bool {
	order := compareDead(&row{at: c.at, seq: c.seq}, r)
	return oldestFirst && order < 0 || !oldestFirst && order > 0
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// deadLetter puts a dead letter together.
func (c *conn) deadLetter(db *DB, r *row, data []byte) (l broker.DeadLetter, err error) {
	n, err := c.note(r)
	if err != nil {
		return l, err
	}
	l = broker.DeadLetter{
		Reason: n.reason, Attempt: r.attempt, Epoch: r.epoch, DeadAt: time.UnixMilli(r.at).UTC(),
		ReplayCount: r.replays, LastReplayAt: moment(n.replayed),
	}
	if l.Queue, err = db.names.queue(c, r.queue); err != nil {
		return l, err
	}
	if l.Errors, err = n.errorList(); err != nil {
		return l, err
	}
	if k := len(l.Errors); k > 0 {
		l.Error = &l.Errors[k-1]
	}
	if l.Envelope, err = task.Decode(data); err != nil || l.Envelope.ID != r.id {
		l.Envelope, l.Raw = &task.Envelope{ID: r.id}, data
	}
	return l, nil
}

// page collects the next matching dead letters, oldest first.
func (d *deadLetters) page(c *conn, from deadCursor, f broker.DeadFilter, size int) (ids []string, at deadCursor, err error) {
	at = from
	err = c.eachDead(d.b.db, true, from, f, func(l *broker.DeadLetter, pos deadCursor) bool {
		ids, at = append(ids, l.Envelope.ID), pos
		return len(ids) < size
	})
	return ids, at, err
}

// walk calls fn for matching dead letters, oldest first, up to a limit, and
// returns how many there were and the ids of the first. They are looked for
// without the lock, and each is looked at again under it.
func (d *deadLetters) walk(ctx context.Context, f broker.DeadFilter, limit int, dry bool, fn func(t *tx, r *row) error) (n int, named []string, err error) {
	if err := d.b.check(ctx); err != nil {
		return 0, nil, err
	}
	var from deadCursor
	for limit <= 0 || n < limit {
		size := deadPage
		if limit > 0 {
			size = min(size, limit-n)
		}
		var ids []string
		err = d.b.db.scan(ctx, func(c *conn) (err error) {
			ids, from, err = d.page(c, from, f, size)
			return err
		})
		if err != nil {
			return n, named, err
		}
		last := len(ids) < size
		if !dry {
			if ids, err = d.b.db.eachDead(ctx, ids, fn); err != nil {
				return n, named, err
			}
		}
		n += len(ids)
		named = append(named, ids[:min(len(ids), namedMost-len(named))]...)
		if last {
			break
		}
	}
	return n, named, nil
}

// eachDead calls fn, in one transaction, for those of the tasks that are dead
// still, and returns their ids.
func (db *DB) eachDead(ctx context.Context, ids []string, fn func(t *tx, r *row) error) (were []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	err = db.write(ctx, func(t *tx) error {
		were = nil
		for _, id := range ids {
			var r row
			found, err := t.byID(id, &r)
			if err != nil {
				return err
			}
			if !found || r.place != dead {
				continue
			}
			if err := fn(t, &r); err != nil {
				return err
			}
			were = append(were, id)
		}
		return nil
	})
	return were, err
}

// ReplayDeadLetters implements broker.DeadLetters. An error after some pages
// leaves those replayed, and the others dead.
func (d *deadLetters) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	var out broker.Replayed
	edited, err := prepareEdit(f, o)
	if err != nil {
		return out, fmt.Errorf("replay dead letters: %w", err)
	}
	entries := make(map[string]broker.ReplayedTask)
	n, named, err := d.walk(ctx, f, o.Limit, o.DryRun, func(t *tx, r *row) error {
		queue, err := d.b.db.names.queue(t.conn, r.queue)
		if err != nil {
			return err
		}
		if err := t.edit(r, o.Edited, edited); err != nil {
			return err
		}
		if err := t.replay(r, o.NotBefore); err != nil {
			return err
		}
		if len(entries) < 2*namedMost {
			entries[r.id] = broker.ReplayedTask{
				ID: r.id, Queue: queue, Epoch: r.epoch, ReplayCount: r.replays, ReplayedAt: time.UnixMilli(t.now).UTC(),
				Envelope: o.Edited,
			}
		}
		return nil
	})
	out.Count = n
	for _, id := range named {
		e, ok := entries[id]
		if !ok {
			e.ID = id
		}
		out.Entries = append(out.Entries, e)
	}
	if err != nil {
		return out, fmt.Errorf("replay dead letters: %w", err)
	}
	if o.DryRun {
		return out, d.foresee(ctx, out.Entries, o.Edited)
	}
	return out, nil
}

// prepareEdit checks a replay's options and encodes its edited envelope, nil
// where there is none.
func prepareEdit(f broker.DeadFilter, o broker.ReplayOptions) ([]byte, error) {
	if err := o.Check(f); err != nil || o.Edited == nil {
		return nil, err
	}
	return encodeEnvelope(o.Edited)
}

// edit puts an edited envelope, if there is one, in the place of a dead
// letter's own.
func (t *tx) edit(r *row, e *task.Envelope, data []byte) error {
	if e == nil {
		return nil
	}
	if err := t.fits(r, e); err != nil {
		return err
	}
	r.size = len(data)
	return t.exec("set-envelope", data, r.seq)
}

// fits says whether an edited envelope may replace that of a dead letter.
func (c *conn) fits(r *row, e *task.Envelope) error {
	l := broker.DeadLetter{Envelope: &task.Envelope{ID: r.id}}
	var data []byte
	if _, err := c.one("envelope", func(s *sqlite3.Stmt) { data = blob(s, 0) }, r.seq); err != nil {
		return err
	}
	if old, err := task.Decode(data); err == nil && old.ID == r.id {
		l.Envelope = old
	} else {
		l.Raw = data
	}
	return l.CheckEdit(e)
}

// foresee fills in what a dry run would do.
func (d *deadLetters) foresee(ctx context.Context, entries []broker.ReplayedTask, edited *task.Envelope) error {
	return d.b.db.read(ctx, func(c *conn) error {
		now := time.Now().UTC()
		for i := range entries {
			var r row
			found, err := c.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, &r) }, entries[i].ID)
			if err != nil || !found {
				return err
			}
			queue, err := d.b.db.names.queue(c, r.queue)
			if err != nil {
				return err
			}
			entries[i] = broker.ReplayedTask{
				ID: r.id, Queue: queue, Epoch: r.epoch + 1, ReplayCount: r.replays + 1, ReplayedAt: now, Envelope: edited,
			}
			if edited != nil {
				if err := c.fits(&r, edited); err != nil {
					return fmt.Errorf("replay dead letters: %w", err)
				}
			}
		}
		return nil
	})
}

// replay makes a dead letter wait again, with its retries fresh.
func (t *tx) replay(r *row, notBefore time.Time) error {
	n, err := t.note(r)
	if err != nil {
		return err
	}
	n.replayed, n.ended, n.started, n.reason, n.result, n.progress = t.now*1000, 0, 0, "", nil, nil
	n.worker = 0
	if err := t.saveNote(r, &n); err != nil {
		return err
	}
	r.epoch++
	r.replays++
	r.base, r.starts = r.attempt, 0
	r.phase = phaseOf(task.Queued)
	r.flags &^= flagStarted | flagLapsed | flagRedelivered | flagWaited | flagHidden | flagReserved
	t.touched(r.id)
	return t.wait(r, notBefore)
}

// PurgeDeadLetters implements broker.DeadLetters. Their statuses go with them.
func (d *deadLetters) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	n, named, err := d.walk(ctx, f, o.Limit, o.DryRun, func(t *tx, r *row) error {
		t.touched(r.id)
		return t.remove(r)
	})
	if err != nil {
		return broker.Purged{Count: n, IDs: named}, fmt.Errorf("purge dead letters: %w", err)
	}
	return broker.Purged{Count: n, IDs: named}, nil
}
