package stemtest

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// System is a whole Stem in memory, for one test. Its Client may be used from
// any goroutine; its methods belong to the test's own.
type System struct {
	Client *stem.Client

	t        testing.TB
	recorder *recorder
	handlers []stem.Registration

	mu          sync.Mutex
	failEnqueue error
	failRun     map[string][]error // by task name, in order
}

// New makes a system whose worker has these handlers. It ends with the test.
func New(t testing.TB, handlers ...stem.Registration) *System {
	t.Helper()
	db := memory.New()
	s := &System{
		t: t, handlers: handlers, failRun: map[string][]error{},
		recorder: &recorder{Broker: db.Broker(), published: map[string]*task.Envelope{}},
	}
	client, err := stem.NewClient(backend{db, s.recorder}, stem.ClientOptions{
		Middleware: []func(stem.EnqueueFunc) stem.EnqueueFunc{s.failing},
	})
	if err != nil {
		t.Fatalf("stemtest: %v", err)
	}
	s.Client = client
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("stemtest: close: %v", err)
		}
	})
	return s
}

// backend is the memory store with a recorder before its broker.
type backend struct {
	*memory.DB
	recorder *recorder
}

func (b backend) Broker() broker.Broker        { return b.recorder }
func (b backend) Results() store.Results       { return b.DB.Results() }
func (b backend) Heartbeats() store.Heartbeats { return nil }

// FailNextEnqueue makes the next enqueue of the client return err and store
// nothing.
func (s *System) FailNextEnqueue(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failEnqueue = err
}

func (s *System) failing(next stem.EnqueueFunc) stem.EnqueueFunc {
	return func(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
		s.mu.Lock()
		err := s.failEnqueue
		s.failEnqueue = nil
		s.mu.Unlock()
		if err == nil {
			return next(ctx, items)
		}
		receipts := make([]stem.Receipt, len(items))
		for i := range receipts {
			receipts[i] = stem.Receipt{ID: items[i].ID(), Err: err}
		}
		return receipts, err
	}
}

// FailNext makes the next execution of the named task fail with err, without
// its handler being called. Several calls fail as many executions, in order.
func (s *System) FailNext(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failRun[name] = append(s.failRun[name], err)
}

func (s *System) injected(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.failRun[name]
	if len(errs) == 0 {
		return nil
	}
	s.failRun[name] = errs[1:]
	return errs[0]
}

// RunOne executes the next task that is ready, on any queue, and returns its
// status afterwards. The test fails when none is ready.
func (s *System) RunOne() stem.Status {
	s.t.Helper()
	ran := s.run(1)
	if len(ran) == 0 {
		s.t.Fatal("stemtest: RunOne: no task is ready")
	}
	status, err := s.Client.Get(s.t.Context(), ran[0])
	if err != nil {
		s.t.Fatalf("stemtest: RunOne: %v", err)
	}
	return status
}

// Drain executes whatever is ready, also what those tasks enqueue, until
// nothing is ready any more, and returns the ids in the order of execution.
// Tasks that wait for their moment, retries among them, are left alone.
func (s *System) Drain() []string {
	s.t.Helper()
	return s.run(0)
}

// AdvanceTo lets time pass until that moment. Inside testing/synctest, where
// it is meant to be used, that takes no real time.
func (s *System) AdvanceTo(moment time.Time) {
	if d := time.Until(moment); d > 0 {
		time.Sleep(d)
	}
}

// run executes tasks one after the other: at most so many, or all that are
// ready.
func (s *System) run(limit int) []string {
	s.t.Helper()
	var ran []string
	for limit == 0 || len(ran) < limit {
		if !s.recorder.ready(s.t) {
			break
		}
		if id := s.step(); id != "" {
			ran = append(ran, id)
		}
	}
	return ran
}

// step runs a worker of one isolate until it has executed one task, or until
// nothing is ready: what was ready may have been expired or unknown. It returns
// the id of the executed task.
func (s *System) step() string {
	s.t.Helper()
	var ran string
	var worker *stem.Worker
	once := func(next stem.Handler) stem.Handler {
		return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			e := stem.Current(ctx)
			ran = e.ID()
			defer worker.Shutdown(stem.Warm)
			if err := s.injected(e.Name()); err != nil {
				return nil, err
			}
			return next(ctx, args)
		}
	}
	worker = stem.NewWorker(s.Client, stem.WorkerOptions{
		ID: "stemtest", Queues: stem.Strict("*"), Concurrency: 1, Prefetch: 1, Grace: time.Hour,
		Middleware: []stem.Middleware{once}, Logger: slog.New(slog.DiscardHandler),
	})
	if err := worker.Handle(s.handlers...); err != nil {
		s.t.Fatalf("stemtest: %v", err)
	}
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	s.recorder.onIdle(stop)
	defer s.recorder.onIdle(nil)
	if err := worker.Run(ctx); err != nil {
		s.t.Fatalf("stemtest: %v", err)
	}
	return ran
}

// RequireEnqueued fails the test unless a task of that kind was enqueued, by
// the client, a handler or a link, and returns the argument of the newest one
// that match accepts (or of the newest at all, without match).
func RequireEnqueued[Args, Result any](t testing.TB, s *System, want stem.Task[Args, Result], match ...func(Args) bool) Args {
	t.Helper()
	envelopes := s.recorder.named(want.Name())
	for i := len(envelopes) - 1; i >= 0; i-- {
		var args Args
		raw := envelopes[i].Args
		if raw == nil {
			raw = json.RawMessage("null")
		}
		if err := json.Unmarshal(raw, &args); err != nil {
			t.Fatalf("stemtest: the arguments of %s %s: %v", want.Name(), envelopes[i].ID, err)
		}
		accepted := true
		for _, m := range match {
			accepted = accepted && m(args)
		}
		if accepted {
			return args
		}
	}
	t.Fatalf("stemtest: of %s, %d were enqueued and none fits; enqueued were: %v", want.Name(), len(envelopes), s.recorder.counts())
	panic("unreachable")
}

// RequireNotEnqueued fails the test if a task of that kind was enqueued.
func RequireNotEnqueued[Args, Result any](t testing.TB, s *System, unwanted stem.Task[Args, Result]) {
	t.Helper()
	if n := len(s.recorder.named(unwanted.Name())); n > 0 {
		t.Fatalf("stemtest: %s was enqueued %d times", unwanted.Name(), n)
	}
}
