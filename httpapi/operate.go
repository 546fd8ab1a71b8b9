package httpapi

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func (s *Server) listQueues(c *call) (any, error) {
	var names []string
	if text := c.query["name"]; text != "" {
		names = strings.Split(text, ",")
	}
	if len(names) > 1000 {
		return nil, wrong("name", "want 1000 names at most")
	}
	for _, name := range names {
		if err := task.ValidateQueue(name); err != nil {
			return nil, wrong("name", "%s", err)
		}
	}
	infos, err := s.client.Queues(c.ctx(), names...)
	if err != nil {
		return nil, err
	}
	answer := QueueList{Queues: make([]Queue, len(infos))}
	for i, q := range infos {
		answer.Queues[i] = Queue{
			Name: q.Name, Ready: q.Ready, Delayed: q.Delayed, Due: q.Due, Leased: q.Leased, Dead: q.Dead,
			OldestAgeSeconds: q.Oldest.Seconds(),
		}
	}
	return answer, nil
}

func (s *Server) queue(c *call, name string) (broker.QueueInfo, error) {
	infos, err := s.client.Queues(c.ctx(), name)
	if err != nil || len(infos) == 0 {
		return broker.QueueInfo{Name: name}, err
	}
	return infos[0], nil
}

func (s *Server) scale(c *call) (any, error) {
	name := c.query["queue"]
	if err := task.ValidateQueue(name); err != nil {
		return nil, wrong("queue", "%s", err)
	}
	q, err := s.queue(c, name)
	if err != nil {
		return nil, err
	}
	return Scale{
		Queue: name, Value: q.Ready + q.Due + q.Leased, Ready: q.Ready, Due: q.Due, Delayed: q.Delayed, Leased: q.Leased,
		OldestAgeSeconds: q.Oldest.Seconds(),
	}, nil
}

// confirmed is the problem of what would destroy without being asked to.
func confirmed(confirm, dryRun bool) *Problem {
	if confirm || dryRun {
		return nil
	}
	p := problem(confirmationMissing, `set "confirm": true to do it, or "dryRun": true to see how many it would be`)
	p.Pointer = "/confirm"
	return p
}

func (s *Server) purgeQueue(c *call) (any, error) {
	name, body := c.r.PathValue("queue"), bodyOf[QueuePurge](c)
	if err := task.ValidateQueue(name); err != nil {
		return nil, wrong("queue", "%s", err)
	}
	if p := confirmed(body.Confirm, body.DryRun); p != nil {
		return nil, p
	}
	if body.DryRun {
		q, err := s.queue(c, name)
		if err != nil {
			return nil, err
		}
		return Changed{Count: q.Ready + q.Delayed, DryRun: true, IDs: []string{}}, nil
	}
	n, err := s.client.PurgeQueue(c.ctx(), name)
	if err != nil {
		return nil, err
	}
	s.opts.Logger.InfoContext(c.ctx(), "queue purged", "queue", name, "count", n, "token", c.tokenName(), "request_id", c.id)
	return Changed{Count: n, IDs: []string{}}, nil
}

func (s *Server) listDead(c *call) (any, error) {
	f, page, p := c.deadQuery(time.Now())
	if p != nil {
		return nil, p
	}
	letters, next, err := s.client.DeadLetters(c.ctx(), f, page)
	if err != nil {
		return nil, err
	}
	answer := DeadList{DeadLetters: make([]DeadLetter, len(letters)), Cursor: next}
	for i := range letters {
		answer.DeadLetters[i] = deadLetter(&letters[i])
	}
	return answer, nil
}

func deadLetter(d *broker.DeadLetter) DeadLetter {
	e := d.Envelope
	return DeadLetter{
		ID: e.ID, Name: e.Name, Queue: d.Queue, Reason: d.Reason, Error: d.Error, Errors: list(d.Errors),
		Attempt: d.Attempt, MaxRetries: e.MaxRetries, Epoch: d.Epoch, EnqueuedAt: e.EnqueuedAt, DeadAt: d.DeadAt,
		ReplayCount: d.ReplayCount, LastReplayAt: d.LastReplayAt,
	}
}

