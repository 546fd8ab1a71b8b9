package stemcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/task"
)

func (s *session) tasksShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show ID...",
		Aliases: []string{"get"},
		Short:   "Shows all that is known of tasks",
		Example: `  {{stem}} tasks show 0198c0de-0000-7000-8000-000000000001
  {{stem}} tasks show job-42 --output json`,
		Args: arguments(1, -1, "the ID of a task"),
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		var found []stem.Status
		var errs []error
		for _, id := range args {
			st, err := client.Get(ctx, id)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found = append(found, normalised(st))
		}
		return errors.Join(s.showStatuses(found, len(args)), all(len(args), errs))
	})
	return c
}

// showStatuses shows statuses in full: one, where one was asked for, as an
// object.
func (s *session) showStatuses(found []stem.Status, asked int) error {
	if f := s.flags.output; f == asJSON && asked == 1 && len(found) == 1 {
		_, err := s.object(found[0])
		return err
	} else if f != asTable && f != asWide {
		_, err := list(s, statusView(), one(found))
		return err
	}
	for i := range found {
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		s.sheet().status(&found[i])
	}
	return nil
}

// sheet writes one thing in full: a name and a value a line.
type sheet struct {
	out    io.Writer
	colour bool
}

func (s *session) sheet() *sheet { return &sheet{out: s.stdout, colour: s.colour(s.p.Stdout)} }

// sheetWidth is the width of the names.
const sheetWidth = 14

// line writes a name and its value; an empty value is left out. Further lines
// of the value stand below the first.
func (sh *sheet) line(name, value string) {
	if value == "" {
		return
	}
	value = strings.ReplaceAll(clean(strings.TrimRight(value, "\n")), "\n", "\n"+strings.Repeat(" ", sheetWidth))
	pad := strings.Repeat(" ", max(1, sheetWidth-uniseg.StringWidth(name)))
	if sh.colour {
		name = faint + name + plainColour
	}
	fmt.Fprintln(sh.out, name+pad+value)
}

func (sh *sheet) time(name string, t time.Time) {
	if !t.IsZero() {
		sh.line(name, moment(t)+"  "+ago(t))
	}
}

func (sh *sheet) status(st *stem.Status) {
	state := string(st.State)
	if paint := stateColour(st.State); sh.colour && paint != "" {
		fmt.Fprintln(sh.out, bold+st.ID+plainColour+"  "+paint+state+plainColour)
	} else {
		fmt.Fprintln(sh.out, st.ID+"  "+state)
	}
	sh.line("task", st.Name)
	sh.line("queue", fmt.Sprintf("%s, priority %d", st.Queue, st.Priority))
	attempt := strconv.Itoa(st.Attempt)
	if st.Meta[task.MetaRetriesUnsaid] == nil { // else the worker's own number counts, if it has one
		attempt += fmt.Sprintf(" of %d", st.MaxRetries+1)
	}
	sh.line("attempt", attempt)
	sh.line("reason", st.Reason)
	sh.line("worker", st.Worker)
	sh.time("enqueued", st.EnqueuedAt)
	if !st.State.Terminal() {
		sh.time("due", st.NotBefore)
	}
	sh.time("started", st.StartedAt)
	sh.time("finished", st.FinishedAt)
	if took := took(st); took != "-" {
		sh.line("took", took)
	}
	if st.ReplayCount > 0 {
		sh.line("replayed", several(st.ReplayCount, "time")+", last at "+moment(st.LastReplayAt))
	}
	sh.time("kept until", st.ExpiresAt)
	if st.Progress != nil {
		sh.line("progress", fmt.Sprintf("%g %% %s", st.Progress.Percent, st.Progress.Data))
	}
	sh.json("args", st.Args)
	sh.json("result", st.Result)
	sh.meta(st.Meta)
	sh.errors(st.Error, st.Errors)
}

// maxShown bounds a payload that is shown to people.
const maxShown = 16 << 10

// json writes a payload, indented when it is longer than a line.
func (sh *sheet) json(name string, raw json.RawMessage) {
	if raw == nil {
		return
	}
	text := string(raw)
	var indented bytes.Buffer
	if len(raw) > 80 && json.Indent(&indented, raw, "", "  ") == nil {
		text = indented.String()
	}
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "… (--output json has all of it)"
	}
	sh.line(name, text)
}

func (sh *sheet) meta(meta map[string]json.RawMessage) {
	keys := make([]string, 0, len(meta))
	for k := range meta {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		sh.json("meta."+k, meta[k])
	}
}

// errors writes the newest error in full, and the ones before in a line each.
func (sh *sheet) errors(newest *task.Error, all []task.Error) {
	if newest == nil && len(all) > 0 {
		newest = &all[len(all)-1]
	}
	if newest == nil {
		return
	}
	retry := "no other attempt could help"
	if newest.Retryable {
		retry = "retryable"
	}
	sh.line("error", newest.Type+": "+newest.Message)
	sh.line("  of attempt", strconv.Itoa(newest.Attempt)+", "+moment(newest.At)+", "+retry)
	sh.line("  stack", newest.Stack)
	for i := len(all) - 1; i >= 0; i-- {
		e := &all[i]
		if e.Attempt == newest.Attempt && e.At.Equal(newest.At) {
			continue
		}
		sh.line("  before", fmt.Sprintf("attempt %d, %s: %s: %s", e.Attempt, moment(e.At), e.Type, oneLine(e.Message, 200)))
	}
}
