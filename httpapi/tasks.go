package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

const (
	maxBatch       = 10_000 // tasks of one request
	idempotencyTTL = 24 * time.Hour
	maxKey         = 256 // bytes of an Idempotency-Key
	maxLinkDepth   = 8   // onSuccess within onSuccess
)

// declared are the tasks whose declarations the server knows, by all their
// names.
type declared map[string]stem.Registration

func declare(tasks []stem.Registration) declared {
	d := declared{}
	for _, t := range tasks {
		d[t.Name()] = t
		for _, alias := range t.Info().Aliases {
			d[alias] = t
		}
	}
	return d
}

// task is what a worker would know of a task; nil: nothing is declared.
func (d declared) task(name string) *runner.Task {
	t, ok := d[name]
	if !ok {
		return nil
	}
	info := t.Info()
	return &runner.Task{Name: info.Name, Retry: runner.Retry(info.Retry), MaxRetries: info.MaxRetries}
}

// item makes what the client enqueues of a task of the API. What the request
// leaves open is as in the task's declaration, if there is one.
func (d declared) item(n *NewTask, key string, depth int) (stem.Item, *Problem) {
	opts, p := n.options(key)
	if p != nil {
		return stem.Item{}, p
	}
	for _, links := range []struct {
		name  string
		tasks []NewTask
		link  func(...stem.Item) stem.Option
	}{{"onSuccess", n.OnSuccess, stem.Link}, {"onFailure", n.OnFailure, stem.LinkError}} {
		if len(links.tasks) > 0 && depth == maxLinkDepth {
			return stem.Item{}, at(problem(invalidArgument, "links are nested more than %d deep", maxLinkDepth), links.name)
		}
		for i := range links.tasks {
			item, p := d.item(&links.tasks[i], "", depth+1)
			if p != nil {
				return item, at(at(p, strconv.Itoa(i)), links.name)
			}
			opts = append(opts, links.link(item))
		}
	}
	if t, ok := d[n.Name]; ok {
		return t.Item(n.Args, opts...), nil
	}
	return stem.NewItem(n.Name, n.Args, opts...), nil
}

// options are the task's options but for its links. key is the request's
// idempotency key.
func (n *NewTask) options(key string) ([]stem.Option, *Problem) {
	opts := make([]stem.Option, 0, 8)
	add := func(given bool, o func() stem.Option) {
		if given {
			opts = append(opts, o())
		}
	}
	switch {
	case n.In > 0 && !n.At.IsZero():
		return nil, at(problem(invalidArgument, "give in or at, not both"), "at")
	case n.ExpiresIn > 0 && !n.ExpiresAt.IsZero():
		return nil, at(problem(invalidArgument, "give expiresIn or expiresAt, not both"), "expiresAt")
	case n.IdempotencyTTL > 0 && n.IdempotencyKey == "":
		return nil, at(problem(invalidArgument, "there is no idempotencyKey"), "idempotencyTtl")
	case n.Root != "" && n.Parent == "":
		return nil, at(problem(invalidArgument, "there is no parent"), "root")
	case key != "" && n.IdempotencyKey != "":
		return nil, at(problem(invalidArgument, "give it here or as the header Idempotency-Key, not both"), "idempotencyKey")
	}
	ttl := idempotencyTTL
	if n.IdempotencyTTL > 0 {
		ttl = time.Duration(n.IdempotencyTTL)
	}
	if key == "" {
		key = n.IdempotencyKey
	}
	add(n.Parent != "", func() stem.Option { return stem.ChildOf(n.Parent, n.Root) })
	add(n.ID != "", func() stem.Option { return stem.ID(n.ID) })
	add(n.Queue != "", func() stem.Option { return stem.Queue(n.Queue) })
	add(n.In > 0, func() stem.Option { return stem.In(time.Duration(n.In)) })
	add(!n.At.IsZero(), func() stem.Option { return stem.At(n.At) })
	add(n.ExpiresIn > 0, func() stem.Option { return stem.ExpiresIn(time.Duration(n.ExpiresIn)) })
	add(!n.ExpiresAt.IsZero(), func() stem.Option { return stem.ExpiresAt(n.ExpiresAt) })
	add(n.Priority != nil, func() stem.Option { return stem.Priority(*n.Priority) })
	add(n.MaxRetries != nil, func() stem.Option { return stem.MaxRetries(*n.MaxRetries) })
	add(n.VisibilityTimeout > 0, func() stem.Option { return stem.VisibilityTimeout(time.Duration(n.VisibilityTimeout)) })
	add(n.Retention != nil, func() stem.Option { return stem.Retention(time.Duration(*n.Retention)) })
	add(n.IgnoreResult, stem.IgnoreResult)
	add(n.KeepArgs != nil, func() stem.Option { return stem.KeepArgs(*n.KeepArgs) })
	add(n.Encoders != nil, func() stem.Option { return stem.Encoder(n.Encoders...) })
	add(key != "", func() stem.Option { return stem.Idempotency(key, ttl) })
	for k, v := range n.Headers {
		opts = append(opts, stem.Header(k, v))
	}
	for k, v := range n.Meta {
		opts = append(opts, stem.Meta(k, v))
	}
	return opts, nil
}

// idempotencyKey is the request's, "" when it has none.
func (c *call) idempotencyKey() (string, *Problem) {
	values := c.r.Header["Idempotency-Key"]
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	bad := len(values) > 1 || key == "" || len(key) > maxKey
	for _, b := range []byte(key) {
		bad = bad || b < ' ' || b > '~'
	}
	if bad {
		return "", wrong("Idempotency-Key", "want one key of 1–%d printable ASCII characters", maxKey)
	}
	return key, nil
}

