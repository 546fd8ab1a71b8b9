// Package rawpeer is the store without a job system: what SQLite itself does
// in the same shape, one table, taken from the front in batches.
package rawpeer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/bench/internal/cases"
)

type system struct {
	mu sync.Mutex
	c  *sqlite3.Conn
}

// Open opens a SQLite file in WAL mode with one table.
func Open(_ context.Context, o cases.Options) (cases.System, error) {
	c, err := sqlite3.Open("file:" + o.File)
	if err != nil {
		return nil, err
	}
	err = c.Exec(fmt.Sprintf(`pragma busy_timeout = 10000; pragma journal_mode = wal; pragma synchronous = %s;
		create table if not exists q (id integer primary key, payload blob not null);`, o.Sync))
	return &system{c: c}, err
}

func (s *system) Version() string { return "github.com/ncruces/go-sqlite3" }
func (s *system) Close() error    { return s.c.Close() }

func (s *system) Left(context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, _, err := s.c.Prepare(`select count(*) from q`)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	st.Step()
	return st.ColumnInt(0), st.Err()
}

func (s *system) NewProducer(context.Context) (cases.Producer, error) { return s.producer() }

type producer struct {
	s      *system
	insert *sqlite3.Stmt
}

func (s *system) producer() (*producer, error) {
	st, _, err := s.c.Prepare(`insert into q (payload) values (?)`)
	return &producer{s, st}, err
}

func (p *producer) One(ctx context.Context, seq int, due time.Time) error {
	return p.Many(ctx, seq, 1, due)
}

func (p *producer) Many(_ context.Context, from, n int, due time.Time) (err error) {
	if !due.IsZero() {
		return cases.ErrUnsupported
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	tx, err := p.s.c.BeginImmediate()
	if err != nil {
		return err
	}
	defer tx.End(&err)
	for i := range n {
		if err := p.insert.BindBlob(1, cases.NewArgs(from+i).JSON()); err != nil {
			return err
		}
		if err := p.insert.Exec(); err != nil {
			return err
		}
	}
	return nil
}

func (p *producer) Close() error { return p.insert.Close() }

type worker struct {
	s      *system
	handle func(int)
	batch  int
	stop   chan struct{}
	done   chan error
}

func (s *system) NewWorker(_ context.Context, handle func(int), concurrency int, _ bool) (cases.Worker, error) {
	return &worker{s, handle, max(concurrency, 100), make(chan struct{}), make(chan error, 1)}, nil
}

func (w *worker) Start(context.Context) error {
	go func() { w.done <- w.run() }()
	return nil
}

func (w *worker) Stop(context.Context) error {
	close(w.stop)
	return <-w.done
}

// run takes rows from the front, a batch and a commit at a time.
func (w *worker) run() error {
	w.s.mu.Lock()
	take, _, err := w.s.c.Prepare(`delete from q where id in (select id from q order by id limit ?) returning id, payload`)
	w.s.mu.Unlock()
	if err != nil {
		return err
	}
	defer take.Close()
	for {
		select {
		case <-w.stop:
			return nil
		default:
		}
		n, err := w.take(take)
		if err != nil {
			return err
		}
		for i := range n {
			w.handle(i)
		}
		if n == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func (w *worker) take(take *sqlite3.Stmt) (n int, err error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	tx, err := w.s.c.BeginImmediate()
	if err != nil {
		return 0, err
	}
	defer tx.End(&err)
	if err := take.BindInt(1, w.batch); err != nil {
		return 0, err
	}
	for take.Step() {
		_ = take.ColumnRawBlob(1)
		n++
	}
	if err := take.Err(); err != nil {
		return 0, err
	}
	return n, take.Reset()
}