func (s *Server) getDead(c *call) (any, error) {
	id, p := c.taskID()
	if p != nil {
		return nil, p
	}
	letters, _, err := s.client.DeadLetters(c.ctx(), broker.DeadFilter{IDs: []string{id}}, broker.Page{Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(letters) == 0 {
		return nil, problem(notFound, "no dead letter has the id %s", id)
	}
	d := deadLetter(&letters[0])
	if letters[0].Raw != nil {
		d.Raw = letters[0].Raw
		return d, nil
	}
	if d.Envelope, err = task.Encode(letters[0].Envelope); err != nil {
		return nil, fmt.Errorf("dead letter %s: %w", id, err)
	}
	return d, nil
}

// filter checks the body's filter.
func (f *DeadFilter) filter() (broker.DeadFilter, *Problem) {
	if len(f.IDs) > 1000 {
		return broker.DeadFilter{}, at(at(problem(invalidArgument, "want 1000 ids at most"), "ids"), "filter")
	}
	for i, id := range f.IDs {
		if err := task.ValidateID(id); err != nil {
			return broker.DeadFilter{}, at(at(at(problem(invalidArgument, "%s", err), strconv.Itoa(i)), "ids"), "filter")
		}
	}
	if f.IDs != nil && len(f.IDs) == 0 {
		return broker.DeadFilter{}, at(at(problem(invalidArgument, "no ids would be all of them: leave it out for that"), "ids"), "filter")
	}
	return broker.DeadFilter{Queue: f.Queue, IDs: f.IDs, Task: f.Task, Reason: f.Reason, Before: f.Before}, nil
}

func checkLimit(n int) *Problem {
	if n < 0 {
		return at(problem(invalidArgument, "want a number from 1, or none for all"), "limit")
	}
	return nil
}

func (s *Server) replayDead(c *call) (any, error) {
	body := bodyOf[DeadReplay](c)
	f, p := body.Filter.filter()
	if p == nil {
		p = checkLimit(body.Limit)
	}
	if p != nil {
		return nil, p
	}
	o := broker.ReplayOptions{Limit: body.Limit, DryRun: body.DryRun}
	if body.In > 0 {
		o.NotBefore = time.Now().Add(time.Duration(body.In))
		if err := task.ValidateTime("in", o.NotBefore); err != nil {
			return nil, at(problem(invalidArgument, "%s", err), "in")
		}
	}
	done, err := s.client.ReplayDeadLetters(c.ctx(), f, o)
	if err != nil {
		return nil, err
	}
	answer := Changed{Count: done.Count, DryRun: body.DryRun, IDs: make([]string, len(done.Entries))}
	for i, e := range done.Entries {
		answer.IDs[i] = e.ID
	}
	s.audit(c, "dead letters replayed", answer)
	return answer, nil
}

func (s *Server) purgeDead(c *call) (any, error) {
	body := bodyOf[DeadPurge](c)
	f, p := body.Filter.filter()
	if p == nil {
		p = checkLimit(body.Limit)
	}
	if p == nil {
		p = confirmed(body.Confirm, body.DryRun)
	}
	if p != nil {
		return nil, p
	}
	done, err := s.client.PurgeDeadLetters(c.ctx(), f, broker.PurgeOptions{Limit: body.Limit, DryRun: body.DryRun})
	if err != nil {
		return nil, err
	}
	answer := Changed{Count: done.Count, DryRun: body.DryRun, IDs: list(done.IDs)}
	s.audit(c, "dead letters purged", answer)
	return answer, nil
}

// audit logs what was changed, and by whom.
func (s *Server) audit(c *call, what string, done Changed) {
	if done.DryRun {
		return
	}
	s.opts.Logger.InfoContext(c.ctx(), what, "count", done.Count, "token", c.tokenName(), "request_id", c.id)
}