func (s *Server) postTask(c *call) (any, error) {
	key, p := c.idempotencyKey()
	if p != nil {
		return nil, p
	}
	body := bodyOf[NewTask](c)
	c.traceInto(body)
	item, p := s.tasks.item(body, key, 0)
	if p != nil {
		return nil, p
	}
	receipts, err := s.client.EnqueueMany(c.ctx(), []stem.Item{item})
	if len(receipts) == 1 && receipts[0].Err != nil {
		err = receipts[0].Err
	}
	if err != nil {
		p := c.refusal(err)
		if len(receipts) == 1 {
			p.ID = receipts[0].ID
		}
		return nil, p
	}
	r := receipts[0]
	if r.Duplicate {
		c.status = http.StatusOK
	}
	c.Header()["Location"] = []string{"/v1/tasks/" + r.ID}
	return Enqueued{ID: r.ID, Duplicate: r.Duplicate}, nil
}

func (s *Server) postBatch(c *call) (any, error) {
	key, p := c.idempotencyKey()
	if p != nil {
		return nil, p
	}
	body := bodyOf[NewTasks](c)
	if len(body.Tasks) == 0 || len(body.Tasks) > maxBatch {
		return nil, at(problem(invalidArgument, "want 1 to %d tasks, got %d", maxBatch, len(body.Tasks)), "tasks")
	}
	items := make([]stem.Item, len(body.Tasks))
	for i := range body.Tasks {
		itemKey := ""
		if key != "" {
			itemKey = key + "#" + strconv.Itoa(i)
		}
		c.traceInto(&body.Tasks[i])
		if items[i], p = s.tasks.item(&body.Tasks[i], itemKey, 0); p != nil {
			return nil, at(at(p, strconv.Itoa(i)), "tasks")
		}
	}
	receipts, err := s.client.EnqueueMany(c.ctx(), items)
	if err != nil {
		return nil, err
	}
	answer := EnqueuedMany{Tasks: make([]Enqueued, len(receipts))}
	for i, r := range receipts {
		answer.Tasks[i] = Enqueued{ID: r.ID, Duplicate: r.Duplicate}
		if r.Err != nil {
			answer.Tasks[i].Error = c.refusal(r.Err)
		}
	}
	return answer, nil
}

// refusal is the problem of a task that was not enqueued. Whoever may not look
// at tasks learns that the id is in use, and nothing of who has it.
func (c *call) refusal(err error) *Problem {
	p := problemOf(err)
	if c.token != nil && !c.token.may(Read) {
		p.Task = nil
	}
	return p
}

// taskID is the path's task id.
func (c *call) taskID() (string, *Problem) {
	id := c.r.PathValue("id")
	if err := task.ValidateID(id); err != nil {
		return "", wrong("id", "%s", err)
	}
	return id, nil
}

func (s *Server) getTask(c *call) (any, error) {
	id, p := c.taskID()
	if p != nil {
		return nil, p
	}
	return s.client.Get(c.ctx(), id)
}

// Bounds of a wait.
const (
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second
)

func (s *Server) waitTask(c *call) (any, error) {
	id, p := c.taskID()
	if p != nil {
		return nil, p
	}
	timeout, p := c.duration("timeout", defaultWait, maxWait)
	if p != nil {
		return nil, p
	}
	ctx, cancel := context.WithTimeout(c.ctx(), timeout)
	defer cancel()
	defer context.AfterFunc(s.stop, cancel)()
	last, seen := stem.Status{}, false
	for status, err := range s.client.Watch(ctx, id) {
		switch {
		case err == nil:
			last, seen = status, true
		case ctx.Err() == nil:
			return nil, err
		}
	}
	if !seen {
		var err error
		if last, err = s.client.Get(c.ctx(), id); err != nil {
			return nil, err
		}
	}
	if !last.State.Terminal() {
		c.status = http.StatusAccepted
	}
	return last, nil
}

func (s *Server) listTasks(c *call) (any, error) {
	q, p := c.taskQuery(time.Now())
	if p != nil {
		return nil, p
	}
	l, err := s.client.List(c.ctx(), q)
	if err != nil {
		return nil, err
	}
	return TaskList{Tasks: list(l.Statuses), Cursor: l.Cursor, Looked: l.Looked, Truncated: l.Truncated}, nil
}

// list makes an empty list of none, which JSON would call null.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func (s *Server) revokeTask(c *call) (any, error) {
	id, p := c.taskID()
	if p != nil {
		return nil, p
	}
	body := bodyOf[RevokeRequest](c)
	if len(body.Reason) > 200 {
		return nil, at(problem(invalidArgument, "want 200 bytes at most"), "reason")
	}
	answers, err := s.client.Revoke(c.ctx(), stem.RevokeOptions{Terminate: body.Terminate, Reason: body.Reason}, id)
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 {
		return nil, errors.New("revoke: the broker gave no answer")
	}
	states := []string{"cancelled", "asked", "too-late"}
	n := slices.Index([]broker.RevokeState{broker.RevokeCancelled, broker.RevokeAsked, broker.RevokeTooLate}, answers[0].State)
	if n < 0 {
		return nil, problem(notFound, "no such task is known")
	}
	return Revoked{ID: id, State: states[n], Worker: answers[0].Worker}, nil
}
