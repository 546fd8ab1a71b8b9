package stem

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// A batch of EnqueueMany is stored in chunks of at most so much.
const (
	maxPublishCount = 1000
	maxPublishBytes = 4 << 20
)

// EnqueueMany stores any mixture of items, in chunks by count and bytes, each
// item with its own outcome. The error means that nothing is known to be
// stored; the receipts then still have the ids, with which repeating is safe.
func (c *Client) EnqueueMany(ctx context.Context, items []Item) ([]Receipt, error) {
	if len(items) == 0 {
		return nil, nil
	}
	return c.enqueue(ctx, items)
}

// store is the innermost EnqueueFunc.
func (c *Client) store(ctx context.Context, items []Item) ([]Receipt, error) {
	if p, ok := ctx.Value(preparationKey{}).(*preparation); ok {
		return p.fill(ctx, c, items), nil
	}
	ctx, span := c.trace(ctx, items)
	var receipts []Receipt
	var err error
	if len(items) == 1 {
		receipts, err = c.storeOne(ctx, &items[0], span)
	} else {
		receipts, err = c.storeAll(ctx, items)
	}
	span.end(receipts, err)
	return receipts, err
}

// storeOne shares a round trip with concurrent callers.
func (c *Client) storeOne(ctx context.Context, item *Item, span *enqueueSpan) ([]Receipt, error) {
	p, size, err := c.publication(ctx, item, time.Now())
	receipts := []Receipt{{ID: p.Envelope.ID, Err: err}}
	if err != nil {
		return receipts, nil
	}
	span.describe(p.Envelope)
	outcome, sent, err := c.flush.Do(ctx, p, size)
	switch {
	case err == nil:
		c.answer(ctx, &receipts[0], &p, outcome)
		return receipts, nil
	case sent:
		err = fmt.Errorf("enqueue task %s: %w: %w", p.Envelope.ID, ErrOutcomeUnknown, err)
	default:
		err = fmt.Errorf("enqueue task %s: %w", p.Envelope.ID, err)
	}
	receipts[0].Err = err
	return receipts, err
}

func (c *Client) storeAll(ctx context.Context, items []Item) ([]Receipt, error) {
	receipts := make([]Receipt, len(items))
	batch := make([]broker.Publication, 0, len(items))
	index := make([]int, 0, len(items)) // of the item that each publication is made of
	sizes := make([]int, 0, len(items))
	now := time.Now()
	for i := range items {
		p, size, err := c.publication(ctx, &items[i], now)
		receipts[i] = Receipt{ID: p.Envelope.ID, Err: err}
		if err == nil {
			batch, index, sizes = append(batch, p), append(index, i), append(sizes, size)
		}
	}
	known, failure := 0, error(nil)
	for len(batch) > 0 {
		n := chunk(sizes)
		outcomes, err := c.publish(ctx, batch[:n])
		for k, i := range index[:n] {
			if err != nil {
				receipts[i].Err = err
				continue
			}
			c.answer(ctx, &receipts[i], &batch[k], outcomes[k])
		}
		if err != nil {
			failure = err
		} else {
			known += n
		}
		batch, index, sizes = batch[n:], index[n:], sizes[n:]
	}
	if known > 0 {
		return receipts, nil
	}
	return receipts, failure
}

// chunk is how many publications of those sizes go with one call.
func chunk(sizes []int) int {
	bytes := 0
	for i, size := range sizes {
		if bytes += size; i == maxPublishCount || i > 0 && bytes > maxPublishBytes {
			return i
		}
	}
	return len(sizes)
}

// publish stores a chunk.
func (c *Client) publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	outcomes, err := c.send(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("enqueue %d tasks: %w: %w", len(batch), ErrOutcomeUnknown, err)
	}
	return outcomes, nil
}

// send is the call to the broker, timed and counted where anybody wants that.
func (c *Client) send(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	if c.opts.Meter == measure.None {
		return c.broker.Publish(ctx, batch)
	}
	began := time.Now()
	outcomes, err := c.broker.Publish(ctx, batch)
	c.calls.took.Observe(time.Since(began).Seconds())
	if err != nil {
		c.calls.failed.Add(1)
	}
	return outcomes, err
}

// callMarks holds the metric handles of calls to publish.
type callMarks struct {
	took   measure.Histogram
	failed measure.Counter
}

