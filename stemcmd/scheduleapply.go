package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/internal/nearest"
)

// applyFlags are those of commands that read files of schedules.
type applyFlags struct {
	changeFlags
	prune, anyTask bool
}

func (s *session) scheduleApplyCommand() *cobra.Command {
	f := &applyFlags{}
	c := &cobra.Command{
		Use:   "apply FILE...",
		Short: "Makes the schedules those of a file: shows what changes, asks, and does all or nothing",
		Long: `Makes the schedules those of a file (- is standard input): shows what changes, asks,
and does all or nothing. What somebody else changed since is a conflict, and nothing
changes. An entry whose times stay the same keeps the moment that it waits for.

A file says nothing of pauses, which are operators'; what it says nothing of is kept:
enabled, too. With --prune, schedules that are in no file are deleted.`,
		Example: `  {{stem}} schedule apply schedules.yaml
  {{stem}} schedule apply schedules.yaml --dry-run
  {{stem}} schedule apply a.yaml b.yaml --prune --yes`,
		Args: arguments(1, -1, "a FILE, or - for standard input"),
	}
	f.add(c)
	c.Flags().BoolVar(&f.prune, "prune", false, "delete the schedules that are in no file")
	f.addTasks(c)
	c.RunE = s.long(func(ctx context.Context, args []string) error { return s.scheduleApply(ctx, f, args) })
	return c
}

func (f *applyFlags) addTasks(c *cobra.Command) {
	c.Flags().BoolVar(&f.anyTask, "any-task", false, "accept tasks that this program does not know")
	addTasksFlag(c.Flags())
}

