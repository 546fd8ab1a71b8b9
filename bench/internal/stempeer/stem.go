// Package stempeer puts Stem through the benchmark.
package stempeer

import (
	"context"
	"errors"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/bench/internal/cases"
)

var (
	ignored = stem.NewTask[cases.Args, stem.None]("bench")
	kept    = stem.NewTask[cases.Args, string]("bench")
)

type system struct {
	backend stem.Backend
	client  *stem.Client
}

// Open opens Stem on memory, or on a SQLite file.
func Open(ctx context.Context, o cases.Options) (cases.System, error) {
	var b stem.Backend
	if o.System == "stem-memory" {
		b = memory.New()
	} else {
		sync := sqlite.Full
		if o.Sync == "normal" {
			sync = sqlite.Normal
		}
		db, err := sqlite.Open(ctx, sqlite.Config{Path: o.File, Synchronous: sync})
		if err != nil {
			return nil, err
		}
		b = db
	}
	c, err := stem.NewClient(b, stem.ClientOptions{})
	return &system{b, c}, err
}

func (s *system) Version() string { return "this tree" }
func (s *system) Close() error    { return s.backend.Close() }

func (s *system) Left(ctx context.Context) (int, error) {
	queues, err := s.client.Queues(ctx)
	left := 0
	for _, q := range queues {
		left += q.Ready + q.Delayed + q.Leased
	}
	return left, err
}

func (s *system) NewProducer(context.Context) (cases.Producer, error) { return producer{s.client}, nil }

type producer struct{ client *stem.Client }

func options(due time.Time) []stem.Option {
	if due.IsZero() {
		return nil
	}
	return []stem.Option{stem.At(due)}
}

func (p producer) One(ctx context.Context, seq int, due time.Time) error {
	_, err := ignored.Enqueue(ctx, p.client, cases.NewArgs(seq), options(due)...)
	return err
}

func (p producer) Many(ctx context.Context, from, n int, due time.Time) error {
	items := make([]stem.Item, n)
	for i := range items {
		items[i] = ignored.Item(cases.NewArgs(from+i), options(due)...)
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
	w := stem.NewWorker(s.client, stem.WorkerOptions{Concurrency: concurrency})
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
