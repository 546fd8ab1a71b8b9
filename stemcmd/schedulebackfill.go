package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
)

func (s *session) scheduleBackfillCommand() *cobra.Command {
	var f changeFlags
	var from, to instant
	c := &cobra.Command{
		Use:   "backfill ID",
		Short: "Enqueues the tasks of moments that have passed",
		Long: fmt.Sprintf(`Enqueues the tasks of a schedule's moments from one to another, both included, which
have passed: before it was there, while it was disabled, or passed over. A moment's
task has the id that its firing gives it: what is known still is not enqueued again.
At most %d moments; --dry-run shows them.`, beat.MaxBackfill),
		Example: `  {{stem}} schedule backfill nightly-report --from 2026-03-01T00:00:00Z --to 2026-03-08T00:00:00Z --dry-run
  {{stem}} schedule backfill nightly-report --from 2026-03-01T00:00:00Z --yes`,
		Args:              arguments(1, 1, "the ID of a schedule"),
		ValidArgsFunction: s.completeSchedules,
	}
	f.add(c)
	c.Flags().Var(&from, "from", "the first `MOMENT`")
	c.Flags().Var(&to, "to", "the last `MOMENT`; default: now")
	addTasksFlag(c.Flags())
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		if time.Time(from).IsZero() {
			return usage("schedule backfill needs --from").hinted("See %s --help", s.cmd.CommandPath())
		}
		return s.scheduleBackfill(ctx, f, args[0], time.Time(from), time.Time(to))
	})
	return c
}

func (s *session) scheduleBackfill(ctx context.Context, f changeFlags, id string, from, to time.Time) error {
	b, err := s.book(ctx, true)
	if err != nil {
		return err
	}
	if to.IsZero() {
		if to, err = b.Now(ctx); err != nil {
			return err
		}
	}
	found, err := b.Backfill(ctx, id, "by hand", from, to, true)
	if err != nil {
		return backfillUsage(err)
	}
	if f.dryRun || len(found) == 0 {
		_, err := list(s, backfillView(true), one(found))
		return err
	}
	span := fmt.Sprintf("%s, due from %s to %s", id, moment(found[0].Due), moment(found[len(found)-1].Due))
	if err := s.confirm(ctx, plan{verb: "Enqueue", count: len(found), thing: "task", filter: span}, f.yes); err != nil {
		return err
	}
	done, err := b.Backfill(ctx, id, "by hand", from, to, false)
	if err != nil {
		return backfillUsage(err)
	}
	var errs []error
	for i := range done {
		switch {
		case done[i].Err != nil:
			errs = append(errs, done[i].Err)
		case !done[i].Known:
			s.changes++
		}
	}
	_, err = list(s, backfillView(false), one(done))
	return errors.Join(err, all(len(done), errs))
}

// backfillUsage makes a wrong range an error of usage.
func backfillUsage(err error) error {
	var field *beat.FieldError
	if errors.As(err, &field) && (field.Field == "from" || field.Field == "to") {
		return usage("--%w", err)
	}
	return err
}

// backfilled is a moment of a backfill as JSON.
type backfilled struct {
	Due   time.Time `json:"due"` // with the offset of its zone
	Task  string    `json:"task"`
	State string    `json:"state"` // enqueued, known, failed, or preview
	Error string    `json:"error,omitempty"`
}

func backfillView(preview bool) view[beat.Backfilled] {
	type row = beat.Backfilled
	state := func(r *row) string {
		switch {
		case preview:
			return "preview"
		case r.Err != nil:
			return "failed"
		case r.Known:
			return "known"
		}
		return "enqueued"
	}
	return view[row]{
		columns: []column[row]{
			{head: "DUE", cell: func(r *row) string { return r.Due.Format("Mon 2006-01-02 15:04:05.999 -07:00 MST") }},
			{head: "TASK", cell: func(r *row) string { return r.Task }},
			{head: "STATE", cell: state},
		},
		name: func(r *row) string { return r.Task },
		json: func(r *row) any {
			out := backfilled{Due: r.Due, Task: r.Task, State: state(r)}
			if r.Err != nil {
				out.Error = r.Err.Error()
			}
			return out
		},
		empty: "no moment lies between",
	}
}
