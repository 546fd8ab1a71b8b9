package memory

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// graveyard is the dead letters in the order of their deaths.
type graveyard struct {
	graves []grave
	live   int
	seq    int64
}

// grave is a dead letter's place; the record may have left it since.
type grave struct {
	seq int64
	r   *record
}

func (g grave) filled() bool { return g.r.place == dead && g.r.extra.deadSeq == g.seq }

func (y *graveyard) add(r *record) {
	y.seq++
	y.live++
	r.more().deadSeq = y.seq
	y.graves = append(y.graves, grave{y.seq, r})
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
	graves := t.db.dead.graves
	at := len(graves)
	if before > 0 {
		at = sort.Search(len(graves), func(i int) bool { return graves[i].seq >= before })
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
		cursor = strconv.FormatInt(graves[at].seq, 10)
	}
	return page, "", nil
}

func parseGrave(cursor string) (int64, error) {
	if cursor == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(cursor, 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, cursor)
	}
	return n, nil
}

// selectDead returns the dead letters that a filter selects, oldest first and
// at most limit of them; 0: all.
func (db *DB) selectDead(f broker.DeadFilter, limit int) []*record {
	var chosen []*record
	for _, g := range db.dead.graves {
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
	if err := task.ValidateTime("notBefore", o.NotBefore); err != nil {
		return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
	}
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return broker.Replayed{}, fmt.Errorf("replay dead letters: %w", err)
	}
	defer t.db.leave()
	chosen := t.db.selectDead(f, o.Limit)
	answer := broker.Replayed{Count: len(chosen)}
	for i, r := range chosen {
		entry := broker.ReplayedTask{
			ID: r.id, Queue: r.q.name, Epoch: r.epoch + 1, ReplayCount: r.replays() + 1, ReplayedAt: now,
		}
		if !o.DryRun {
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