func newCallMarks(m measure.Meter, backend string) callMarks {
	const operation = "publish"
	return callMarks{m.Histogram(measure.BrokerRoundtrip, backend, operation), m.Counter(measure.BrokerErrors, backend, operation)}
}

// answer turns the broker's outcome into the caller's.
func (c *Client) answer(ctx context.Context, r *Receipt, p *broker.Publication, o broker.Outcome) {
	e := p.Envelope
	switch o.State {
	case broker.Stored:
		c.counters(e).enqueued.Add(1)
	case broker.Duplicate:
		c.counters(e).deduplicated.Add(1)
		r.ID, r.Duplicate = o.ExistingID, true
	case broker.Exists:
		exists := &TaskExistsError{ID: e.ID}
		if s, err := c.Get(ctx, e.ID); err == nil {
			exists.Status = &s
		}
		r.Err = exists
	case broker.Full:
		r.Err = fmt.Errorf("enqueue task %s on %s: %w", e.ID, e.Queue, ErrQueueFull)
	default:
		err := o.Err
		if err == nil {
			err = errors.New("refused by the broker")
		}
		r.Err = fmt.Errorf("enqueue task %s: %w", e.ID, err)
	}
}

type enqueueCounters struct{ enqueued, deduplicated measure.Counter }

// counters caches the metric handles of a task on a queue.
func (c *Client) counters(e *task.Envelope) *enqueueCounters {
	if c.opts.Meter == measure.None {
		return &c.silent
	}
	key := [2]string{e.Name, e.Queue}
	if v, ok := c.counts.Load(key); ok {
		return v.(*enqueueCounters)
	}
	counters := newEnqueueCounters(c.opts.Meter, e.Name, e.Queue)
	v, _ := c.counts.LoadOrStore(key, &counters)
	return v.(*enqueueCounters)
}

func newEnqueueCounters(m measure.Meter, name, queue string) enqueueCounters {
	return enqueueCounters{m.Counter(measure.TasksEnqueued, name, queue), m.Counter(measure.TasksDeduplicated, name, queue)}
}

// publication makes what is stored of an item, with its envelope's encoded size.
// The envelope has an id also when there is an error.
func (c *Client) publication(ctx context.Context, i *Item, now time.Time) (p broker.Publication, size int, err error) {
	o := cmp.Or(i.opts, &call{})
	e := &task.Envelope{
		ID: i.ID(), Name: i.name, Headers: o.headers,
		EnqueuedAt: now.UTC().Truncate(time.Millisecond),
		Priority:   task.DefaultPriority, MaxRetries: *c.opts.MaxRetries,
		VisibilityTimeout: o.lease, Queue: o.queue,
	}
	if e.ID == "" {
		e.ID = task.NewID()
	}
	p.Envelope = e
	if err := errors.Join(i.err, o.err); err != nil {
		return p, 0, err
	}
	if e.Queue == "" {
		e.Queue = c.opts.DefaultQueue
	}
	if o.priority != nil {
		e.Priority = *o.priority
	}
	if o.maxRetries != nil {
		e.MaxRetries = *o.maxRetries
	}
	o.moments(e, now)
	if o.claimKey != "" {
		p.Claims = []broker.Claim{{Key: "idempotency:" + o.claimKey, For: o.claimFor}}
	}
	if err := c.encodeArgs(e, i, o.encoders); err != nil {
		return p, 0, err
	}
	carry(ctx, e)
	if err := c.fillMeta(ctx, e, i, o, now); err != nil {
		return p, 0, err
	}
	if err := e.Validate(); err != nil {
		return p, 0, fmt.Errorf("enqueue %.80q: %w", i.name, err)
	}
	size = task.EncodedSize(e)
	if err := task.CheckSize(size, c.opts.MaxSize); err != nil {
		return p, 0, fmt.Errorf("enqueue %s: %w", i.name, err)
	}
	return p, size, nil
}

// moments sets when the task is due and when it expires.
func (c *call) moments(e *task.Envelope, now time.Time) {
	switch {
	case c.in > 0:
		e.NotBefore = now.Add(c.in)
	case c.at.After(now):
		e.NotBefore = c.at
	}
	e.ExpiresAt = c.expiresAt
	if c.expiresIn > 0 {
		e.ExpiresAt = now.Add(c.expiresIn)
	}
	e.NotBefore = wireTime(e.NotBefore)
	e.ExpiresAt = wireTime(e.ExpiresAt)
}

