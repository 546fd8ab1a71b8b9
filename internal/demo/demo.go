// Package demo is the program behind "stem demo": it digests every file of a
// directory through Stem with worker processes of its own, kills one of them in
// mid-work, and checks every result against its own computation.
package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
)

// Options shape a demo. The zero value digests the Go toolchain's sources on a
// SQLite file in a temporary directory.
type Options struct {
	Dir     string   // whose files are digested; "": the Go toolchain's src
	Broker  string   // URL of a store that several processes can share; "": a SQLite file
	Workers int      // processes; 0: 3
	Command []string // that starts a worker process; it is given the broker and the queue as flags

	Err      io.Writer // progress, and what workers say
	Terminal bool      // Err is a terminal: progress is drawn in place
}

// ErrWrong says that a result is wrong or missing.
var ErrWrong = errors.New("the demo failed")

// OptionError is about an option with which there is no demo: nothing was done.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *OptionError) Unwrap() error { return e.Err }

// lease is short, so that what the killed worker held comes back soon.
const lease = 2 * time.Second

// Run runs the demo. It returns what it found out, once it has, and an error
// that wraps ErrWrong when a task was lost or a result is wrong. All processes
// and files that it made are gone when it returns.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Workers <= 0 {
		o.Workers = 3
	}
	began := time.Now()
	files, err := listFiles(ctx, o.Dir)
	if err != nil {
		return nil, &OptionError{err}
	}
	if len(files) == 0 {
		return nil, &OptionError{fmt.Errorf("%s has no files: choose another with --dir", o.Dir)}
	}
	if o.Broker == "" {
		dir, err := os.MkdirTemp("", "stem-demo-")
		if err != nil {
			return nil, fmt.Errorf("make a place for the demo's store: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.Broker = "sqlite:" + filepath.Join(dir, "stem.db")
	}
	backend, err := connect.Open(ctx, connect.Options{Broker: o.Broker, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	if !broker.CapabilitiesOf(backend.Broker()).Has(broker.PowerShared) {
		return nil, &OptionError{fmt.Errorf("worker processes cannot share the store %q: choose one such as sqlite:demo.db", connect.Mask(o.Broker))}
	}
	client, err := stem.NewClient(backend, stem.ClientOptions{})
	if err != nil {
		return nil, err
	}
	d := &demo{Options: o, client: client, queue: "demo-" + randomWord(), files: files}
	fmt.Fprintf(o.Err, "%d files; one task each on %s; %d worker processes\n", len(files), connect.Mask(o.Broker), o.Workers)
	if err := d.work(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintln(o.Err, "checking every result against a computation of its own")
	report, err := d.verify(ctx)
	if err != nil {
		return nil, err
	}
	report.measure(d.took, time.Since(began))
	return report, report.verdict()
}

func randomWord() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails: see its documentation
	return hex.EncodeToString(b)
}

// demo is one run.
type demo struct {
	Options
	client *stem.Client
	queue  string
	files  []string

	ids     []string // of the tasks, in the order of files
	stored  atomic.Int64
	killed  int // pid of the worker that was killed
	started time.Time
	took    time.Duration // from the first enqueue to the last outcome
}

// work starts the fleet, enqueues, kills, and returns when nothing is left to
// do.
func (d *demo) work(ctx context.Context) error {
	fleet := &fleet{command: d.Command, broker: d.Broker, queue: d.queue, log: d.Err}
	defer fleet.stop()
	for range d.Workers {
		if err := fleet.start(); err != nil {
			return err
		}
	}
	if err := d.awaitWorkers(ctx, d.Workers); err != nil {
		return err
	}
	d.started = time.Now()
	enqueued := make(chan error, 1)
	go func() { enqueued <- d.enqueue(ctx) }()

	bar := newProgress(d.Err, d.Terminal, len(d.files))
	defer bar.end()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	stored := false
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-enqueued:
			if err != nil {
				return err
			}
			stored = true
			continue
		case <-tick.C:
		}
		done, err := d.done(ctx)
		if err != nil {
			return err
		}
		bar.set(done)
		if d.killed == 0 && done > len(d.files)/4 && done < len(d.files) {
			if d.killed, err = fleet.kill(); err != nil {
				return err
			}
			bar.say("killed worker process %d (SIGKILL) in mid-work, after %d tasks", d.killed, done)
		}
		if stored && done == len(d.files) {
			d.took = time.Since(d.started)
			return nil
		}
		if err := fleet.alive(); err != nil {
			return err
		}
	}
}

// awaitWorkers returns when so many workers have said that they are there.
func (d *demo) awaitWorkers(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("the workers did not start in time"))
	defer cancel()
	for {
		workers, err := d.client.Workers(ctx)
		if err != nil {
			return err
		}
		mine := 0
		for _, w := range workers {
			if len(w.Queues) == 1 && w.Queues[0] == d.queue {
				mine++
			}
		}
		if mine >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *demo) enqueue(ctx context.Context) error {
	d.ids = make([]string, 0, len(d.files))
	for batch := range slices.Chunk(d.files, 1000) {
		items := make([]stem.Item, len(batch))
		for i, f := range batch {
			items[i] = Digest.Item(File{Path: f}, stem.Queue(d.queue))
		}
		receipts, err := d.client.EnqueueMany(ctx, items)
		if err != nil {
			return fmt.Errorf("enqueue the files: %w", err)
		}
		for i, r := range receipts {
			if r.Err != nil {
				return fmt.Errorf("enqueue %s: %w", batch[i], r.Err)
			}
			d.ids = append(d.ids, r.ID)
		}
		d.stored.Add(int64(len(batch)))
	}
	return nil
}

// done counts the tasks that have ended.
func (d *demo) done(ctx context.Context) (int, error) {
	stored := int(d.stored.Load()) // read first: the count may lag, and never leads
	l, err := d.client.Queues(ctx, d.queue)
	if err != nil {
		return 0, err
	}
	for _, q := range l {
		stored -= q.Ready + q.Delayed + q.Leased
	}
	return max(stored, 0), nil
}
