package stemcmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// toStdout is the name of a file that is standard output, or input.
const toStdout = "-"

func (s *session) dlqExportCommand() *cobra.Command {
	f := &deadFlags{}
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Writes dead letters to a file, one a line, newest first",
		Long: `Writes dead letters to a file, one JSON object a line, newest first, with all that is
known of them: the fields of dlq show, the envelope as it is on the wire, an entry that
is no envelope as base64. The file must not be there; - is standard output.
The file has the tasks' arguments: it is readable by its owner alone.`,
		Example: `  {{stem}} dlq export --queue default dead.jsonl
  {{stem}} dlq export --task email.send - | gzip > dead.jsonl.gz`,
		Args: arguments(1, 1, "FILE"),
	}
	f.add(s, c, 0, "at most so many; 0: all")
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return err
		}
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		var next string
		pages := deadPages(ctx, client, filter, f.limit.value, "", &next)
		w := &deadWriter{s: s}
		write := func(out io.Writer) error {
			for page, err := range pages {
				if err != nil {
					return err
				}
				if err := w.write(out, page); err != nil {
					return err
				}
				if s.stdout.gone.Load() {
					return nil
				}
			}
			return nil
		}
		if args[0] == toStdout {
			err = write(s.stdout)
		} else {
			err = newFile(args[0], write)
		}
		if err != nil {
			return fmt.Errorf("export dead letters: %w", err)
		}
		s.note("exported %s", several(w.n, "dead letter"))
		return nil
	})
	return c
}

// newFile makes a file that is not there yet, writes it, and makes sure that it
// is on the disk; when that fails there is none.
func newFile(path string, write func(w io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fail(ExitRefused, "%s is there already, and is not overwritten", path)
	}
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 256<<10)
	err = write(b)
	if err == nil {
		err = b.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes sure that the name of a new file is on the disk, where the
// system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrPermission) {
		return errors.Join(err, d.Close())
	}
	return d.Close()
}

// deadWriter writes dead letters as lines, and counts them.
type deadWriter struct {
	s    *session
	n    int
	last time.Time // when the youngest of them died
}

func (w *deadWriter) write(out io.Writer, page []broker.DeadLetter) error {
	for i := range page {
		line, err := exportedDead(&page[i])
		if err != nil {
			return err
		}
		if err := encodeJSON(out, line, "", ""); err != nil {
			return err
		}
		if page[i].DeadAt.After(w.last) {
			w.last = page[i].DeadAt
		}
	}
	w.n += len(page)
	return nil
}

// exportedDead is a dead letter with its entry.
func exportedDead(d *broker.DeadLetter) (deadLetter, error) {
	line := deadJSON(d)
	if d.Raw != nil {
		line.Raw = d.Raw
		return line, nil
	}
	wire, err := task.Encode(d.Envelope)
	if err != nil {
		return line, fmt.Errorf("encode dead letter %s: %w", line.ID, err)
	}
	line.Envelope = wire
	var compact bytes.Buffer
	if json.Compact(&compact, wire) != nil || !bytes.Equal(compact.Bytes(), wire) {
		line.Wire = wire
	}
	return line, nil
}

// exportFirst writes what was chosen to a file, and returns what is in it as
// what is chosen from now on.
func (s *session) exportFirst(ctx context.Context, client *stem.Client, c chosen, path string) (chosen, error) {
	w := &deadWriter{s: s}
	err := newFile(path, func(out io.Writer) error { return s.writeChosen(ctx, client, c, w, out) })
	if err != nil {
		return c, fmt.Errorf("export to %s: %w: nothing was purged", path, err)
	}
	s.note("exported %s to %s", several(w.n, "dead letter"), path)
	f, err := os.Open(path)
	if err != nil {
		return c, fmt.Errorf("read %s again: %w: nothing was purged", path, err)
	}
	s.closers = append(s.closers, f.Close)
	// What has died again since it was written is another dead letter, by the
	// store's own clock.
	c.filter = broker.DeadFilter{Before: w.last.Add(time.Millisecond)}
	c.count, c.total, c.next = w.n, w.n, idsIn(f)
	return c, nil
}

// writeChosen writes the dead letters that were chosen.
func (s *session) writeChosen(ctx context.Context, client *stem.Client, c chosen, w *deadWriter, out io.Writer) error {
	if c.next == nil {
		skip, next := c.total-c.count, "" // the oldest are chosen, and the newest listed first
		for page, err := range deadPages(ctx, client, c.filter, 0, "", &next) {
			if err != nil {
				return err
			}
			n := min(skip, len(page))
			skip -= n
			if err := w.write(out, page[n:]); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		f := c.filter
		var err error
		if f.IDs, err = c.next(); err != nil || len(f.IDs) == 0 {
			return err
		}
		page, _, err := client.DeadLetters(ctx, f, broker.Page{Limit: idPage})
		if err != nil {
			return err
		}
		if err := w.write(out, page); err != nil {
			return err
		}
	}
}

// idsIn gives the ids that a file of dead letters has, page by page.
func idsIn(r io.Reader) func() ([]string, error) {
	lines := bufio.NewReaderSize(r, 256<<10)
	ended := false
	return func() (ids []string, err error) {
		for len(ids) < idPage && !ended {
			raw, tooLong, err := readLongLine(lines, maxLine)
			if ended = errors.Is(err, io.EOF); err != nil && !ended {
				return nil, fmt.Errorf("read the exported file: %w", err)
			}
			if len(raw) == 0 && !tooLong {
				continue
			}
			var line struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal(raw, &line); err != nil || line.ID == "" {
				return nil, fmt.Errorf("the exported file cannot be read again: %.80q", raw)
			}
			ids = append(ids, line.ID)
		}
		return ids, nil
	}
}
