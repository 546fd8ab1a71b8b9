package sqlite

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// token is a receipt's own part: the task's place in line, which is never
// reused, and the length of its lease.
func token(seq int64, lease time.Duration) string {
	return strconv.FormatInt(seq, 10) + "." + strconv.FormatInt(lease.Milliseconds(), 10)
}

func parseToken(s string) (seq int64, lease time.Duration, err error) {
	head, tail, _ := strings.Cut(s, ".")
	seq, err1 := strconv.ParseInt(head, 10, 64)
	ms, err2 := strconv.ParseInt(tail, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, err
	}
	return seq, time.Duration(ms) * time.Millisecond, nil
}

// settlement is a settlement made ready outside the transaction.
type settlement struct {
	*broker.Settlement
	seq       int64
	followups []publication
	refused   error // why it cannot be applied, whatever the store says
}

func prepareSettlements(batch []broker.Settlement) []settlement {
	list := make([]settlement, len(batch))
	for i := range batch {
		list[i] = prepareSettlement(&batch[i])
	}
	return list
}

func prepareSettlement(b *broker.Settlement) settlement {
	s := settlement{Settlement: b, followups: encodeAll(b.Followups)}
	for i := range s.followups {
		if err := s.followups[i].refused; err != nil {
			s.refused = fmt.Errorf("follow-up %d: %w", i, err)
		}
	}
	switch b.Outcome.State {
	case task.Succeeded, task.Retried, task.Failed, task.Cancelled, task.Queued:
	default:
		s.refused = fmt.Errorf("%w outcome: no task is settled as %q", task.ErrInvalid, b.Outcome.State)
	}
	var err error
	if s.seq, _, err = parseToken(b.Receipt.Token); err != nil {
		s.refused = fmt.Errorf("%w: the receipt is of another store", broker.ErrLeaseLost)
	}
	return s
}

// settle applies one settlement. refused is the settlement's own error, err
// the store's.
func (t *tx) settle(s *settlement) (refused, err error) {
	if s.refused != nil {
		return s.refused, nil
	}
	var r row
	found, err := t.bySeq(s.seq, &r)
	if err != nil {
		return nil, err
	}
	if !found || r.id != s.Receipt.ID || !r.held(s.Receipt.Epoch) {
		return broker.ErrLeaseLost, nil
	}
	for i := range s.followups {
		out, err := t.publish(&s.followups[i])
		if err != nil {
			return nil, err
		}
		if out.State == broker.Refused {
			return nil, fmt.Errorf("follow-up %d: %w", i, out.Err) // cannot be: it was looked at before
		}
	}
	for _, key := range s.Release {
		if err := t.exec("release-claim", key, r.id); err != nil {
			return nil, err
		}
	}
	return nil, t.apply(&r, &s.Outcome)
}

// apply moves a held task to where its outcome says.
func (t *tx) apply(r *row, o *task.Outcome) error {
	redelivered := r.flags & flagRedelivered
	r.flags &^= flagStarted | flagLapsed | flagRedelivered | flagWaited | flagReserved
	if r.has(flagRevoked) && (o.State == task.Queued || o.State == task.Retried) {
		return t.cancelRevoked(r)
	}
	r.attempt = o.Attempt
	r.phase = phaseOf(o.State)
	t.touched(r.id)
	switch o.State {
	case task.Queued:
		if o.Reserved {
			r.flags |= flagReserved | redelivered
		}
		return t.release(r, o)
	case task.Retried:
		r.starts = 0
		if err := t.noteOutcome(r, o); err != nil {
			return err
		}
		return t.wait(r, o.NotBefore)
	case task.Failed:
		r.starts = 0
		return t.bury(r, o)
	default:
		r.starts = 0
		if o.Keep != 0 {
			if err := t.noteOutcome(r, o); err != nil {
				return err
			}
		}
		return t.retain(r, o.Keep)
	}
}

// release gives a task back: in place, or for later.
func (t *tx) release(r *row, o *task.Outcome) error {
	if !o.NotBefore.IsZero() && !o.Reserved {
		r.starts = 0
	}
	if r.has(flagNote) { // it runs no more
		n, err := t.note(r)
		if err != nil {
			return err
		}
		n.started, n.worker = 0, 0
		if err := t.saveNote(r, &n); err != nil {
			return err
		}
	}
	return t.wait(r, o.NotBefore)
}