// wireTime rounds up to the wire's milliseconds, so that nothing is early.
func wireTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(time.Millisecond - 1).UTC().Truncate(time.Millisecond)
}

// encodeArgs sets the arguments, through the encoders that are asked for.
func (c *Client) encodeArgs(e *task.Envelope, i *Item, ids []string) error {
	e.Args = i.args
	if ids == nil {
		ids = c.opts.Encoding
	}
	if len(ids) == 0 || i.args == nil {
		return nil
	}
	args, header, err := c.codecs.Pack(ids, i.args)
	if err != nil {
		return fmt.Errorf("encode the arguments of %s: %w", i.name, err)
	}
	e.Args = args
	if header == "" {
		return nil
	}
	headers := make(map[string]string, len(e.Headers)+1)
	for k, v := range e.Headers {
		headers[k] = v
	}
	headers[task.HeaderEncoder] = header
	e.Headers = headers
	return nil
}

// unpackResult returns a status's result as plain JSON.
func (c *Client) unpackResult(s *Status) (json.RawMessage, error) {
	raw := s.Meta[task.MetaEncoder]
	if raw == nil || s.Result == nil || string(s.Result) == "null" {
		return s.Result, nil // a handler without a result: there was nothing to encode
	}
	var header string
	if err := json.Unmarshal(raw, &header); err != nil {
		return nil, fmt.Errorf("encoder of the result: %w", err)
	}
	return c.codecs.Unpack(header, s.Result)
}

func (c *Client) fillMeta(ctx context.Context, e *task.Envelope, i *Item, o *call, now time.Time) error {
	note := func(key string, value json.RawMessage) {
		if e.Meta == nil {
			e.Meta = make(map[string]json.RawMessage)
		}
		e.Meta[key] = value
	}
	if i.undeclared && o.maxRetries == nil {
		note(task.MetaRetriesUnsaid, json.RawMessage("true"))
	}
	if cur := Current(ctx); o.parent != "" {
		note(task.MetaParent, quote(o.parent))
		note(task.MetaRoot, quote(o.root))
	} else if cur.ID() != "" {
		note(task.MetaParent, quote(cur.ID()))
		note(task.MetaRoot, quote(cur.Root()))
	}
	if o.retention != nil {
		ms := int64(-1)
		if *o.retention != Forever {
			ms = o.retention.Milliseconds()
		}
		note(task.MetaRetention, json.RawMessage(fmt.Append(nil, ms)))
	}
	if o.ignoreResult {
		note(task.MetaIgnoreResult, json.RawMessage("true"))
	}
	if o.keepArgs != nil && !*o.keepArgs {
		note(task.MetaKeepArgs, json.RawMessage("false"))
	}
	if h := e.Headers[task.HeaderEncoder]; h != "" {
		note(task.MetaEncoder, quote(h))
	}
	if len(o.meta) > 0 {
		raw, err := json.Marshal(o.meta)
		if err != nil {
			return fmt.Errorf("enqueue %s: meta: %w", e.Name, err)
		}
		note(task.MetaUser, raw)
	}
	for _, l := range [...]struct {
		key   string
		items []Item
	}{{task.MetaLinks, o.links}, {task.MetaErrorLinks, o.errorLinks}} {
		if len(l.items) == 0 {
			continue
		}
		raw, err := c.encodeLinks(ctx, l.items, now)
		if err != nil {
			return fmt.Errorf("enqueue %s: link: %w", e.Name, err)
		}
		note(l.key, raw)
	}
	return nil
}

func quote(s string) json.RawMessage {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil // a string always encodes
	}
	return raw
}

// encodeLinks makes the envelopes of linked items: with ids, so that they are
// enqueued once however often the settlement is repeated.
func (c *Client) encodeLinks(ctx context.Context, items []Item, now time.Time) (json.RawMessage, error) {
	envelopes := make([]*task.Envelope, len(items))
	for i := range items {
		p, _, err := c.publication(ctx, &items[i], now)
		if err != nil {
			return nil, err
		}
		if len(p.Claims) > 0 {
			return nil, fmt.Errorf("%w option: an idempotency key on a linked task", task.ErrInvalid)
		}
		envelopes[i] = p.Envelope
	}
	return runner.EncodeLinks(envelopes...)
}
