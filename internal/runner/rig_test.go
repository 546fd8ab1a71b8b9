package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a runner on a memory backend, inside a synctest bubble.
type rig struct {
	t       *testing.T
	db      *memory.DB
	broker  *tap
	results store.Results
	tasks   map[string]*runner.Task
	cfg     runner.Config
	runner  *runner.Runner
	logs    *logs
	cancel  context.CancelFunc
	ended   chan error
}

// inBubble runs a test on the fake clock with a rig whose runner has not
// started. What the test leaves running is stopped, and the store checked.
func inBubble(t *testing.T, test func(t *testing.T, g *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		test(t, g)
		g.stop()
		if err := g.db.Check(context.Background()); err != nil {
			t.Errorf("the store is inconsistent: %v", err)
		}
		if err := g.db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
}

func newRig(t *testing.T) *rig {
	db := memory.New()
	g := &rig{t: t, db: db, results: db.Results(), tasks: map[string]*runner.Task{}, logs: &logs{}}
	g.broker = &tap{Broker: db.Broker()}
	g.cfg = runner.Config{
		Broker: g.broker, Lookup: func(name string) *runner.Task { return g.tasks[name] },
		ID: "w1", Queues: []runner.Queue{{Name: "default"}}, Concurrency: 4,
		Heartbeats: db.Heartbeats(), Logger: slog.New(slog.NewJSONHandler(g.logs, nil)),
	}
	return g
}

// handle registers a handler.
func (g *rig) handle(name string, h func(ctx context.Context, j *runner.Job) (json.RawMessage, error)) *runner.Task {
	t := &runner.Task{Name: name, Handle: h, Retry: runner.Retry{Jitter: -1}}
	g.tasks[name] = t
	return t
}

// noop registers a handler that succeeds at once.
func (g *rig) noop(name string) {
	g.handle(name, func(context.Context, *runner.Job) (json.RawMessage, error) { return nil, nil })
}

// start runs the runner until stop, or the end of the test.
func (g *rig) start() {
	g.t.Helper()
	r, err := runner.New(g.cfg)
	if err != nil {
		g.t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.runner, g.cancel, g.ended = r, cancel, make(chan error, 1)
	go func() { g.ended <- r.Run(ctx) }()
	synctest.Wait()
}

// stop drains the runner and waits for its end.
func (g *rig) stop() {
	g.t.Helper()
	if g.cancel == nil {
		return
	}
	g.cancel()
	g.wait()
}

// wait waits for the end of Run.
func (g *rig) wait() {
	g.t.Helper()
	if err := <-g.ended; err != nil {
		g.t.Errorf("Run: %v", err)
	}
	g.cancel()
	g.cancel = nil
}

// edit changes an envelope before it is published.
type edit func(e *task.Envelope)

// publish enqueues one task and returns its id.
func (g *rig) publish(name string, edits ...edit) string {
	g.t.Helper()
	e := &task.Envelope{
		ID: task.NewID(), Name: name, Args: json.RawMessage(`{}`), EnqueuedAt: time.Now(),
		Priority: task.DefaultPriority, MaxRetries: 3, Queue: "default",
	}
	for _, ed := range edits {
		ed(e)
	}
	out, err := g.broker.Publish(context.Background(), []broker.Publication{{Envelope: e}})
	if err != nil || out[0].State != broker.Stored {
		g.t.Fatalf("publishing %s: %+v, %v", name, out, err)
	}
	return e.ID
}

// status reads a task's status.
func (g *rig) status(id string) task.Status {
	g.t.Helper()
	found, err := g.results.Get(context.Background(), id)
	if err != nil {
		g.t.Fatalf("reading status: %v", err)
	}
	if found[0].Err != nil {
		g.t.Fatalf("status of %s: %v", id, found[0].Err)
	}
	return found[0].Status
}

// want checks a task's state and returns its status.
func (g *rig) want(id string, state task.State) task.Status {
	g.t.Helper()
	s := g.status(id)
	if s.State != state {
		g.t.Errorf("task %s (%s) is %s (reason %q, error %+v), want %s", id, s.Name, s.State, s.Reason, s.Error, state)
	}
	return s
}

func (g *rig) deadLetters() []broker.DeadLetter {
	g.t.Helper()
	dead, _, err := g.broker.DeadLetters().ListDeadLetters(context.Background(), broker.DeadFilter{}, broker.Page{})
	if err != nil {
		g.t.Fatalf("listing dead letters: %v", err)
	}
	return dead
}

// settle lets everything that can happen at this moment happen.
func settle() { synctest.Wait() }

// after lets d pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// tap is a broker whose traffic a test can watch, and make fail.
type tap struct {
	broker.Broker

	mu        sync.Mutex
	exchanges []exchange
	renewals  []broker.Renewal // of calls of their own
	fail      func() error     // asked before each exchange and renewal; nil error: let it through
	failAfter func() error     // asked after each exchange that succeeded
	refuse    func(broker.Settlement) error
	edit      func(*broker.Batch)
	deaf      bool // Wait returns by its timer alone

	wrap func(broker.Consumer) broker.Consumer // what a consumer becomes; nil: itself
}

// exchange is one recorded round trip.
type exchange struct {
	at    time.Time
	done  []broker.Settlement
	live  []broker.Renewal
	want  broker.Want
	batch broker.Batch
	err   error
}

func (b *tap) Unwrap() broker.Broker { return b.Broker }

func (b *tap) Open(ctx context.Context, s broker.Subscription) (broker.Consumer, error) {
	if err := b.failing(); err != nil {
		return nil, err
	}
	c, err := b.Broker.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	c = &tapped{Consumer: c, tap: b}
	if b.wrap != nil {
		c = b.wrap(c)
	}
	return c, nil
}

func (b *tap) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	if err := b.failing(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.renewals = append(b.renewals, batch...)
	b.mu.Unlock()
	return b.Broker.Renew(ctx, batch)
}

func (b *tap) failing() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail == nil {
		return nil
	}
	return b.fail()
}

// set changes the tap under its lock.
func (b *tap) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// log returns what was exchanged so far.
func (b *tap) log() []exchange {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.exchanges)
}

