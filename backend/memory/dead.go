package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// graveyard is the dead letters in the order of their deaths.
type graveyard struct {
	graves []grave // in order, unless sorted is false
	live   int
	seq    int64
	sorted bool
}

// grave is a dead letter's place; the record may have left it since.
type grave struct {
	at  int64 // the moment of its death
	seq int64 // never given twice
	r   *record
}

func (g grave) filled() bool { return g.r.place == dead && g.r.extra.deadSeq == g.seq }

func (g grave) compare(o grave) int {
	return cmp.Or(cmp.Compare(g.at, o.at), cmp.Compare(g.seq, o.seq))
}

// add gives a record that has just become dead its place. Deaths come in order,
// but for those that are imported.
func (y *graveyard) add(r *record) {
	y.seq++
	y.live++
	r.more().deadSeq = y.seq
	g := grave{momentOf(r.extra.deadAt), y.seq, r}
	n := len(y.graves)
	y.sorted = n == 0 || y.sorted && y.graves[n-1].compare(g) < 0
	y.graves = append(y.graves, g)
}

// inOrder returns the graves, the oldest first.
func (y *graveyard) inOrder() []grave {
	if !y.sorted {
		slices.SortFunc(y.graves, grave.compare)
		y.sorted = true
	}
	return y.graves
}

// left counts that a record has left, and drops what is empty when most is.
func (y *graveyard) left() {
	y.live--
	if len(y.graves) > 64 && y.live < len(y.graves)/2 {
		y.graves = slices.DeleteFunc(y.graves, func(g grave) bool { return !g.filled() })
	}
}

// bury makes a record that is nowhere a dead letter.
func (db *DB) bury(r *record, o *task.Outcome, now time.Time) {
	x := r.more()
	x.revoke = nil
	x.deadAt = now
	r.end(o, now)
	r.place, r.hidden = dead, o.Keep == 0
	r.q.dead++
	db.dead.add(r)
}

// DeadLetters gives access to what failed for good.
func (t *tasks) DeadLetters() broker.DeadLetters { return t }

func (r *record) deadLetter() broker.DeadLetter {
	x := r.extra
	d := broker.DeadLetter{
		Envelope: r.env, Queue: r.q.name, Reason: x.reason, Errors: slices.Clone(x.errors),
		Attempt: r.attempt, Epoch: r.epoch, DeadAt: x.deadAt, ReplayCount: x.replays, LastReplayAt: x.replayedAt,
	}
	if n := len(d.Errors); n > 0 {
		d.Error = &d.Errors[n-1]
	}
	return d
}

// ListDeadLetters lists newest first; see broker.DeadLetters.
func (t *tasks) ListDeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	before, err := parseGrave(p.Cursor)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	defer t.db.leave()
	var page []broker.DeadLetter
	graves := t.db.dead.inOrder()
	at := len(graves)
	if p.Cursor != "" {
		at, _ = slices.BinarySearchFunc(graves, before, grave.compare)
	}
	cursor := ""
	for at--; at >= 0; at-- {
		if !graves[at].filled() {
			continue
		}
		d := graves[at].r.deadLetter()
		if !f.Match(&d) {
			continue
		}
		if len(page) == p.Size() {
			return page, cursor, nil
		}
		page = append(page, d)
		cursor = graves[at].cursor()
	}
	return page, "", nil
}

func (g grave) cursor() string {
	return strconv.FormatInt(g.at, 10) + "." + strconv.FormatInt(g.seq, 10)
}

// parseGrave reads what cursor wrote.
func parseGrave(cursor string) (g grave, err error) {
	if cursor == "" {
		return g, nil
	}
	at, seq, _ := strings.Cut(cursor, ".")
	g.at, err = strconv.ParseInt(at, 10, 64)
	if err == nil {
		g.seq, err = strconv.ParseInt(seq, 10, 64)
	}
	if err != nil {
		return g, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, cursor)
	}
	return g, nil
}

// selectDead returns the dead letters that a filter selects, oldest first and
// at most limit of them; 0: all.
func (db *DB) selectDead(f broker.DeadFilter, limit int) []*record {
	var chosen []*record
	for _, g := range db.dead.inOrder() {
		if !g.filled() {
			continue
		}
		d := g.r.deadLetter()
		if !f.Match(&d) {
			continue
		}
		chosen = append(chosen, g.r)
		if len(chosen) == limit {
			break
		}
	}
	return chosen
}

// maxEntries is how many of the tasks that it changed an answer names.
const maxEntries = 1000

// ReplayDeadLetters puts dead letters back; see broker.DeadLetters.
func (t *tasks) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	if err := o.Check(f); err != nil {
		return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
	}
	size := 0
	if o.Edited != nil {
		var err error
		if size, err = sizeOf(o.Edited); err != nil {
			return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
		}
	}
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
	}
	defer t.db.leave()
	chosen := t.db.selectDead(f, o.Limit)
	if o.Edited != nil && len(chosen) == 1 {
		d := chosen[0].deadLetter()
		if err := d.CheckEdit(o.Edited); err != nil {
			return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
		}
	}
	answer := broker.Replayed{Count: len(chosen)}
	for i, r := range chosen {
		entry := broker.ReplayedTask{
			ID: r.id, Queue: r.q.name, Epoch: r.epoch + 1, ReplayCount: r.replays() + 1, ReplayedAt: now,
			Envelope: o.Edited,
		}
		if !o.DryRun {
			if o.Edited != nil {
				r.env, r.size, r.trimmed = o.Edited, int32(size), false
			}
			t.db.replay(r, o.NotBefore, now)
			entry.Epoch = r.epoch
		}
		if i < maxEntries {
			answer.Entries = append(answer.Entries, entry)
		}
	}
	return answer, nil
}

// replay makes a dead letter a task again, the last of its line.
func (db *DB) replay(r *record, notBefore, now time.Time) {
	db.exhume(r)
	db.epoch++
	r.epoch = db.epoch
	r.requeue(now)
	r.seq = 0
	if due := dueAt(notBefore, now); due != 0 {
		r.setNotBefore(notBefore)
		db.delay(r, due)
	} else {
		db.ready(r, now.UnixNano())
	}
	db.notify(r)
}

// requeue makes a failed record's status that of a replayed task.
func (r *record) requeue(now time.Time) {
	x := r.more()
	x.replays++
	x.replayedAt, x.progress = now, nil
	x.retryBase, x.reason, x.notBefore = r.attempt, "", time.Time{}
	r.state, r.hidden = queued, false
	r.starts, r.redelivered = 0, false
	r.startedAt, r.finishedAt = 0, 0
}

// exhume takes a dead letter out of the graveyard.
func (db *DB) exhume(r *record) {
	r.place = nowhere
	r.q.dead--
	db.dead.left()
}

// PurgeDeadLetters removes dead letters with their statuses; see
// broker.DeadLetters.
func (t *tasks) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return broker.Purged{}, fmt.Errorf("purge dead letters: %w", err)
	}
	defer t.db.leave()
	chosen := t.db.selectDead(f, o.Limit)
	answer := broker.Purged{Count: len(chosen)}
	for i, r := range chosen {
		if i < maxEntries {
			answer.IDs = append(answer.IDs, r.id)
		}
		if !o.DryRun {
			t.db.exhume(r)
			t.db.remove(r)
		}
	}
	return answer, nil
}