// desired reads the files, which together name each id once.
func (s *session) desired(f *applyFlags, paths []string) ([]beat.Desired, error) {
	known, err := s.knownTasks()
	if err != nil {
		return nil, err
	}
	var out []beat.Desired
	var errs []error
	first := map[string]string{}
	for _, path := range paths {
		entries, err := s.loadSchedules(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for i := range entries {
			e := &entries[i]
			if err := checkTask(known, f.anyTask, e); err != nil {
				errs = append(errs, &beat.FileError{Path: path, Line: e.Line, Err: err})
			}
			if there, ok := first[e.ID]; ok {
				errs = append(errs, &beat.FileError{Path: path, Line: e.Line, Err: fmt.Errorf("id: %q is in %s too", e.ID, there)})
			}
			first[e.ID] = path
		}
		out = append(out, entries...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, &exitError{code: ExitUsage, err: err}
	}
	return out, nil
}

func (s *session) loadSchedules(path string) ([]beat.Desired, error) {
	if path != "-" {
		return beat.LoadFile(path)
	}
	data, err := io.ReadAll(io.LimitReader(s.p.Stdin, 2<<20)) // more than a file may have
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return beat.ParseFile("standard input", data)
}

// checkTask refuses a task that the program must know and does not.
func checkTask(known *knownTasks, anyTask bool, e *beat.Desired) error {
	if _, ok := known.find(e.Task); ok || !known.complete || anyTask {
		return nil
	}
	if n := nearest.Word(e.Task, known.names()); n != "" {
		return fmt.Errorf("schedule %s: unknown task %.80q: did you mean %s?", e.ID, e.Task, n)
	}
	return fmt.Errorf("schedule %s: unknown task %.80q: this program has %s; with --any-task it may be another's", e.ID, e.Task, strings.Join(known.names(), ", "))
}

func (s *session) scheduleApply(ctx context.Context, f *applyFlags, paths []string) error {
	desired, err := s.desired(f, paths)
	if err != nil {
		return err
	}
	b, err := s.book(ctx, false)
	if err != nil {
		return err
	}
	p, err := b.Plan(ctx, desired, f.prune)
	if err != nil {
		return err
	}
	if f.dryRun || p.Empty() {
		return s.tellPlan(p, f.dryRun)
	}
	if s.flags.output == asTable || s.flags.output == asWide {
		s.diff(p)
	}
	todo := plan{verb: "Apply", count: len(p.Changes) - p.Count(beat.ActionKeep), thing: "change", filter: planCounts(p)}
	if err := s.confirm(ctx, todo, f.yes); err != nil {
		return err
	}
	if err := b.Commit(ctx, p); err != nil {
		return err
	}
	s.changes = todo.count
	if s.flags.output == asTable || s.flags.output == asWide {
		fmt.Fprintln(s.stdout, "applied: "+planCounts(p))
		return nil
	}
	return s.tellPlan(p, false)
}

func planCounts(p *beat.Plan) string {
	return fmt.Sprintf("%d to create, %d to change, %d to delete, %d as they are",
		p.Count(beat.ActionCreate), p.Count(beat.ActionChange), p.Count(beat.ActionDelete), p.Count(beat.ActionKeep))
}

// tellPlan shows a plan without asking.
func (s *session) tellPlan(p *beat.Plan, dryRun bool) error {
	if done, err := s.object(p.View(dryRun)); done {
		return err
	}
	if s.flags.output == asName {
		for i := range p.Changes {
			if p.Changes[i].Action != beat.ActionKeep {
				fmt.Fprintln(s.stdout, p.Changes[i].ID)
			}
		}
		return nil
	}
	s.diff(p)
	fmt.Fprintln(s.stdout, planCounts(p))
	return nil
}

// diff shows what changes, in colour on a terminal.
func (s *session) diff(p *beat.Plan) {
	paint := func(colour, text string) string {
		if !s.colour(s.p.Stdout) {
			return text
		}
		return colour + text + plainColour
	}
	for i := range p.Changes {
		c := &p.Changes[i]
		sign, colour := "~ ", yellow
		switch c.Action {
		case beat.ActionKeep:
			continue
		case beat.ActionCreate:
			sign, colour = "+ ", green
		case beat.ActionDelete:
			fmt.Fprintln(s.stdout, paint(red, "- "+clean(c.ID)))
			continue
		case beat.ActionChange:
		}
		next := "does not fire"
		if !c.NextDue.IsZero() {
			next = "fires next " + moment(c.NextDue)
		}
		fmt.Fprintln(s.stdout, paint(colour, sign+clean(c.ID))+"  "+next)
		for _, d := range c.Fields {
			old, now := oneLine(string(d.Old), maxCell), oneLine(string(d.New), maxCell)
			switch {
			case d.Old == nil:
				fmt.Fprintln(s.stdout, paint(green, "    + "+d.Field+": "+now))
			case d.New == nil:
				fmt.Fprintln(s.stdout, paint(red, "    - "+d.Field+": "+old))
			default:
				fmt.Fprintln(s.stdout, paint(yellow, "    ~ "+d.Field+": ")+paint(red, old)+" → "+paint(green, now))
			}
		}
	}
}

func (s *session) scheduleValidateCommand() *cobra.Command {
	f := &applyFlags{}
	c := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Checks files of schedules, without a store",
		Long: `Checks files of schedules, without a store: every mistake with its line. Where the
program or a tasks file has tasks, a schedule's task must be one of them.`,
		Example: `  {{stem}} schedule validate schedules.yaml
  {{stem}} schedule validate *.yaml --any-task`,
		Args: arguments(1, -1, "a FILE, or - for standard input"),
	}
	f.addTasks(c)
	c.RunE = s.short(func(_ context.Context, args []string) error {
		desired, err := s.desired(f, args)
		if err != nil {
			return err
		}
		rows := make([]validEntry, len(desired))
		for i := range desired {
			e := &desired[i].Entry
			when, err := e.Describe()
			if err != nil {
				return err
			}
			rows[i] = validEntry{ID: e.ID, Task: e.Task, When: when}
		}
		_, err = list(s, validView(), one(rows))
		return err
	})
	return c
}

// validEntry is an entry of a file that is as it should be, as JSON.
type validEntry struct {
	ID   string `json:"id"`
	Task string `json:"task"`
	When string `json:"when"`
}

func validView() view[validEntry] {
	return view[validEntry]{
		columns: []column[validEntry]{
			{head: "ID", cell: func(v *validEntry) string { return v.ID }},
			{head: "TASK", cell: func(v *validEntry) string { return v.Task }},
			{head: "WHEN", cell: func(v *validEntry) string { return v.When }},
		},
		name:  func(v *validEntry) string { return v.ID },
		empty: "the files have no schedules",
	}
}
