package stemcmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// importBytes bounds what one call imports.
const importBytes = 4 << 20

func (s *session) dlqImportCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Puts exported dead letters back, as dead letters",
		Long: `Puts the dead letters of a file back that dlq export, or purge --export, has written, as
they were. Each is stored whole or not at all; one whose id is known is left out and
told. Bad lines are told by their number; with some of them the exit code is 6. FILE -
is standard input.`,
		Example: `  {{stem}} dlq import dead.jsonl
  gunzip < dead.jsonl.gz | {{stem}} dlq import -`,
		Args: arguments(1, 1, "FILE"),
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "read the file, and say what is wrong with it; change nothing")
	c.RunE = s.long(func(ctx context.Context, args []string) error { return s.importDead(ctx, args[0], dry) })
	return c
}

// imported counts what became of a file of dead letters.
type imported struct {
	Action   string `json:"action"`
	DryRun   bool   `json:"dryRun"`
	Imported int    `json:"imported"`
	Existing int    `json:"existing"` // their ids are known
	Bad      int    `json:"bad"`
}

func (s *session) importDead(ctx context.Context, path string, dry bool) error {
	in := s.p.Stdin
	if path != toStdout {
		f, err := os.Open(path)
		if err != nil {
			return usage("%w", err)
		}
		s.closers = append(s.closers, f.Close)
		in = f
	}
	client, err := s.clientOn(ctx, dry, nil) // it may be the first that a store gets
	if err != nil {
		return err
	}
	if _, ok := broker.As[broker.DeadImporter](client.Broker()); !ok && !dry {
		return fail(ExitRefused, "this broker takes no dead letters back: %w", broker.ErrUnsupported)
	}
	i := &deadImport{s: s, client: client, out: imported{Action: "import", DryRun: dry}}
	return i.finish(i.run(ctx, in))
}

// deadImport puts a file of dead letters back, batch by batch.
type deadImport struct {
	s      *session
	client *stem.Client
	out    imported
	code   int // of the first bad line

	batch []broker.DeadLetter
	lines []int
	bytes int
}

func (i *deadImport) run(ctx context.Context, in io.Reader) error {
	r := bufio.NewReaderSize(in, 256<<10)
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		raw, tooLong, err := readLongLine(r, maxLine)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(raw)) > 0 || tooLong {
			i.line(n, raw, tooLong)
		}
		if ended := err != nil; ended || len(i.batch) == idPage || i.bytes > importBytes {
			if err := i.flush(ctx); err != nil || ended {
				return err
			}
		}
	}
}

// line takes in one line.
func (i *deadImport) line(n int, raw []byte, tooLong bool) {
	if tooLong {
		i.bad(n, fmt.Errorf("%w line: it is longer than %d bytes", task.ErrInvalid, maxLine))
		return
	}
	d, err := parseDead(raw)
	if err == nil {
		err = d.Validate()
	}
	if err != nil {
		i.bad(n, err)
		return
	}
	i.batch, i.lines, i.bytes = append(i.batch, *d), append(i.lines, n), i.bytes+len(raw)
}

func (i *deadImport) bad(n int, err error) {
	if i.out.Bad++; i.code == 0 {
		i.code = exitCode(err)
	}
	i.s.note("line %d: %s", n, err)
}

// flush imports what has gathered. The call is finished also when somebody
// asks to stop meanwhile, so that the numbers are true.
func (i *deadImport) flush(ctx context.Context) error {
	batch, lines := i.batch, i.lines
	i.batch, i.lines, i.bytes = nil, nil, 0
	if len(batch) == 0 {
		return nil
	}
	if i.out.DryRun {
		i.out.Imported += len(batch)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTimeout)
	defer cancel()
	errs, err := i.client.ImportDeadLetters(ctx, batch)
	if err != nil {
		return fmt.Errorf("lines %d to %d: %w", lines[0], lines[len(lines)-1], err)
	}
	for k, err := range errs {
		switch {
		case err == nil:
			i.out.Imported++
			i.s.changes++
		case errors.Is(err, broker.ErrExists):
			i.out.Existing++
			i.s.note("line %d: %s", lines[k], err)
		default:
			i.bad(lines[k], err)
		}
	}
	return nil
}

// finish tells the sum and makes the error that gives the exit code.
func (i *deadImport) finish(err error) error {
	o := i.out
	shown, e := i.s.object(o)
	if e == nil && !shown {
		verb := "imported"
		if o.DryRun {
			verb = "would import"
		}
		fmt.Fprintf(i.s.stdout, "%s %s, %d known already, %s\n", verb, several(o.Imported, "dead letter"), o.Existing, several(o.Bad, "bad line"))
	}
	some := o.Imported+o.Existing > 0
	switch {
	case err != nil && some:
		return errors.Join(e, fail(ExitPartly, "stopped after %s: %w", several(o.Imported, "dead letter"), err))
	case err != nil:
		return errors.Join(e, err)
	case o.Bad > 0 && some:
		return errors.Join(e, fail(ExitPartly, "%s: not imported", several(o.Bad, "bad line")))
	case o.Bad > 0:
		return errors.Join(e, fail(i.code, "%s, and nothing was imported", several(o.Bad, "bad line")))
	}
	return e
}

// parseDead reads what dlq export wrote, strictly: a field that nobody knows
// would be lost.
func parseDead(raw []byte) (*broker.DeadLetter, error) {
	var line deadLetter
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&line); err != nil {
		return nil, fmt.Errorf("%w line: want a dead letter as JSON: %w", task.ErrInvalid, lineError[deadLetter](err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w line: more follows the object", task.ErrInvalid)
	}
	out := &broker.DeadLetter{
		Queue: line.Queue, Reason: line.Reason, Error: line.Error, Errors: line.Errors, Attempt: line.Attempt, Epoch: line.Epoch,
		DeadAt: line.DeadAt, ReplayCount: line.ReplayCount, LastReplayAt: line.LastReplayAt,
	}
	switch {
	case line.Raw != nil:
		out.Envelope, out.Raw = &task.Envelope{ID: line.ID}, line.Raw
		return out, nil
	case line.Wire != nil:
		line.Envelope = line.Wire
	case line.Envelope == nil:
		return nil, fmt.Errorf("%w line: it has no envelope", task.ErrInvalid)
	}
	e, err := task.Decode(line.Envelope)
	if err != nil {
		return nil, err
	}
	if e.ID != line.ID {
		return nil, fmt.Errorf("%w line: its id %q is not that of its envelope, %q", task.ErrInvalid, line.ID, e.ID)
	}
	out.Envelope = e
	return out, nil
}
