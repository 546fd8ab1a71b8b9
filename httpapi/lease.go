package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Bounds of the pull API.
const (
	maxQueues    = 100
	maxPull      = 1000 // tasks of one request
	maxLeaseWait = 30 * time.Second
	minLease     = time.Second
	maxLease     = 12 * time.Hour
	defaultName  = "pull" // of a puller that gives none
)

func (b *LeaseRequest) check() *Problem {
	if len(b.Queues) == 0 || len(b.Queues) > maxQueues {
		return at(problem(invalidArgument, "want 1 to %d queues", maxQueues), "queues")
	}
	for i, q := range b.Queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q, "*", "x")); err != nil {
			return at(at(problem(invalidArgument, "%s", err), strconv.Itoa(i)), "queues")
		}
	}
	switch {
	case b.Count < 0 || b.Count > maxPull:
		return at(problem(invalidArgument, "want 1 to %d", maxPull), "count")
	case time.Duration(b.Wait) > maxLeaseWait:
		return at(problem(invalidArgument, "want %s at most", maxLeaseWait), "wait")
	}
	if p := checkWorker(b.Worker); p != nil {
		return p
	}
	if p := checkLease(b.Lease); p != nil {
		return p
	}
	return checkRequestID(b.RequestID)
}

func checkWorker(worker string) *Problem {
	if worker != "" && task.ValidateID(worker) != nil {
		return at(problem(invalidArgument, "want 1–%d of A-Z a-z 0-9 . _ : -", task.MaxIDLength), "worker")
	}
	return nil
}

func checkLease(d Duration) *Problem {
	if d != 0 && (time.Duration(d) < minLease || time.Duration(d) > maxLease) {
		return at(problem(invalidArgument, "want %s to %s", minLease, maxLease), "lease")
	}
	return nil
}

func checkRequestID(id string) *Problem {
	if id != "" && task.ValidateID(id) != nil {
		return at(problem(invalidArgument, "want 1–%d of A-Z a-z 0-9 . _ : -", task.MaxIDLength), "requestId")
	}
	return nil
}

// once answers a request, or repeats the answer of an earlier one with the
// same requestId.
func (s *Server) once(c *call, id string, fn func() (any, time.Time, error)) (any, error) {
	if id == "" {
		answer, _, err := fn()
		return answer, err
	}
	return s.answers.do(c.ctx(), memoKey(c, id), c.raw, fn)
}

// memoKey is a requestId with what it belongs to.
func memoKey(c *call, id string) string { return c.route.path + " " + c.tokenName() + " " + id }

func (s *Server) lease(c *call) (any, error) {
	body := bodyOf[LeaseRequest](c)
	if p := body.check(); p != nil {
		return nil, p
	}
	again := s.again(c, body.RequestID)
	return s.once(c, body.RequestID, func() (any, time.Time, error) {
		if answer, until, err := again.look(c.ctx()); answer != nil || err != nil {
			return answer, until, err
		}
		gs, err := s.pull(c.ctx(), body)
		switch {
		case err != nil:
			return nil, time.Time{}, err
		case c.ctx().Err() != nil && body.RequestID == "":
			// Nobody is there to take them, and nobody can ask for them again.
			s.pullers.giveBack(c.ctx(), gs)
			return nil, time.Time{}, fmt.Errorf("the client has gone: %w", c.ctx().Err())
		}
		answer, until := leaseAnswer(gs)
		if len(gs) == 0 { // another server may have got some for the same request
			if other, until, err := again.look(c.ctx()); other != nil || err != nil {
				return other, until, err
			}
			return answer, until, nil
		}
		if other, end, err := again.keep(c.ctx(), s, answer, until); other != nil || err != nil {
			s.pullers.giveBack(c.ctx(), gs)
			return other, end, err
		}
		return answer, until, nil
	})
}

// pull takes tasks, after the wait that is asked for if need be.
func (s *Server) pull(ctx context.Context, b *LeaseRequest) ([]*given, error) {
	d := &demand{
		worker: b.Worker, count: max(b.Count, 1), lease: time.Duration(b.Lease), once: b.Wait == 0,
		out: make(chan struct{}),
	}
	if d.worker == "" {
		d.worker = defaultName
	}
	l, p := s.pullers.ask(b.Queues, d)
	if p != nil {
		return nil, p
	}
	if d.once {
		<-d.out
		return d.got, d.err
	}
	timer := time.NewTimer(time.Duration(b.Wait))
	defer timer.Stop()
	select {
	case <-d.out:
	case <-timer.C:
		s.pullers.withdraw(l, d)
	case <-ctx.Done():
		s.pullers.withdraw(l, d)
	}
	return d.got, d.err
}

// leaseAnswer is what the puller gets, and until when all of it holds.
func leaseAnswer(gs []*given) (LeaseAnswer, time.Time) {
	answer := LeaseAnswer{Tasks: make([]Leased, len(gs))}
	var until time.Time
	for i, g := range gs {
		d := &g.delivery
		e := d.Envelope
		answer.Tasks[i] = Leased{
			Receipt: receiptOf(d).String(), ID: e.ID, Name: e.Name, Args: e.Args, Queue: d.Queue,
			Priority: e.Priority, Attempt: d.Attempt, MaxRetries: e.MaxRetries, Redelivered: d.Redelivered,
			EnqueuedAt: e.EnqueuedAt, LeasedUntil: g.until.UTC().Truncate(time.Millisecond),
			LeaseMS: g.lease.Milliseconds(), Headers: e.Headers, Root: rootOf(e),
		}
		if until.IsZero() || g.until.Before(until) {
			until = g.until
		}
	}
	return answer, until
}

