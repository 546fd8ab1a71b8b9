package tasksfile

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/stemjobs/stem/internal/exectask"
	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/httptask"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// File is a tasks file that was read. Its tasks share HTTP connections, and are
// known while they run: Close ends both.
type File struct {
	Path  string
	Tasks []*Task // in the file's order

	pool    *httptask.Pool
	running *exectask.Running
}

// Task is one task of a file. Its Run executes it; the rest is for who
// enqueues it and for the worker. Treat it as read-only.
type Task struct {
	Name string
	Line int // in its file

	Queue      string // "": the file names none
	Priority   *int   // nil: the file names none
	MaxRetries *int   // nil: the file names none
	Retry      runner.Retry

	SoftTimeout time.Duration // 0: none
	HardTimeout time.Duration // 0: none
	Rate        store.Rate    // zero: no limit
	FailOpen    bool          // of the rate limit: execute while it cannot be asked
	Concurrency int           // executions at once in this worker; 0: no limit of its own

	work  foreign.Work
	slots chan struct{} // nil: no limit
}

const (
	slotPatience = 500 * time.Millisecond // for a free slot of a task with limited concurrency
	slotSnooze   = time.Second            // until it is tried again, about
)

// Load reads a tasks file. What is wrong with its content is a [*FileError].
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tasks file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("tasks file: %w", err)
	}
	return Parse(path, data)
}

// Close is for a worker that has stopped. It kills the commands that still run,
// with all that they started in their process groups, and closes the connections
// that no task uses.
func (f *File) Close() {
	f.running.End()
	f.pool.Close()
}

// Check tells whether everything is there that the tasks need of the process
// that executes them, such as secrets. Who only enqueues them needs none.
func (f *File) Check() error {
	for _, t := range f.Tasks {
		w, ok := t.work.(interface{ Check() error })
		if !ok {
			continue
		}
		if err := w.Check(); err != nil {
			return fmt.Errorf("%s:%d: task %s: %w", f.Path, t.Line, t.Name, err)
		}
	}
	return nil
}

// Run executes the task, as foreign.Work says. When the task's own concurrency
// is used up, it returns a runner.SnoozeError after a moment: another task can
// use the isolate meanwhile.
func (t *Task) Run(ctx context.Context, c foreign.Call) (json.RawMessage, error) {
	if c.Args == nil {
		c.Args = json.RawMessage("null")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	release, err := t.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return t.work.Run(ctx, c)
}

// slot waits a moment for one of the task's slots.
func (t *Task) slot(ctx context.Context) (release func(), err error) {
	if t.slots == nil {
		return func() {}, nil
	}
	patience := slotPatience
	for _, limit := range []time.Duration{t.SoftTimeout, t.HardTimeout} {
		if limit > 0 {
			patience = min(patience, limit/2) // the limits' clocks are running
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-timer.C:
		return nil, &runner.SnoozeError{In: slotSnooze/2 + rand.N(slotSnooze)}
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for one of %d slots: %w", t.Concurrency, context.Cause(ctx))
	}
}

// Parse reads the content of a tasks file; path is its name for errors.
func Parse(path string, data []byte) (*File, error) {
	r := &reader{path: path, pool: httptask.NewPool(httptask.Options{}), running: &exectask.Running{}}
	root, err := r.document(data)
	if err != nil {
		return nil, err
	}
	top, err := r.mapping(root, "the file", "tasks")
	if err != nil {
		return nil, err
	}
	if len(top) == 0 {
		return nil, r.fail(0, "it is empty: want tasks:")
	}
	tasks, err := r.mapping(top[0].value, "tasks")
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, r.fail(top[0].line, "tasks: there are none")
	}
	file := &File{Path: path, pool: r.pool, running: r.running}
	for _, e := range tasks {
		t, err := r.task(e)
		if err != nil {
			return nil, err
		}
		file.Tasks = append(file.Tasks, t)
	}
	return file, nil
}

// task reads one task.
func (r *reader) task(e entry) (*Task, error) {
	if err := task.ValidateName(e.key); err != nil {
		return nil, r.fail(e.line, "%s", err)
	}
	what := "task " + e.key
	fields, err := r.mapping(e.value, what, "exec", "http", "timeout", "retry", "concurrency", "queue", "priority",
		"env", "allow_option_values", "rate")
	if err != nil {
		return nil, err
	}
	t := &Task{Name: e.key, Line: e.line}
	var own []entry // of the kind of task
	for _, f := range fields {
		name := what + ": " + f.key
		switch f.key {
		case "timeout":
			err = r.timeout(t, f.value, name)
		case "retry":
			err = r.retry(t, f.value, name)
		case "concurrency":
			t.Concurrency, err = r.integer(f.value, name, 1, 10_000)
		case "queue":
			err = r.queue(t, f.value, name)
		case "priority":
			var p int
			p, err = r.integer(f.value, name, 0, task.MaxPriority)
			t.Priority = &p
		case "rate":
			err = r.rate(t, f.value, name)
		default:
			own = append(own, f)
		}
		if err != nil {
			return nil, err
		}
	}
	if t.Concurrency > 0 {
		t.slots = make(chan struct{}, t.Concurrency)
	}
	t.work, err = r.work(t, own, what)
	return t, err
}

// work reads what a task does: the one of exec and http that is there, with
// the keys that belong to it.
func (r *reader) work(t *Task, fields []entry, what string) (foreign.Work, error) {
	var kind *entry
	for i, f := range fields {
		switch {
		case f.key != "exec" && f.key != "http":
		case kind != nil:
			return nil, r.fail(f.line, "%s: it has exec and http: want one of them", what)
		default:
			kind = &fields[i]
		}
	}
	if kind == nil {
		return nil, r.fail(t.Line, "%s: exec or http is missing", what)
	}
	if kind.key == "http" {
		for _, f := range fields {
			if f.key != "http" {
				return nil, r.fail(f.line, "%s: %s is for exec tasks", what, f.key)
			}
		}
		return r.endpoint(kind.value, what+": http")
	}
	c := &exectask.Command{HardTimeout: t.HardTimeout, Running: r.running}
	for _, f := range fields {
		var err error
		switch name := what + ": " + f.key; f.key {
		case "env":
			err = r.env(c, f.value, name)
		case "allow_option_values":
			c.OpenValues, err = r.boolean(f.value, name)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, r.command(c, kind.value, what+": exec")
}
