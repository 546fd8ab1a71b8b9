package stemcmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

func (s *session) workerShutdownCommand() *cobra.Command {
	f, ch := &askFlags{}, changeFlags{}
	mode := "warm"
	c := &cobra.Command{
		Use:   "shutdown --worker GLOB",
		Short: "Tells workers to stop: warm, soft or hard",
		Long: `Tells workers to stop, and returns when they have replied; they stop after that.
  warm   takes no more, gives back what has not started, finishes what runs
  soft   also cancels what runs, and gives it back uncounted
  hard   stops now; leases bring the work back
A more urgent mode may follow. It asks first, or needs --yes. The exit code is as
that of worker ping.`,
		Example: `  {{stem}} worker shutdown --worker 'web-*'
  {{stem}} worker shutdown --worker web-1 --mode hard --yes`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to stop; '*' for all")
	ch.add(c)
	c.Flags().StringVar(&mode, "mode", mode, "`MODE`: warm, soft or hard")
	if err := c.RegisterFlagCompletionFunc("mode", fixed("warm", "soft", "hard")); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
	c.RunE = s.asks(func(ctx context.Context, _ []string) error {
		if err := named(c, f); err != nil {
			return err
		}
		switch mode {
		case "warm", "soft", "hard":
		default:
			return usage("--mode %q: want warm, soft or hard", mode)
		}
		return s.workerShutdown(ctx, f, ch, mode)
	})
	return c
}

// named refuses a command that would reach every worker without saying so.
func named(c *cobra.Command, f *askFlags) error {
	if f.worker == "" {
		return usage("say which workers: --worker").hinted("%s --worker '*' takes all", c.CommandPath())
	}
	return nil
}

func (s *session) workerShutdown(ctx context.Context, f *askFlags, ch changeFlags, mode string) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	alive, err := live(ctx, client, f)
	if err != nil {
		return err
	}
	if len(alive) == 0 {
		return noWorker(f.worker)
	}
	p := plan{verb: "Stop", count: len(alive), thing: "worker", filter: f.worker + ", " + mode}
	if ch.dryRun {
		out := change{Action: "stop", Count: len(alive), DryRun: true, IDs: []string{}}
		for i := range alive {
			out.IDs = append(out.IDs, alive[i].Worker)
		}
		return s.tell(out, p)
	}
	if err := s.confirm(ctx, p, ch.yes); err != nil {
		return err
	}
	a, err := s.askBy(ctx, client, f, stem.CommandShutdown, stem.ShutdownArgs{Mode: mode})
	if err != nil {
		return err
	}
	return s.showReplies(f, a, func(*stem.WorkerReply) string { return "stops " + mode })
}

