package stemcmd

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func (s *session) tasksWatchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "watch ID",
		Short: "Shows a task as it is and at each change, until it has ended",
		Long: `Shows a task as it is now, and again at each change, progress included, until it has
ended; changes that follow fast on each other may be merged. The exit code is 0 when
it has ended, however: tasks wait tells how.`,
		Example: `  {{stem}} tasks watch 0198c0de-0000-7000-8000-000000000001
  {{stem}} tasks watch job-42 --timeout 10m --output jsonl`,
		Args: arguments(1, 1, "the ID of a task"),
	}
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		_, err = list(s, watchView(), changes(ctx, client, args[0]))
		return err
	})
	return c
}

// changes gives a task's status at each change.
func changes(ctx context.Context, c *stem.Client, id string) iter.Seq2[[]stem.Status, error] {
	return func(yield func([]stem.Status, error) bool) {
		for st, err := range c.Watch(ctx, id) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield([]stem.Status{normalised(st)}, nil) {
				return
			}
		}
	}
}

// watchView shows one task, a line for each change. Its columns are as wide as
// they will have to be: nobody knows the later lines yet.
func watchView() view[stem.Status] {
	type row = stem.Status
	return view[row]{
		columns: []column[row]{
			{head: "TIME                    ", cell: func(*row) string { return moment(time.Now()) }},
			{head: "STATE    ", cell: func(st *row) string { return string(st.State) }, paint: func(st *row) string { return stateColour(st.State) }},
			{head: "ATTEMPT", right: true, cell: func(st *row) string { return strconv.Itoa(st.Attempt) }},
			{head: "TOOK    ", cell: took},
			{head: "WORKER", wide: true, cell: func(st *row) string { return st.Worker }},
			{head: "NOTE", cell: statusNote},
		},
		name: func(st *row) string { return st.ID + " " + string(st.State) },
	}
}

func (s *session) tasksRetryCommand() *cobra.Command {
	how := &replayFlags{}
	c := &cobra.Command{
		Use:   "retry ID...",
		Short: "Runs failed tasks once more, with fresh retries",
		Long: `Runs failed tasks once more, with fresh retries: it replays their dead letters. A task
that has not failed is left as it is, and the reason told; the exit code is then 5, 4
when a task is not there, 6 when others were retried.`,
		Example: `  {{stem}} tasks retry job-42
  {{stem}} tasks retry job-42 job-43 --in 10m
  {{stem}} tasks ls state:failed name:email.send --output name | xargs {{stem}} tasks retry`,
		Args: arguments(1, -1, "the ID of a task"),
	}
	c.Flags().Var(&how.in, "in", "due so much later")
	c.Flags().Var(&how.at, "at", "due at this `MOMENT`")
	notTogether(c, "in", "at")
	c.RunE = s.short(func(ctx context.Context, args []string) error { return s.tasksRetry(ctx, how, args) })
	return c
}

// retried is what tasks retry says of one task.
type retried struct {
	ID     string `json:"id"`
	Answer string `json:"answer"` // retried, refused or unknown
	Reason string `json:"reason,omitempty"`
	Queue  string `json:"queue,omitempty"`
}

func (s *session) tasksRetry(ctx context.Context, how *replayFlags, ids []string) error {
	for _, id := range ids {
		if err := task.ValidateID(id); err != nil {
			return err
		}
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	rows := make([]retried, 0, len(ids))
	var errs []error
	for _, id := range ids {
		r, err := client.ReplayDeadLetters(ctx, broker.DeadFilter{IDs: []string{id}}, broker.ReplayOptions{NotBefore: how.due()})
		if err != nil {
			errs = append(errs, err)
			break
		}
		row := retried{ID: id, Answer: "retried"}
		s.changes += r.Count
		if r.Count == 0 {
			row = whyNot(ctx, client, id)
			code := ExitRefused
			if row.Answer == "unknown" {
				code = ExitNotFound
			}
			errs = append(errs, fail(code, "task %s is not retried: %s", id, row.Reason))
		} else if len(r.Entries) > 0 {
			row.Queue = r.Entries[0].Queue
		}
		rows = append(rows, row)
	}
	_, err = list(s, view[retried]{
		columns: []column[retried]{
			{head: "ID", cell: func(x *retried) string { return x.ID }},
			{head: "ANSWER", cell: func(x *retried) string { return x.Answer }},
			{head: "REASON", cell: func(x *retried) string { return x.Reason }},
		},
		name: func(x *retried) string { return x.ID },
	}, one(rows))
	return errors.Join(err, all(len(ids), errs))
}

// whyNot says why a task that is no dead letter cannot be retried.
func whyNot(ctx context.Context, c *stem.Client, id string) retried {
	st, err := c.Get(ctx, id)
	refused := retried{ID: id, Answer: "refused"}
	switch {
	case errors.Is(err, stem.ErrNotFound):
		return retried{ID: id, Answer: "unknown", Reason: "no such task is known"}
	case err != nil:
		refused.Reason = "it is no dead letter, and its status cannot be read: " + err.Error()
	case st.State == stem.Failed:
		refused.Reason = "it failed, and its dead letter is gone: enqueue it anew"
	case st.State == stem.Succeeded:
		refused.Reason = "it succeeded: enqueue it anew"
	case st.State == stem.Cancelled:
		refused.Reason = "it was cancelled (" + st.Reason + "): enqueue it anew"
	case st.State == stem.Retried:
		refused.Reason = "it is retried already, " + ago(st.NotBefore)
	case st.State == stem.Running:
		refused.Reason = "it is running"
	default:
		refused.Reason = "it is queued: it has not run yet"
	}
	return refused
}
