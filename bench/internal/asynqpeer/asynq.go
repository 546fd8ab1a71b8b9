// Package asynqpeer puts asynq through the benchmark.
package asynqpeer

import (
	"context"
	"encoding/json"
	"runtime/debug"
	"time"

	"github.com/hibiken/asynq"

	"github.com/stemjobs/stem/bench/internal/cases"
	"github.com/stemjobs/stem/bench/internal/redisprobe"
)

// In the tuned setting asynq looks for tasks as often as is sensible; by
// default it does once a second, and every five seconds for those that are due.
const (
	tunedCheck   = 10 * time.Millisecond
	tunedDelayed = 100 * time.Millisecond
)

const kind = "bench"

type system struct {
	*redisprobe.Prober
	o         cases.Options
	inspector *asynq.Inspector
}

// Open connects asynq to a Redis server.
func Open(_ context.Context, o cases.Options) (cases.System, error) {
	p, err := redisprobe.New(o.Redis)
	if err != nil {
		return nil, err
	}
	s := &system{Prober: p, o: o}
	s.inspector = asynq.NewInspector(s.redis())
	return s, nil
}

func (s *system) redis() asynq.RedisClientOpt { return asynq.RedisClientOpt{Addr: s.o.Redis} }

func (s *system) Version() string {
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == "github.com/hibiken/asynq" {
			return d.Version
		}
	}
	return ""
}

func (s *system) Close() error {
	_ = s.inspector.Close() // it was only read
	return s.Prober.Close()
}

// Left asks Redis itself: the inspector's own call takes time with the
// backlog.
func (s *system) Left(context.Context) (int, error) {
	queues, err := s.Do("SMEMBERS", "asynq:queues")
	if err != nil {
		return 0, err
	}
	left := 0
	for _, q := range queues.([]any) {
		key := "asynq:{" + q.(string) + "}:"
		for _, c := range [][2]string{{"LLEN", "active"}, {"LLEN", "pending"}, {"ZCARD", "scheduled"}, {"ZCARD", "retry"}} {
			n, err := s.Do(c[0], key+c[1])
			if err != nil {
				return 0, err
			}
			left += int(n.(int64))
		}
	}
	return left, nil
}

func (s *system) queue() string {
	if s.o.Queue != "" {
		return s.o.Queue
	}
	return "default"
}

func (s *system) NewProducer(context.Context) (cases.Producer, error) {
	return &producer{c: asynq.NewClient(s.redis()), s: s}, nil
}

type producer struct {
	c *asynq.Client
	s *system
}

func (p *producer) One(ctx context.Context, seq int, due time.Time) error {
	opts := []asynq.Option{asynq.Queue(p.s.queue())}
	if !due.IsZero() {
		opts = append(opts, asynq.ProcessAt(due))
	}
	if p.s.o.Retain {
		opts = append(opts, asynq.Retention(time.Hour))
	}
	_, err := p.c.EnqueueContext(ctx, asynq.NewTask(kind, cases.NewArgs(seq).JSON()), opts...)
	return err
}

// Many has no call of asynq's own: it enqueues from several goroutines, to be
// over sooner.
func (p *producer) Many(ctx context.Context, from, n int, due time.Time) error {
	if p.s.o.Case == "enqueueBatch" {
		return cases.ErrUnsupported
	}
	const producers = 16
	errs := make(chan error, producers)
	for k := range producers {
		go func() {
			var err error
			for i := k; i < n && err == nil; i += producers {
				err = p.One(ctx, from+i, due)
			}
			errs <- err
		}()
	}
	var err error
	for range producers {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

func (p *producer) Close() error { return p.c.Close() }

type worker struct {
	s *asynq.Server
	h asynq.HandlerFunc
}

func (s *system) NewWorker(_ context.Context, handle func(int), concurrency int, retain bool) (cases.Worker, error) {
	c := asynq.Config{Concurrency: concurrency, LogLevel: asynq.ErrorLevel, Queues: map[string]int{s.queue(): 1}}
	if s.o.Tuned {
		c.TaskCheckInterval, c.DelayedTaskCheckInterval = tunedCheck, tunedDelayed
	}
	return &worker{asynq.NewServer(s.redis(), c), func(_ context.Context, t *asynq.Task) error {
		var a cases.Args
		if err := json.Unmarshal(t.Payload(), &a); err != nil {
			return err
		}
		handle(a.Seq)
		if !retain {
			return nil
		}
		_, err := t.ResultWriter().Write([]byte(cases.Kept))
		return err
	}}, nil
}

func (w *worker) Start(context.Context) error { return w.s.Start(w.h) }
func (w *worker) Stop(context.Context) error  { w.s.Shutdown(); return nil }
