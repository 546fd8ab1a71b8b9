// Package riverpeer puts River on SQLite through the benchmark.
package riverpeer

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite" // the driver that River's documentation names

	"github.com/stemjobs/stem/bench/internal/cases"
)

// In the tuned setting River fetches as often as it allows.
const (
	tunedCooldown = time.Millisecond
	tunedPoll     = 20 * time.Millisecond
)

type system struct {
	o  cases.Options
	db *sql.DB
}

// Open opens River on a SQLite file in WAL mode.
func Open(ctx context.Context, o cases.Options) (cases.System, error) {
	dsn := fmt.Sprintf("file:%s?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(%s)", o.File, o.Sync)
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // as its documentation advises
	m, err := rivermigrate.New(riversqlite.New(db), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return &system{o, db}, err
}

func (s *system) config() *river.Config {
	c := &river.Config{Logger: slog.New(slog.DiscardHandler)}
	if s.o.Tuned {
		c.FetchCooldown, c.FetchPollInterval = tunedCooldown, tunedPoll
	}
	return c
}

func (s *system) Version() string {
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == "github.com/riverqueue/river" {
			return d.Version
		}
	}
	return ""
}

func (s *system) Close() error { return s.db.Close() }

func (s *system) Left(ctx context.Context) (n int, err error) {
	err = s.db.QueryRowContext(ctx,
		`select count(*) from river_job where state in ('available', 'pending', 'retryable', 'running', 'scheduled')`).Scan(&n)
	return n, err
}

type job struct{ cases.Args }

func (job) Kind() string { return "bench" }

func (s *system) NewProducer(context.Context) (cases.Producer, error) {
	c, err := river.NewClient(riversqlite.New(s.db), s.config())
	return &producer{c}, err
}

type producer struct{ c *river.Client[*sql.Tx] }

func options(due time.Time) *river.InsertOpts {
	if due.IsZero() {
		return nil
	}
	return &river.InsertOpts{ScheduledAt: due}
}

func (p *producer) One(ctx context.Context, seq int, due time.Time) error {
	_, err := p.c.Insert(ctx, job{cases.NewArgs(seq)}, options(due))
	return err
}

func (p *producer) Many(ctx context.Context, from, n int, due time.Time) error {
	batch := make([]river.InsertManyParams, n)
	for i := range batch {
		batch[i] = river.InsertManyParams{Args: job{cases.NewArgs(from + i)}, InsertOpts: options(due)}
	}
	_, err := p.c.InsertManyFast(ctx, batch)
	return err
}

func (p *producer) Close() error { return nil }

type handler struct {
	river.WorkerDefaults[job]
	handle func(int)
	retain bool
}

func (h *handler) Work(ctx context.Context, j *river.Job[job]) error {
	h.handle(j.Args.Seq)
	if h.retain {
		return river.RecordOutput(ctx, cases.Kept)
	}
	return nil
}

type worker struct{ c *river.Client[*sql.Tx] }

func (s *system) NewWorker(_ context.Context, handle func(int), concurrency int, retain bool) (cases.Worker, error) {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &handler{handle: handle, retain: retain}); err != nil {
		return nil, err
	}
	c := s.config()
	c.Workers, c.Queues = workers, map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}}
	client, err := river.NewClient(riversqlite.New(s.db), c)
	return &worker{client}, err
}

func (w *worker) Start(ctx context.Context) error { return w.c.Start(ctx) }
func (w *worker) Stop(ctx context.Context) error  { return w.c.Stop(ctx) }
