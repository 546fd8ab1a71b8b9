package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
)

// edit is a command that changes named schedules one by one.
func (s *session) edit(c *cobra.Command, change func(context.Context, *beat.Book, string, beat.ChangeOptions) (beat.Listed, error)) *cobra.Command {
	c.Args = arguments(1, -1, "the ID of a schedule")
	c.ValidArgsFunction = s.completeSchedules
	version := versionFlag(c)
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		o, err := version(args)
		if err != nil {
			return err
		}
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		var done []beat.View
		var errs []error
		for _, id := range args {
			l, err := change(ctx, b, id, o)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			done = append(done, l.View())
			s.changes++
		}
		return errors.Join(s.told(done, len(args)), all(len(args), errs))
	})
	return c
}

// told shows schedules as they are after a change: in a line each, or in full as
// JSON.
func (s *session) told(done []beat.View, asked int) error {
	if f := s.flags.output; f != asTable && f != asWide {
		return s.showSchedules(done, asked)
	}
	for i := range done {
		v := &done[i]
		text := v.ID + " is " + string(v.Status)
		if !v.NextAt.IsZero() {
			text += ", and fires next " + ago(v.NextAt) + " (" + moment(v.NextAt) + ")"
		}
		if v.Note != "" {
			text += ": " + v.Note
		}
		fmt.Fprintln(s.stdout, oneLine(text, 400))
	}
	return nil
}

// versionFlag adds --version of an optimistic change, for one schedule.
func versionFlag(c *cobra.Command) func(args []string) (beat.ChangeOptions, error) {
	var version int64
	c.Flags().Int64Var(&version, "if-version", 0, "`N`: change it only if it is at this version still")
	return func(args []string) (beat.ChangeOptions, error) {
		switch {
		case c.Flags().Changed("if-version") && version < 1:
			return beat.ChangeOptions{}, usage("--if-version %d: want 1 or more", version)
		case version != 0 && len(args) > 1:
			return beat.ChangeOptions{}, usage("--if-version is for one schedule")
		}
		return beat.ChangeOptions{Version: version}, nil
	}
}

func (s *session) scheduleEnableCommand() *cobra.Command {
	return s.edit(&cobra.Command{
		Use:     "enable ID...",
		Short:   "Makes schedules fire from now on",
		Example: `  {{stem}} schedule enable nightly-report`,
	}, func(ctx context.Context, b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Enable(ctx, id, o)
	})
}

func (s *session) scheduleDisableCommand() *cobra.Command {
	return s.edit(&cobra.Command{
		Use:     "disable ID...",
		Short:   "Stops schedules until they are enabled; what passes meanwhile is not made up for",
		Example: `  {{stem}} schedule disable nightly-report`,
	}, func(ctx context.Context, b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Disable(ctx, id, o)
	})
}

func (s *session) schedulePauseCommand() *cobra.Command {
	var note string
	c := s.edit(&cobra.Command{
		Use:   "pause ID...",
		Short: "Stops schedules for a while, with a note of why",
		Long: `Stops schedules for a while, with a note of why. It is kept apart from enabled, which
is what a file says: apply does not resume what an operator paused.`,
		Example: `  {{stem}} schedule pause nightly-report --note "the warehouse moves, until Monday"`,
	}, func(ctx context.Context, b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Pause(ctx, id, note, o)
	})
	c.Flags().StringVar(&note, "note", "", "`TEXT` that others see")
	return c
}

func (s *session) scheduleResumeCommand() *cobra.Command {
	return s.edit(&cobra.Command{
		Use:     "resume ID...",
		Short:   "Ends a pause; what passed meanwhile is not made up for",
		Example: `  {{stem}} schedule resume nightly-report`,
	}, func(ctx context.Context, b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Resume(ctx, id, o)
	})
}

func (s *session) scheduleDeleteCommand() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use:     "delete ID...",
		Aliases: []string{"rm"},
		Short:   "Removes schedules with their history",
		Example: `  {{stem}} schedule delete nightly-report --yes
  {{stem}} schedule delete a b c --dry-run`,
		Args:              arguments(1, -1, "the ID of a schedule"),
		ValidArgsFunction: s.completeSchedules,
	}
	f.add(c)
	version := versionFlag(c)
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		o, err := version(args)
		if err != nil {
			return err
		}
		return s.scheduleDelete(ctx, f, o, args)
	})
	return c
}

func (s *session) scheduleDelete(ctx context.Context, f changeFlags, o beat.ChangeOptions, ids []string) error {
	b, err := s.book(ctx, true)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := b.Get(ctx, id); err != nil {
			return err
		}
	}
	p := plan{verb: "Delete", count: len(ids), thing: "schedule", filter: strings.Join(ids, ", ")}
	out := change{Action: "delete", Count: len(ids), DryRun: f.dryRun, IDs: ids}
	if f.dryRun {
		return s.tell(out, p)
	}
	if err := s.confirm(ctx, p, f.yes); err != nil {
		return err
	}
	for i, id := range ids {
		err := b.Delete(ctx, id, o)
		if err != nil && i > 0 {
			return fail(ExitPartly, "%s deleted, then: %w", several(i, "schedule"), err)
		}
		if err != nil {
			return err
		}
		s.changes++
	}
	return s.tell(out, p)
}

func (s *session) scheduleRunCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run ID...",
		Short: "Enqueues schedules' tasks now, beside their moments",
		Long: `Enqueues schedules' tasks now, whether they are enabled or not, and notes it in their
history. Their moments stay as they are.`,
		Example: `  {{stem}} schedule run nightly-report
  {{stem}} tasks wait $({{stem}} schedule run nightly-report --output name)`,
		Args:              arguments(1, -1, "the ID of a schedule"),
		ValidArgsFunction: s.completeSchedules,
	}
	addTasksFlag(c.Flags())
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		var done []ranByHand
		var errs []error
		for _, id := range args {
			r, err := b.Run(ctx, id, "by hand")
			if err != nil {
				errs = append(errs, err)
			} else {
				done = append(done, ranByHand{Schedule: id, Task: r.ID})
				s.changes++
			}
		}
		_, err = list(s, ranView(), one(done))
		return errors.Join(err, all(len(args), errs))
	})
	return c
}

// ranByHand is a run by hand as JSON.
type ranByHand struct {
	Schedule string `json:"schedule"`
	Task     string `json:"task"`
}

func ranView() view[ranByHand] {
	return view[ranByHand]{
		columns: []column[ranByHand]{
			{head: "SCHEDULE", cell: func(r *ranByHand) string { return r.Schedule }},
			{head: "TASK", cell: func(r *ranByHand) string { return r.Task }},
		},
		name: func(r *ranByHand) string { return r.Task },
	}
}
