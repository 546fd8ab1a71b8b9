package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem"
)

// streamed counts what became of a stream.
type streamed struct {
	Stored     int `json:"stored"`
	Duplicates int `json:"duplicates"`
	NotStored  int `json:"notStored"`
}

// streamOutcome is what is said of one line with --output jsonl.
type streamOutcome struct {
	Line      int    `json:"line"`
	ID        string `json:"id,omitempty"`
	Duplicate bool   `json:"duplicate"`
	Error     string `json:"error,omitempty"`
}

// enqueueStream stores the lines of standard input.
func (s *session) enqueueStream(ctx context.Context, f *enqueueFlags, args []string) error {
	defaults, err := f.options(s.changed)
	if err != nil {
		return err
	}
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	client, err := s.producer(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := newStream()
	// The reader ends with the input; where that never ends, with the process.
	go q.read(ctx, s.p.Stdin, func(raw []byte) (stem.Item, error) {
		l, err := parseLine(raw)
		if err != nil {
			return stem.Item{}, err
		}
		if l.Task == "" && len(args) > 0 {
			l.Task = args[0]
		}
		if l.Task == "" {
			return stem.Item{}, errors.New(`"task" is missing`)
		}
		opts, err := l.options()
		if err != nil {
			return stem.Item{}, err
		}
		return known.item(l.Task, l.Args, f.anyTask, append(defaults[:len(defaults):len(defaults)], opts...))
	})
	e := &streamer{s: s, client: client}
	err = e.run(ctx, q)
	return e.finish(err)
}

// streamer stores a stream and tells of each line.
type streamer struct {
	s        *session
	client   *stem.Client
	count    streamed
	refused  error     // of the first line that was not stored
	progress time.Time // when it was shown last
}

func (e *streamer) run(ctx context.Context, q *stream) error {
	for {
		batch, err := q.take(ctx)
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		if batch == nil {
			return nil
		}
		if err := e.store(ctx, batch); err != nil {
			return err
		}
		e.show()
	}
}

// store stores one batch. Its error is of the store: what is wrong with a line
// is told, and no error.
func (e *streamer) store(ctx context.Context, batch []streamItem) error {
	items := make([]stem.Item, 0, len(batch))
	lines := make([]int, 0, len(batch))
	for i := range batch {
		if batch[i].err != nil {
			e.refuse(batch[i].line, "", batch[i].err)
			continue
		}
		items, lines = append(items, batch[i].item), append(lines, batch[i].line)
	}
	if len(items) == 0 {
		return nil
	}
	receipts, err := e.client.EnqueueMany(ctx, items)
	if err != nil && len(receipts) == 0 {
		return fmt.Errorf("lines %d to %d: %w", lines[0], lines[len(lines)-1], err)
	}
	var failed error
	for i := range receipts {
		r := &receipts[i]
		if r.Err != nil {
			e.refuse(lines[i], r.ID, r.Err)
			if failed == nil && errors.Is(r.Err, stem.ErrOutcomeUnknown) {
				failed = fmt.Errorf("stopped at line %d: %w", lines[i], r.Err)
			}
			continue
		}
		e.accept(lines[i], r)
	}
	return failed
}

func (e *streamer) accept(line int, r *stem.Receipt) {
	e.count.Stored++
	if r.Duplicate {
		e.count.Stored--
		e.count.Duplicates++
	}
	switch e.s.flags.output {
	case asName:
		fmt.Fprintln(e.s.stdout, r.ID)
	case asJSONL:
		_ = encodeJSON(e.s.stdout, streamOutcome{Line: line, ID: r.ID, Duplicate: r.Duplicate}, "", "") // nobody to tell
	}
}

func (e *streamer) refuse(line int, id string, err error) {
	e.count.NotStored++
	if e.refused == nil {
		e.refused = err
	}
	e.s.note("line %d: %s", line, err)
	if e.s.flags.output == asJSONL {
		_ = encodeJSON(e.s.stdout, streamOutcome{Line: line, ID: id, Error: err.Error()}, "", "") // nobody to tell
	}
}

// show shows on a terminal how far it is, a few times a second.
func (e *streamer) show() {
	if !isTerminal(e.s.p.Stderr) || time.Since(e.progress) < 200*time.Millisecond {
		return
	}
	e.progress = time.Now()
	fmt.Fprintf(e.s.stderr, "\r%d stored", e.count.Stored)
}

// finish tells the sum and makes the error that gives the exit code.
func (e *streamer) finish(err error) error {
	if !e.progress.IsZero() {
		fmt.Fprintln(e.s.stderr)
	}
	c := e.count
	if e.s.flags.output == asJSON {
		_ = encodeJSON(e.s.stdout, c, "", "  ") // nobody to tell
	} else {
		e.s.note("%d stored, %s, %d not stored", c.Stored, several(c.Duplicates, "duplicate"), c.NotStored)
	}
	done := c.Stored+c.Duplicates > 0
	switch {
	case err != nil && done:
		return fail(ExitPartly, "%w", err)
	case err != nil:
		return err
	case c.NotStored > 0 && done:
		return fail(ExitPartly, "%d of %d lines were not stored", c.NotStored, c.NotStored+c.Stored+c.Duplicates)
	case c.NotStored > 0:
		code := exitCode(e.refused)
		if code == ExitFailed {
			code = ExitUsage // of a line that is no JSON
		}
		return fail(code, "%s, and none was stored", several(c.NotStored, "line"))
	default:
		return nil
	}
}
