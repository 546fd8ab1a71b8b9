package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// The outcomes that a puller may settle with.
const (
	outcomeSucceeded = "succeeded"
	outcomeFailed    = "failed"
	outcomeRetry     = "retry"
	outcomeSnooze    = "snooze"
	outcomeRelease   = "release"
)

// check refuses what makes no sense: a field of another outcome would be lost
// without a word.
func (o *TaskOutcome) check() *Problem {
	failed := o.Outcome == outcomeFailed
	again := o.Outcome == outcomeRetry
	snooze := o.Outcome == outcomeSnooze
	for _, f := range []struct {
		name       string
		given, may bool
	}{
		{"result", o.Result != nil, o.Outcome == outcomeSucceeded},
		{"error", o.Error != nil, failed || again},
		{"permanent", o.Permanent, failed},
		{"reason", o.Reason != "", failed && o.Permanent},
		{"in", o.In != 0, again || snooze},
	} {
		if f.given && !f.may {
			return at(problem(invalidArgument, "it does not go with this outcome"), f.name)
		}
	}
	if !slices.Contains([]string{outcomeSucceeded, outcomeFailed, outcomeRetry, outcomeSnooze, outcomeRelease}, o.Outcome) {
		return at(problem(invalidArgument, "want succeeded, failed, retry, snooze or release, got %.40q", o.Outcome), "outcome")
	}
	if o.Reason != "" && (task.ValidateID(o.Reason) != nil) {
		return at(problem(invalidArgument, "want 1–%d of A-Z a-z 0-9 . _ : -", task.MaxIDLength), "reason")
	}
	if err := task.ValidateTime("startedAt", o.StartedAt); err != nil {
		return at(problem(invalidArgument, "%s", err), "startedAt")
	}
	return checkWorker(o.Worker)
}

func (s *Server) settle(c *call) (any, error) {
	body := bodyOf[SettleRequest](c)
	if p := checkCount(len(body.Tasks)); p != nil {
		return nil, p
	}
	if p := checkRequestID(body.RequestID); p != nil {
		return nil, p
	}
	receipts := make([]pullReceipt, len(body.Tasks))
	for i := range body.Tasks {
		p := body.Tasks[i].check()
		if p == nil {
			var err error
			if receipts[i], err = parsePullReceipt(body.Tasks[i].Receipt); err != nil {
				p = at(problem(invalidArgument, "%s", err), "receipt")
			}
		}
		if p != nil {
			return nil, at(at(p, strconv.Itoa(i)), "tasks")
		}
	}
	again := s.again(c, body.RequestID)
	return s.once(c, body.RequestID, func() (any, time.Time, error) {
		if answer, until, err := again.look(c.ctx()); answer != nil || err != nil {
			return answer, until, err
		}
		answer, err := s.settleAll(c.ctx(), receipts, body.Tasks)
		if err != nil || answer.passing() {
			return answer, time.Time{}, err // a repeat tries again
		}
		until := time.Now().Add(memoFor)
		if other, end, err := again.keep(c.ctx(), s, answer, until); other != nil || err != nil {
			return other, end, err // of the same settlement, made first
		}
		return answer, until, nil
	})
}

// passing says whether a task could not be settled for a reason that may pass.
func (a *SettleAnswer) passing() bool {
	return slices.ContainsFunc(a.Tasks, func(t Settled) bool { return t.Error != nil && t.Error.Status >= 500 })
}

func (s *Server) settleAll(ctx context.Context, receipts []pullReceipt, outcomes []TaskOutcome) (SettleAnswer, error) {
	answer := SettleAnswer{Tasks: make([]Settled, len(receipts))}
	batch := make([]broker.Settlement, 0, len(receipts))
	index := make([]int, 0, len(receipts))
	ds := make([]*broker.Delivery, 0, len(receipts))
	now := time.Now()
	for i := range receipts {
		answer.Tasks[i].ID = receipts[i].ID
		d, st, err := s.settlement(ctx, receipts[i], &outcomes[i], now)
		if err != nil {
			answer.Tasks[i].Error = problemOf(err)
			continue
		}
		batch, index, ds = append(batch, st), append(index, i), append(ds, d)
	}
	if len(batch) == 0 {
		return answer, nil
	}
	// What is given back though somebody asked that it stops is cancelled.
	var back []broker.Receipt
	for i := range batch {
		if !batch[i].Outcome.State.Terminal() {
			back = append(back, batch[i].Receipt)
		}
	}
	revoked := map[broker.Receipt]bool{}
	if len(back) > 0 {
		revoked = s.revoked(ctx, back, false)
	}
	errs, err := s.client.Broker().Settle(ctx, batch)
	if err != nil {
		return answer, fmt.Errorf("settle %d tasks: %w", len(batch), err)
	}
	over := make([]broker.Receipt, 0, len(batch))
	for k, i := range index {
		if s.settled(ctx, &answer.Tasks[i], ds[k], &batch[k], revoked[batch[k].Receipt], errs[k]) {
			over = append(over, batch[k].Receipt)
		}
	}
	s.pullers.settled(over...)
	return answer, nil
}

