// Package stempeer puts Stem through the benchmark.
package stempeer

import (
	"context"
	"errors"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/bench/internal/cases"
	"github.com/stemjobs/stem/bench/internal/redisprobe"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
)

var (
	ignored = stem.NewTask[cases.Args, stem.None]("bench")
	kept    = stem.NewTask[cases.Args, string]("bench")
)

type system struct {
	o       cases.Options
	backend stem.Backend
	client  *stem.Client

	unobserve func() error
}

// onRedis is a system whose store is a server that can be asked.
type onRedis struct {
	*system
	*redisprobe.Prober
}

func (s onRedis) Close() error { return errors.Join(s.system.Close(), s.Prober.Close()) }

// Open opens Stem on memory, on a SQLite file, on Redis, or on two logical
// databases of one Redis server.
func Open(ctx context.Context, o cases.Options) (cases.System, error) {
	s := &system{o: o}
	where := connect.Options{Broker: "memory:"}
	switch o.System {
	case "stem-sqlite":
		where.Broker = "sqlite:" + o.File + "?synchronous=" + o.Sync
	case "stem-redis":
		where.Broker = "redis://" + o.Redis + "/0"
	case "stem-redis-pair":
		where.Broker, where.Results = "redis://"+o.Redis+"/0", "redis://"+o.Redis+"/1"
	}
	opened, err := connect.Open(ctx, where)
	if err != nil {
		return nil, err
	}
	s.backend = opened.Backend
	var co stem.ClientOptions
	if s.unobserve, err = observed(ctx, o.Observed, &co); err != nil {
		return nil, errors.Join(err, s.backend.Close())
	}
	if s.client, err = stem.NewClient(s.backend, co); err != nil {
		return nil, errors.Join(err, s.backend.Close())
	}
	if o.Redis == "" {
		return s, nil
	}
	p, err := redisprobe.New(o.Redis)
	if err != nil {
		return nil, errors.Join(err, s.backend.Close())
	}
	return onRedis{s, p}, nil
}

func (s *system) Version() string { return "this tree" }
func (s *system) Close() error    { return errors.Join(s.unobserve(), s.backend.Close()) }

func (s *system) Left(ctx context.Context) (int, error) {
	queues, err := s.client.Queues(ctx)
	left := 0
	for _, q := range queues {
		left += q.Ready + q.Delayed + q.Leased
	}
	return left, err
}

// pagesEach is how long somebody looks at a page before the next: less than anybody.
const pagesEach = 50 * time.Millisecond

// Page lists all tasks, page by page, until ctx ends.
func (s *system) Page(ctx context.Context) error {
	q := store.Query{Limit: 100}
	next := time.NewTicker(pagesEach)
	defer next.Stop()
	for {
		list, err := s.client.List(ctx, q)
		if err != nil {
			return err
		}
		q.Cursor = list.Cursor
		select {
		case <-next.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Walk reconciles the two stores until ctx ends: what is older than two seconds, so
// that it is all of them.
func (s *system) Walk(ctx context.Context) error {
	for ctx.Err() == nil {
		if _, err := s.client.Reconcile(ctx, time.Second); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *system) NewProducer(context.Context) (cases.Producer, error) {
	return producer{s.client, s.o}, nil
}

type producer struct {
	client *stem.Client
	o      cases.Options
}

func (p producer) options(due time.Time) []stem.Option {
	var opts []stem.Option
	if !due.IsZero() {
		opts = append(opts, stem.At(due))
	}
	if p.o.Queue != "" {
		opts = append(opts, stem.Queue(p.o.Queue))
	}
	if p.o.Drop {
		opts = append(opts, stem.Retention(0))
	}
	if p.o.NoArgs {
		opts = append(opts, stem.KeepArgs(false))
	}
	return opts
}

func (p producer) One(ctx context.Context, seq int, due time.Time) error {
	_, err := ignored.Enqueue(ctx, p.client, cases.NewArgs(seq), p.options(due)...)
	return err
}

func (p producer) Many(ctx context.Context, from, n int, due time.Time) error {
	items := make([]stem.Item, n)
	for i := range items {
		items[i] = ignored.Item(cases.NewArgs(from+i), p.options(due)...)
	}
	receipts, err := p.client.EnqueueMany(ctx, items)
	for _, r := range receipts {
		err = errors.Join(err, r.Err)
	}
	return err
}

func (p producer) Close() error { return nil }

type worker struct {
	w    *stem.Worker
	done chan error
}

func (s *system) NewWorker(_ context.Context, handle func(int), concurrency int, retain bool) (cases.Worker, error) {
	o := stem.WorkerOptions{Concurrency: concurrency, Lease: s.o.Lease}
	if s.o.Queue != "" {
		o.Queues = stem.Strict(s.o.Queue)
	}
	w := stem.NewWorker(s.client, o)
	r := ignored.Do(func(_ context.Context, a cases.Args) error { handle(a.Seq); return nil })
	if retain {
		r = kept.With(func(_ context.Context, a cases.Args) (string, error) { handle(a.Seq); return cases.Kept, nil })
	}
	return &worker{w, make(chan error, 1)}, w.Handle(r)
}

func (w *worker) Start(context.Context) error {
	go func() { w.done <- w.w.Run(context.Background()) }()
	return nil
}

func (w *worker) Stop(context.Context) error {
	w.w.Shutdown(stem.Warm)
	return <-w.done
}
