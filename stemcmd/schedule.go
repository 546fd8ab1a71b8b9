package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

func (s *session) scheduleCommand() *cobra.Command {
	c := group("schedule", "Looks at schedules, and changes them",
		s.scheduleListCommand(), s.scheduleShowCommand(), s.scheduleApplyCommand(), s.scheduleValidateCommand(),
		s.scheduleDeleteCommand(), s.scheduleEnableCommand(), s.scheduleDisableCommand(),
		s.schedulePauseCommand(), s.scheduleResumeCommand(), s.scheduleRunCommand(), s.scheduleBackfillCommand(),
		s.scheduleDryRunCommand(), s.scheduleHistoryCommand(), s.scheduleExportCommand())
	c.Aliases = []string{"schedules"}
	return c
}

// book opens the store of schedules.
func (s *session) book(ctx context.Context, mustExist bool) (*beat.Book, error) {
	known, err := s.knownTasks()
	if err != nil {
		return nil, err
	}
	client, err := s.clientOn(ctx, mustExist, nil)
	if err != nil {
		return nil, err
	}
	b, err := beat.NewBook(client, s.backend.Schedules(), s.backend.Locks(), known.tasks...)
	if errors.Is(err, broker.ErrUnsupported) {
		return nil, fail(ExitRefused, "%s: %w", s.where(), err).hinted("Name another store with --schedules")
	}
	return b, err
}

func (s *session) scheduleListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Lists schedules: when they fire next, when they last did, what they do",
		Example: `  {{stem}} schedule list
  {{stem}} schedule list --output wide`,
		Args: noArguments,
	}
	c.RunE = s.short(func(ctx context.Context, _ []string) error {
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		_, err = list(s, scheduleView(), views(b.All(ctx)))
		return err
	})
	return c
}

// views turns entries into what is shown of them.
func views(pages iter.Seq2[[]beat.Listed, error]) iter.Seq2[[]beat.View, error] {
	return func(yield func([]beat.View, error) bool) {
		for page, err := range pages {
			out := make([]beat.View, len(page))
			for i := range page {
				out[i] = page[i].View()
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

func scheduleView() view[beat.View] {
	type row = beat.View
	return view[row]{
		columns: []column[row]{
			{head: "ID", cell: func(v *row) string { return v.ID }},
			{head: "STATUS", cell: func(v *row) string { return string(v.Status) }, paint: func(v *row) string { return scheduleColour(v.Status) }},
			{head: "TASK", cell: func(v *row) string { return v.Task }},
			{head: "WHEN", cell: func(v *row) string { return v.When }},
			{head: "SPEC", wide: true, cell: func(v *row) string { return v.Spec }},
			{head: "NEXT", cell: func(v *row) string { return ago(v.NextAt) }},
			{head: "LAST", cell: func(v *row) string { return ago(v.LastFired) }},
			{head: "FIRED", right: true, cell: func(v *row) string { return strconv.FormatInt(v.Fired, 10) }},
			{head: "MISFIRED", right: true, wide: true, cell: func(v *row) string { return strconv.FormatInt(v.Misfired, 10) }},
			{head: "VERSION", right: true, wide: true, cell: func(v *row) string { return strconv.FormatInt(v.Version, 10) }},
			{head: "ERROR", cell: func(v *row) string { return first(v.LastError, v.Note) }},
		},
		name:  func(v *row) string { return v.ID },
		empty: "there are no schedules",
	}
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func scheduleColour(status beat.Status) string {
	switch status {
	case beat.StatusActive:
		return green
	case beat.StatusPaused, beat.StatusDisabled:
		return yellow
	case beat.StatusBroken:
		return red
	case beat.StatusDone:
		return faint
	}
	return ""
}

func (s *session) scheduleShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "show ID...",
		Aliases:           []string{"get"},
		Short:             "Shows all that is known of schedules",
		Example:           `  {{stem}} schedule show nightly-report`,
		Args:              arguments(1, -1, "the ID of a schedule"),
		ValidArgsFunction: s.completeSchedules,
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		var found []beat.View
		var errs []error
		for _, id := range args {
			l, err := b.Get(ctx, id)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found = append(found, l.View())
		}
		return errors.Join(s.showSchedules(found, len(args)), all(len(args), errs))
	})
	return c
}

// showSchedules shows schedules in full: one, where one was asked for, as an
// object.
func (s *session) showSchedules(found []beat.View, asked int) error {
	if f := s.flags.output; f == asJSON && asked == 1 && len(found) == 1 {
		_, err := s.object(found[0])
		return err
	} else if f != asTable && f != asWide {
		_, err := list(s, scheduleView(), one(found))
		return err
	}
	for i := range found {
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		s.sheet().schedule(&found[i])
	}
	return nil
}

func (sh *sheet) schedule(v *beat.View) {
	if paint := scheduleColour(v.Status); sh.colour && paint != "" {
		fmt.Fprintln(sh.out, bold+clean(v.ID)+plainColour+"  "+paint+string(v.Status)+plainColour)
	} else {
		fmt.Fprintln(sh.out, clean(v.ID)+"  "+string(v.Status))
	}
	sh.line("when", v.When)
	sh.line("spec", v.Spec)
	sh.line("task", v.Task)
	sh.line("note", v.Note)
	sh.time("next due", v.NextDue)
	if !v.NextAt.Equal(v.NextDue) {
		sh.time("with jitter", v.NextAt)
	}
	sh.time("last due", v.LastDue)
	sh.time("last fired", v.LastFired)
	if !v.LastFired.IsZero() {
		sh.line("drift", fmt.Sprintf("%.1f ms", v.DriftMS))
	}
	sh.line("last task", v.LastTask)
	sh.line("last error", v.LastError)
	sh.line("fired", strconv.FormatInt(v.Fired, 10))
	if v.Misfired > 0 {
		sh.line("misfired", strconv.FormatInt(v.Misfired, 10))
	}
	sh.line("version", fmt.Sprintf("%d, of %s", v.Version, moment(v.UpdatedAt)))
	sh.json("definition", v.Definition)
}

func (s *session) scheduleHistoryCommand() *cobra.Command {
	limit := whole{value: 20, least: 1, most: store.MaxHistory}
	c := &cobra.Command{
		Use:   "history ID",
		Short: "Shows what became of a schedule's newest moments",
		Long: fmt.Sprintf(`Shows what became of a schedule's newest moments, the newest first. The store keeps
%d of each.`, store.MaxHistory),
		Example: `  {{stem}} schedule history nightly-report
  {{stem}} schedule history tick --limit 100 --output jsonl`,
		Args:              arguments(1, 1, "the ID of a schedule"),
		ValidArgsFunction: s.completeSchedules,
	}
	c.Flags().Var(&limit, "limit", "at most so many")
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		records, err := b.History(ctx, args[0], limit.value)
		if err != nil {
			return err
		}
		_, err = list(s, historyView(), one(beat.ViewRecords(records)))
		return err
	})
	return c
}

