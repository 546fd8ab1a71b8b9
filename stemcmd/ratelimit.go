package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

// declaredRate is the word for the rate that a task is declared with.
const declaredRate = "declared"

func (s *session) workerRateLimitCommand() *cobra.Command {
	burst := whole{most: 1_000_000}
	var note string
	var changed bool
	c := &cobra.Command{
		Use:   "rate-limit TASK RATE",
		Short: "Changes how often a task may start, over all workers; or lists what is changed",
		Long: `Changes how often a task may start, over all workers, whatever it is declared with:
  10/s, 100/m, 500/h, 1000/d   so many in a second, a minute, an hour or a day
  none                         as many as there are isolates
  declared                     what the task is declared with, again
The change is kept with the tasks: workers that start later obey it too, and so does
the pull API. Workers are told, and say what was in force and what is. Who does not
reply has it with its next heartbeat. Tasks that wait for the moment of their slot
keep it, and who comes now waits behind them.

The exit code is 0 when all workers that live replied, or none lives; 6 when the
change is kept and a worker did not reply.`,
		Example: `  {{stem}} worker rate-limit card.charge 10/s --note "the bank is slow"
  {{stem}} worker rate-limit card.charge declared
  {{stem}} worker rate-limit --list`,
		ValidArgsFunction: s.completeRate,
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if changed {
			return noArguments(c, args)
		}
		return arguments(2, 2, "a TASK and its RATE")(c, args)
	}
	c.Flags().Var(&burst, "burst", "`N` that may start at once after a pause; default: 1, all are the same time apart")
	c.Flags().StringVar(&note, "note", "", "`TEXT` that says why, to those who look")
	c.Flags().BoolVar(&changed, "list", false, "list the tasks whose rate is changed")
	notTogether(c, "list", "burst", "note")
	c.RunE = s.asks(func(ctx context.Context, args []string) error {
		if changed {
			return s.listRates(ctx)
		}
		r := stem.RateChange{Task: args[0], Rate: args[1], Burst: burst.value, Note: note}
		if r.Rate == declaredRate {
			if burst.set {
				return usage("--burst is part of a rate; declared is another one")
			}
			r.Rate = stem.NoRate // for the check of all else
		}
		if err := r.Validate(); err != nil {
			return usage("%w, or none, or declared", err)
		}
		r.Rate = args[1]
		return s.changeRate(ctx, r)
	})
	return c
}

func (s *session) changeRate(ctx context.Context, r stem.RateChange) error {
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	if t, ok := known.find(r.Task); ok {
		r.Task = t.Name() // not an old name of it
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	if r.Rate == declaredRate {
		had, err := client.ResetRates(ctx, r.Task)
		if err != nil {
			return err
		}
		if !had[0] {
			return fail(ExitNotFound, "the rate of %s is not changed", r.Task).hinted("%s worker rate-limit --list has those that are", s.app.Name)
		}
	} else if err := client.ChangeRates(ctx, r); err != nil {
		return err
	}
	s.changes++
	a, err := client.Ask(ctx, stem.AskOptions{Wait: s.askTime()}, stem.CommandRate, stem.RateArgs{Task: r.Task})
	if errors.Is(err, broker.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		err = s.showRated(r.Task, a)
	}
	if err != nil {
		return (&exitError{code: ExitPartly, err: err}).hinted("The change is kept: who did not reply has it with the next heartbeat")
	}
	return nil
}

// showRated lists what workers replied to a change that is kept.
func (s *session) showRated(name string, a stem.Asked) error {
	executed := false
	rows := replies(a, func(r *stem.WorkerReply) string {
		var x stem.Rated
		if r.Decode(&x) != nil || !x.Known {
			return "does not execute " + name
		}
		executed = true
		if x.Before == x.After {
			return x.After
		}
		return fmt.Sprintf("%s → %s", x.Before, x.After)
	})
	if _, err := list(s, replyView(), one(rows)); err != nil {
		return err
	}
	switch {
	case len(rows) == 0:
		s.note("no worker is alive; those that start have it")
		return nil
	case !executed && len(a.Replies) > 0:
		s.note("no worker that replied executes %s: is that its name?", name)
	}
	return askedOf(&askFlags{}, a)
}

func (s *session) listRates(ctx context.Context) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	all, err := client.RateChanges(ctx)
	if err != nil {
		return err
	}
	type row = stem.RateChange
	_, err = list(s, view[row]{
		columns: []column[row]{
			{head: "TASK", cell: func(r *row) string { return r.Task }},
			{head: "RATE", cell: func(r *row) string { return r.Rate }},
			{head: "BURST", right: true, cell: func(r *row) string {
				if r.Burst == 0 {
					return "-"
				}
				return strconv.Itoa(r.Burst)
			}},
			{head: "SINCE", cell: func(r *row) string { return ago(r.Since) }},
			{head: "SINCE AT", wide: true, cell: func(r *row) string { return moment(r.Since) }},
			{head: "NOTE", cell: func(r *row) string { return r.Note }},
		},
		name:  func(r *row) string { return r.Task },
		empty: "each task has the rate that it is declared with",
	}, one(all))
	return err
}

// completeRate completes a task, and then the words for a rate.
func (s *session) completeRate(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return []string{stem.NoRate, declaredRate}, cobra.ShellCompDirectiveNoFileComp
	}
	return s.completeTasks(cmd, args, word)
}