// settled fills in the answer for one settlement, and says whether the lease
// is over.
func (s *Server) settled(ctx context.Context, a *Settled, d *broker.Delivery, st *broker.Settlement, revoked bool, err error) (over bool) {
	o := st.Outcome
	if err == nil {
		if revoked {
			o.State, o.Reason = task.Cancelled, task.ReasonRevoked // so the broker has it
		}
		s.tally.Ended(d, &o)
		a.OK, a.State = true, string(o.State)
		return true
	}
	if errors.Is(err, broker.ErrLeaseLost) {
		// The first of two equal requests may have got there, and its answer lost.
		if status, gerr := s.client.Get(ctx, st.Receipt.ID); gerr == nil && sameOutcome(&status, st) {
			a.OK, a.Repeated, a.State = true, true, string(status.State)
			return true
		}
	}
	a.Error = problemOf(err)
	if !errors.Is(err, broker.ErrLeaseLost) {
		return false
	}
	s.pullers.lose(d)
	return true
}

// sameOutcome says whether the status is what this settlement would have made
// of the task.
func sameOutcome(s *stem.Status, st *broker.Settlement) bool {
	if s.Epoch != st.Receipt.Epoch {
		return false
	}
	return s.State == st.Outcome.State || s.State == task.Cancelled && !st.Outcome.State.Terminal()
}

// settlement judges an outcome by the rules that a worker has.
func (s *Server) settlement(ctx context.Context, r pullReceipt, o *TaskOutcome, now time.Time) (d *broker.Delivery, st broker.Settlement, err error) {
	d, worker, started, err := s.delivery(ctx, r)
	if err != nil {
		return nil, st, err
	}
	if o.Worker != "" {
		worker = o.Worker
	}
	if !o.StartedAt.IsZero() {
		started = o.StartedAt
	}
	e := s.pullers.elsewhere(worker)
	e.Task = s.tasks.task(d.Envelope.Name)
	switch o.Outcome {
	case outcomeSucceeded:
		result := o.Result
		if result == nil {
			result = json.RawMessage("null")
		}
		if result, err = s.client.EncodeResult(d.Envelope, result); err != nil {
			return d, e.Failed(d, started, &runner.ResultError{Reason: task.ReasonResultInvalid, Err: err}, now), nil
		}
		return d, e.Succeeded(d, started, result, now), nil
	case outcomeRelease:
		return d, e.GivenBack(d, now), nil
	case outcomeSnooze:
		return d, e.Failed(d, started, &runner.SnoozeError{In: time.Duration(o.In)}, now), nil
	}
	cause := o.cause()
	switch {
	case o.Permanent:
		cause = &runner.PermanentError{Err: cause, Reason: o.Reason}
	case o.Outcome == outcomeRetry:
		cause = &runner.RetryError{Err: cause, In: time.Duration(o.In)}
	}
	return d, e.Failed(d, started, cause, now), nil
}

func (o *TaskOutcome) cause() error {
	if o.Error == nil {
		return &runner.RemoteError{Message: "the worker gave no error"}
	}
	return &runner.RemoteError{Type: o.Error.Type, Message: o.Error.Message, Stack: o.Error.Stack}
}

// delivery is what was leased: as this server remembers it, or as far as the
// receipt and the status tell.
func (s *Server) delivery(ctx context.Context, r pullReceipt) (d *broker.Delivery, worker string, started time.Time, err error) {
	if g, _ := s.pullers.find(r.Receipt); g != nil {
		return &g.delivery, g.worker, g.started, nil
	}
	d = &broker.Delivery{
		Receipt: r.Receipt, Attempt: r.attempt, RetryBase: r.base,
		Envelope: &task.Envelope{ID: r.ID, MaxRetries: r.maxRetries},
	}
	status, err := s.client.Get(ctx, r.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, "", started, fmt.Errorf("task %s: %w", r.ID, broker.ErrLeaseLost)
	case errors.Is(err, stem.ErrNoResults) && !r.meta:
		return d, defaultName, time.Now(), nil
	case err != nil:
		return nil, "", started, err
	}
	d.Queue = status.Queue
	d.Envelope.Name, d.Envelope.Meta = status.Name, status.Meta
	d.Envelope.EnqueuedAt, d.NotBefore = status.EnqueuedAt, status.NotBefore // for what is measured
	if raw := status.Meta[task.MetaEncoder]; raw != nil {
		var header string
		if err := json.Unmarshal(raw, &header); err != nil {
			return nil, "", started, fmt.Errorf("task %s: its encoder: %w", r.ID, err)
		}
		d.Envelope.Headers = map[string]string{task.HeaderEncoder: header}
	}
	worker, started = status.Worker, status.StartedAt
	if started.IsZero() {
		started = time.Now()
	}
	return d, worker, started, nil
}