func (s *session) workerScaleCommand() *cobra.Command {
	f := &askFlags{}
	n := whole{least: 1, most: 100_000}
	c := &cobra.Command{
		Use:   "scale --worker GLOB --concurrency N",
		Short: "Changes how many handlers workers run at once",
		Long: `Changes how many handlers workers run at once, for as long as they live: one that
starts anew has what it was configured with. What runs goes on. The exit code is as
that of worker ping.`,
		Example: `  {{stem}} worker scale --worker 'web-*' --concurrency 32`,
		Args:    noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to change; '*' for all")
	c.Flags().Var(&n, "concurrency", "`N` handlers at once, of each worker")
	c.RunE = s.asks(func(ctx context.Context, _ []string) error {
		if err := named(c, f); err != nil {
			return err
		}
		if !n.set {
			return usage("say how many: --concurrency")
		}
		a, err := s.ask(ctx, f, stem.CommandScale, stem.ScaleArgs{Concurrency: n.value})
		if err != nil {
			return err
		}
		return s.showReplies(f, a, func(r *stem.WorkerReply) string {
			var x stem.Scaled
			if r.Decode(&x) != nil {
				return ""
			}
			return fmt.Sprintf("%d → %d", x.Before, x.After)
		})
	})
	return c
}

func (s *session) workerLogLevelCommand() *cobra.Command {
	f := &askFlags{}
	c := &cobra.Command{
		Use:   "log-level --worker GLOB LEVEL",
		Short: "Changes what workers log: debug, info, warn or error",
		Long: `Changes from which level on workers log, for as long as they live. The exit code is
as that of worker ping.`,
		Example: `  {{stem}} worker log-level --worker web-1 debug`,
		Args:    arguments(1, 1, "a LEVEL"), ValidArgsFunction: fixed("debug", "info", "warn", "error"),
	}
	f.add(s, c, "`GLOB` of the ids of workers to change; '*' for all")
	c.RunE = s.asks(func(ctx context.Context, args []string) error {
		if err := named(c, f); err != nil {
			return err
		}
		switch args[0] {
		case "debug", "info", "warn", "error":
		default:
			return usage("level %q: want debug, info, warn or error", args[0])
		}
		a, err := s.ask(ctx, f, stem.CommandLogLevel, stem.LogLevelArgs{Level: args[0]})
		if err != nil {
			return err
		}
		return s.showReplies(f, a, func(r *stem.WorkerReply) string {
			var x stem.LogLevelArgs
			if r.Decode(&x) != nil {
				return ""
			}
			return strings.ToLower(x.Level) + " → " + args[0]
		})
	})
	return c
}

func (s *session) workerRevokeCommand() *cobra.Command {
	var o stem.RevokeOptions
	var ids []string
	var pending bool
	c := &cobra.Command{
		Use:   "revoke --task ID...",
		Short: "Cancels tasks, queued, delayed or running; or lists what is still to be stopped",
		Long: `Cancels tasks, as tasks cancel does: what nobody holds never starts; what a worker
has received and not started is dropped; what runs is stopped with --terminate.
A revocation is kept with the task: a worker that starts later obeys it too.
--list shows the tasks that were told to stop and have not ended.`,
		Example: `  {{stem}} worker revoke --task job-42
  {{stem}} worker revoke --task job-42 --task job-43 --terminate --reason "wrong customer"
  {{stem}} worker revoke --list`,
		Args: noArguments,
	}
	c.Flags().StringArrayVar(&ids, "task", nil, "`ID` of a task; may be given again")
	c.Flags().BoolVar(&o.Terminate, "terminate", false, "also stop a handler that runs")
	c.Flags().StringVar(&o.Reason, "reason", "", "`REASON` that is kept with the status")
	c.Flags().BoolVar(&pending, "list", false, "list what is still to be stopped")
	notTogether(c, "list", "task", "terminate", "reason")
	c.RunE = s.short(func(ctx context.Context, _ []string) error {
		switch {
		case pending:
			return s.listRevocations(ctx)
		case len(ids) == 0:
			return usage("say which tasks: --task, or --list to see what is still to be stopped")
		default:
			return s.tasksCancel(ctx, o, ids)
		}
	})
	return c
}

func (s *session) listRevocations(ctx context.Context) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	type row = broker.PendingRevocation
	v := view[row]{
		columns: []column[row]{
			{head: "ID", cell: func(r *row) string { return r.ID }},
			{head: "WORKER", cell: func(r *row) string { return r.Worker }},
			{head: "TERMINATE", cell: func(r *row) string {
				if r.Terminate {
					return "yes"
				}
				return "no"
			}},
			{head: "REASON", cell: func(r *row) string { return r.Reason }},
		},
		name:  func(r *row) string { return r.ID },
		empty: "nothing is still to be stopped",
	}
	_, err = list(s, v, func(yield func([]row, error) bool) {
		for cursor := ""; ; {
			page, next, err := client.PendingRevocations(ctx, broker.Page{Limit: 1000, Cursor: cursor})
			if !yield(page, err) || err != nil || next == "" {
				return
			}
			cursor = next
		}
	})
	return err
}