func (b *tap) ownRenewals() []broker.Renewal {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.renewals)
}

// starts lists the ids whose starts were reported with exchanges.
func (b *tap) starts() []string {
	var ids []string
	for _, x := range b.log() {
		for _, r := range x.live {
			if r.Start {
				ids = append(ids, r.Receipt.ID)
			}
		}
	}
	return ids
}

// settlements lists every settlement that an exchange carried.
func (b *tap) settlements() []broker.Settlement {
	var all []broker.Settlement
	for _, x := range b.log() {
		all = append(all, x.done...)
	}
	return all
}

type tapped struct {
	broker.Consumer
	tap *tap
}

func (c *tapped) Wait(ctx context.Context, atMost time.Duration) error {
	c.tap.mu.Lock()
	deaf := c.tap.deaf
	c.tap.mu.Unlock()
	if !deaf {
		return c.Consumer.Wait(ctx, atMost)
	}
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *tapped) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	x := exchange{at: time.Now(), done: slices.Clone(done), live: slices.Clone(live), want: want}
	x.want.Queues = slices.Clone(want.Queues)
	x.batch, x.err = c.exchange(ctx, done, live, want)
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	if c.tap.failAfter != nil && x.err == nil {
		x.err = c.tap.failAfter()
	}
	if c.tap.edit != nil {
		c.tap.edit(&x.batch)
	}
	c.tap.exchanges = append(c.tap.exchanges, x)
	return x.batch, x.err
}

func (c *tapped) exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	if err := c.tap.failing(); err != nil {
		return broker.Batch{}, err
	}
	c.tap.mu.Lock()
	refuse := c.tap.refuse
	c.tap.mu.Unlock()
	refused := make([]error, len(done))
	var rest []broker.Settlement
	for i, s := range done {
		if refuse != nil {
			refused[i] = refuse(s)
		}
		if refused[i] == nil {
			rest = append(rest, s)
		}
	}
	b, err := c.Consumer.Exchange(ctx, rest, live, want)
	if err != nil {
		return b, err
	}
	settled := make([]error, len(done))
	for i, k := 0, 0; i < len(done); i++ {
		if settled[i] = refused[i]; refused[i] == nil {
			settled[i] = b.Settled[k]
			k++
		}
	}
	b.Settled = settled
	return b, nil
}

// slowBroker's replies take their time.
type slowBroker struct {
	*tap
	took box[time.Duration]
}

func newSlowBroker(t *tap) *slowBroker {
	b := &slowBroker{tap: t}
	t.wrap = func(c broker.Consumer) broker.Consumer { return &slowConsumer{Consumer: c, took: &b.took} }
	return b
}

func (b *slowBroker) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	errs, err := b.tap.Renew(ctx, batch)
	time.Sleep(b.took.get())
	return errs, err
}

type slowConsumer struct {
	broker.Consumer
	took *box[time.Duration]
}

func (c *slowConsumer) Exchange(ctx context.Context, done []broker.Settlement, live []broker.Renewal, want broker.Want) (broker.Batch, error) {
	b, err := c.Consumer.Exchange(ctx, done, live, want)
	time.Sleep(c.took.get())
	return b, err
}

// times returns a fail function that fails n times.
func times(n int, err error) func() error {
	return func() error {
		if n <= 0 {
			return nil
		}
		n--
		return err
	}
}

var errAway = fmt.Errorf("%w: the test says so", broker.ErrUnavailable)

// logs keeps what was logged, as parsed lines.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines returns the logged lines with that message.
func (l *logs) lines(msg string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for raw := range bytes.Lines(l.buf.Bytes()) {
		var m map[string]any
		if json.Unmarshal(raw, &m) == nil && m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// text is all that was logged.
func (l *logs) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var errBroken = errors.New("broken")

// box holds a value that handlers and the test share.
type box[T any] struct {
	mu    sync.Mutex
	value T
}

func (b *box[T]) set(v T) { b.update(func(T) T { return v }) }

func (b *box[T]) update(f func(T) T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.value = f(b.value)
}

func (b *box[T]) get() T {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.value
}