func historyView() view[beat.FiredView] {
	type row = beat.FiredView
	return view[row]{
		columns: []column[row]{
			{head: "DUE", cell: func(v *row) string { return moment(v.Due) }},
			{head: "OUTCOME", cell: func(v *row) string { return string(v.Outcome) }, paint: func(v *row) string { return outcomeColour(v.Outcome) }},
			{head: "FIRED", cell: func(v *row) string { return moment(v.Fired) }},
			{head: "JITTER", right: true, wide: true, cell: func(v *row) string { return fmt.Sprintf("%.0f ms", v.JitterMS) }},
			{head: "DRIFT", right: true, cell: func(v *row) string { return fmt.Sprintf("%.1f ms", v.DriftMS) }},
			{head: "TASK", cell: func(v *row) string { return v.Task }},
			{head: "BEAT", wide: true, cell: func(v *row) string { return v.Beat }},
			{head: "ERROR", cell: func(v *row) string { return v.Error }},
		},
		name:  func(v *row) string { return v.Due.UTC().Format(time.RFC3339Nano) },
		empty: "it has not fired yet",
	}
}

func outcomeColour(o store.FireOutcome) string {
	switch o {
	case store.OutcomeFired, store.OutcomeManual:
		return green
	case store.OutcomePending, store.OutcomeMisfired, store.OutcomeOverlap, store.OutcomeDuplicate:
		return yellow
	case store.OutcomeFailed, store.OutcomeUnknown:
		return red
	}
	return ""
}

// completeSchedules completes the ids of schedules.
func (s *session) completeSchedules(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if !s.quietly(cmd) {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	b, err := s.book(ctx, true)
	if err != nil {
		return nil, none
	}
	page, _, err := b.List(ctx, broker.Page{Limit: 1000})
	if err != nil {
		return nil, none
	}
	ids := make([]string, len(page))
	for i := range page {
		ids[i] = page[i].Record.ID + "\t" + page[i].When
	}
	return ids, none
}
