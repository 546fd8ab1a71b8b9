package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// ImportDeadLetters puts dead letters back that were exported; see
// broker.DeadImporter. This store holds envelopes alone: an entry that is none
// is refused.
func (t *tasks) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	errs := make([]error, len(batch))
	records := make([]*record, len(batch))
	for i := range batch {
		var size int
		if size, errs[i] = inspectDead(&batch[i]); errs[i] == nil {
			records[i] = newRecord(batch[i].Envelope, size)
		}
	}
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("import dead letters: %w", err)
	}
	defer t.db.leave()
	for i, r := range records {
		if r != nil {
			errs[i] = t.db.rebury(r, &batch[i], now)
		}
	}
	return errs, nil
}

// inspectDead returns the size of a dead letter's envelope, or why it cannot
// be imported.
func inspectDead(d *broker.DeadLetter) (int, error) {
	if err := d.Validate(); err != nil {
		return 0, err
	}
	if d.Raw != nil {
		return 0, fmt.Errorf("dead letter %s: an entry that is no envelope: %w", d.Envelope.ID, broker.ErrUnsupported)
	}
	return sizeOf(d.Envelope)
}

// rebury makes a new record of a dead letter from elsewhere.
func (db *DB) rebury(r *record, d *broker.DeadLetter, now time.Time) error {
	if db.find(r.id, now) != nil {
		return fmt.Errorf("dead letter %s: %w", r.id, broker.ErrExists)
	}
	db.epoch = max(db.epoch, d.Epoch)
	r.state, r.attempt, r.epoch = failed, d.Attempt, d.Epoch
	x := r.more()
	x.notBefore, x.reason, x.errors = time.Time{}, d.Reason, append([]task.Error(nil), d.AllErrors()...)
	x.replays, x.replayedAt, x.deadAt = d.ReplayCount, d.LastReplayAt, d.DeadAt
	if x.deadAt.After(now) {
		x.deadAt = now
	}
	r.finishedAt = momentOf(x.deadAt)
	r.q = db.queue(d.Queue)
	r.place, r.hidden = dead, d.Hidden()
	r.q.dead++
	db.add(r)
	db.dead.add(r)
	db.notify(r)
	return nil
}