// wait makes a task ready, or delayed until a moment.
func (t *tx) wait(r *row, notBefore time.Time) error {
	due := millis(notBefore)
	if due > t.now {
		return t.move(r, delayed, due)
	}
	if due > 0 {
		r.flags |= flagWaited
		return t.move(r, ready, due)
	}
	return t.move(r, ready, t.now)
}

// bury makes a task a dead letter.
func (t *tx) bury(r *row, o *task.Outcome) error {
	if o.Keep == 0 {
		r.flags |= flagHidden
	}
	if err := t.noteOutcome(r, o); err != nil {
		return err
	}
	if err := t.endClaims(r); err != nil {
		return err
	}
	if err := t.endRevocation(r); err != nil {
		return err
	}
	return t.move(r, dead, t.now)
}

// noteOutcome writes down what an outcome says beyond the row.
func (t *tx) noteOutcome(r *row, o *task.Outcome) error {
	n, err := t.note(r)
	if err != nil {
		return err
	}
	if o.Worker != "" {
		if n.worker, err = t.workerID(o.Worker); err != nil {
			return err
		}
	}
	if !o.StartedAt.IsZero() {
		n.started = micros(o.StartedAt)
	}
	n.ended, n.reason, n.result = micros(o.EndedAt), o.Reason, o.Result
	if o.State == task.Retried {
		n.ended = 0
	} else if n.ended == 0 {
		n.ended = t.now * 1000
	}
	if err := n.addError(o.Error); err != nil {
		return err
	}
	return t.saveNote(r, &n)
}

// cancelRevoked ends a revoked task that its holder no longer holds.
func (t *tx) cancelRevoked(r *row) error {
	reason, keep := task.ReasonRevoked, time.Duration(0)
	_, err := t.one("revocation", func(s *sqlite3.Stmt) {
		reason, keep = s.ColumnText(1), time.Duration(s.ColumnInt64(2))
	}, r.seq)
	if err != nil {
		return err
	}
	return t.cancel(r, reason, keep)
}

// renewal is a renewal made ready outside the transaction.
type renewal struct {
	*broker.Renewal
	seq     int64
	lease   time.Duration
	refused error
}

func prepareRenewals(batch []broker.Renewal) []renewal {
	list := make([]renewal, len(batch))
	for i := range batch {
		r := renewal{Renewal: &batch[i]}
		var err error
		if r.seq, r.lease, err = parseToken(batch[i].Receipt.Token); err != nil {
			r.refused = fmt.Errorf("%w: the receipt is of another store", broker.ErrLeaseLost)
		}
		if batch[i].Extend > 0 {
			r.lease = batch[i].Extend
		}
		list[i] = r
	}
	return list
}

// renew extends a lease, which one that ended may still be while nobody took
// the task.
func (t *tx) renew(v *renewal) (refused, err error) {
	if v.refused != nil {
		return v.refused, nil
	}
	var r row
	found, err := t.bySeq(v.seq, &r)
	if err != nil {
		return nil, err
	}
	if !found || r.id != v.Receipt.ID || !r.held(v.Receipt.Epoch) {
		return broker.ErrLeaseLost, nil
	}
	r.flags &^= flagLapsed
	first := v.Start && !r.has(flagStarted)
	if first {
		r.starts++
		r.flags |= flagStarted
		r.phase = phaseOf(task.Running)
	}
	if first || v.Progress != nil {
		t.touched(r.id)
		if err := t.noteStart(&r, v, first); err != nil {
			return nil, err
		}
	}
	return nil, t.move(&r, leased, t.now+max(v.lease.Milliseconds(), 1))
}

// noteStart writes down the first start of a lease, or progress.
func (t *tx) noteStart(r *row, v *renewal, first bool) error {
	n, err := t.note(r)
	if err != nil {
		return err
	}
	if first {
		n.started, n.worker, n.progress = t.now*1000, r.worker, nil
		if v.Worker != "" {
			if n.worker, err = t.workerID(v.Worker); err != nil {
				return err
			}
			r.worker = n.worker
		}
	}
	if err := n.setProgress(v.Progress); err != nil {
		return err
	}
	return t.saveNote(r, &n)
}