// rootOf is the first task of the line that led to this one.
func rootOf(e *task.Envelope) string {
	var root string
	if raw := e.Meta[task.MetaRoot]; raw != nil && json.Unmarshal(raw, &root) == nil && root != "" {
		return root
	}
	return e.ID
}

func (s *Server) extend(c *call) (any, error) {
	body := bodyOf[ExtendRequest](c)
	if p := checkCount(len(body.Tasks)); p != nil {
		return nil, p
	}
	if p := checkRequestID(body.RequestID); p != nil {
		return nil, p
	}
	batch := make([]broker.Renewal, len(body.Tasks))
	for i := range body.Tasks {
		var p *Problem
		if batch[i], p = s.renewal(&body.Tasks[i]); p != nil {
			return nil, at(at(p, strconv.Itoa(i)), "tasks")
		}
	}
	return s.once(c, body.RequestID, func() (any, time.Time, error) {
		answer, err := s.renew(c.ctx(), batch)
		if err != nil || answer.passing() {
			return answer, time.Time{}, err // a repeat tries again
		}
		return answer, time.Now().Add(memoFor), nil
	})
}

// passing says whether a lease could not be kept for a reason that may pass.
func (a *ExtendAnswer) passing() bool {
	return slices.ContainsFunc(a.Tasks, func(t Extended) bool { return t.Error != nil && t.Error.Status >= 500 })
}

func checkCount(n int) *Problem {
	if n == 0 || n > maxPull {
		return at(problem(invalidArgument, "want 1 to %d tasks, got %d", maxPull, n), "tasks")
	}
	return nil
}

func (s *Server) renewal(x *Extension) (broker.Renewal, *Problem) {
	r, err := parsePullReceipt(x.Receipt)
	if err != nil {
		return broker.Renewal{}, at(problem(invalidArgument, "%s", err), "receipt")
	}
	if p := checkLease(x.Lease); p != nil {
		return broker.Renewal{}, p
	}
	rn := broker.Renewal{Receipt: r.Receipt, Extend: time.Duration(x.Lease)}
	if g, _ := s.pullers.find(r.Receipt); g != nil {
		rn.Worker = g.worker
		if rn.Extend == 0 {
			rn.Extend = g.lease
		}
	}
	if x.Progress != nil {
		if !(x.Progress.Percent >= 0 && x.Progress.Percent <= 100) {
			return rn, at(at(problem(invalidArgument, "want 0 to 100"), "percent"), "progress")
		}
		rn.Progress = &task.Progress{Percent: x.Progress.Percent, Data: x.Progress.Data, At: time.Now().UTC()}
	}
	return rn, nil
}

func (s *Server) renew(ctx context.Context, batch []broker.Renewal) (ExtendAnswer, error) {
	began := time.Now()
	errs, err := s.client.Broker().Renew(ctx, batch)
	if err != nil {
		return ExtendAnswer{}, fmt.Errorf("extend %d leases: %w", len(batch), err)
	}
	receipts := make([]broker.Receipt, len(batch))
	for i, rn := range batch {
		receipts[i] = rn.Receipt
	}
	revoked := s.revoked(ctx, receipts, true)
	answer := ExtendAnswer{Tasks: make([]Extended, len(batch))}
	extended := 0
	for i, rn := range batch {
		answer.Tasks[i] = Extended{ID: rn.Receipt.ID, OK: errs[i] == nil, Revoked: revoked[rn.Receipt]}
		if errs[i] != nil {
			answer.Tasks[i].Error = problemOf(errs[i])
			if g, _ := s.pullers.find(rn.Receipt); g != nil && errors.Is(errs[i], broker.ErrLeaseLost) {
				s.pullers.lose(&g.delivery)
			}
			continue
		}
		extended++
		if rn.Extend > 0 {
			s.pullers.extended(rn.Receipt, began.Add(rn.Extend))
		}
	}
	s.tally.Renewed(extended)
	return answer, nil
}

// revoked says which of the leased tasks somebody asked to stop, or only those
// that are to stop even when they run: as this server's consumers were told, and,
// whichever server leased them, as the store says.
func (s *Server) revoked(ctx context.Context, rs []broker.Receipt, running bool) map[broker.Receipt]bool {
	revoked := map[broker.Receipt]bool{}
	for _, r := range rs {
		if _, told := s.pullers.find(r); told {
			revoked[r] = true
		}
	}
	teller, ok := broker.As[broker.RevocationTeller](s.client.Broker())
	if !ok {
		return revoked
	}
	news, err := teller.RevokedOf(ctx, rs...)
	if err != nil { // the next request asks again
		s.opts.Logger.WarnContext(ctx, "cannot read revocations", "error", err)
	}
	for _, n := range news {
		if n.Terminate || !running {
			revoked[n.Receipt] = true
		}
	}
	return revoked
}
