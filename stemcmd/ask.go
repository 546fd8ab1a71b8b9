package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// askFlags say which workers are asked.
type askFlags struct{ worker string }

const allWorkers = "*"

func (f *askFlags) add(s *session, c *cobra.Command, usage string) {
	c.Flags().StringVar(&f.worker, "worker", "", usage)
	if err := c.RegisterFlagCompletionFunc("worker", s.completeWorkers); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
}

// check refuses what is no worker's id and no pattern.
func (f *askFlags) check() error {
	plain := strings.ReplaceAll(f.worker, "*", "x")
	if f.worker == "" {
		f.worker, plain = allWorkers, "x"
	}
	if err := task.ValidateID(plain); err != nil {
		return usage("--worker %q: want a worker's id, or a pattern with *", f.worker)
	}
	return nil
}

// asks makes a command of what asks workers: --timeout, or STEM_CONTROL_TIMEOUT,
// is for their replies, and the stores have their own time besides.
func (s *session) asks(run do) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return s.within(cmd, time.Duration(s.flags.timeout)+time.Minute+shortTimeout, args, run)
	}
}

// askTime is how long replies are waited for.
func (s *session) askTime() time.Duration {
	if s.changed("timeout") && s.flags.timeout > 0 {
		return time.Duration(s.flags.timeout)
	}
	return s.conf.Config.ControlTimeout
}

// ask sends a command to the workers that the flags name.
func (s *session) ask(ctx context.Context, f *askFlags, kind string, args any) (stem.Asked, error) {
	client, err := s.client(ctx)
	if err != nil {
		return stem.Asked{}, err
	}
	return s.askBy(ctx, client, f, kind, args)
}

// askBy is ask by a client that the command has already.
func (s *session) askBy(ctx context.Context, client *stem.Client, f *askFlags, kind string, args any) (stem.Asked, error) {
	if err := f.check(); err != nil {
		return stem.Asked{}, err
	}
	return client.Ask(ctx, stem.AskOptions{To: f.worker, Wait: s.askTime()}, kind, args)
}

// askedOf judges what came of a question: 4 when no worker is there, 6 when some
// are silent or refused, 1 when all are.
func askedOf(f *askFlags, a stem.Asked) error {
	var errs []error
	good := 0
	for _, r := range a.Replies {
		if r.Err != "" {
			errs = append(errs, fmt.Errorf("worker %s: %s", r.Worker, r.Err))
			continue
		}
		good++
	}
	if len(a.Silent) > 0 {
		errs = append(errs, fmt.Errorf("no reply in time from %s", strings.Join(a.Silent, ", ")))
	}
	switch {
	case len(errs) > 0 && good > 0:
		return &exitError{code: ExitPartly, err: errors.Join(errs...)}
	case len(errs) > 0:
		return &exitError{code: ExitFailed, err: errors.Join(errs...)}
	case good == 0:
		return noWorker(f.worker)
	}
	return nil
}

func noWorker(worker string) error {
	if worker == allWorkers || worker == "" {
		return fail(ExitNotFound, "no worker is alive")
	}
	return fail(ExitNotFound, "no live worker fits %q", worker)
}

// reply is what one worker said, as JSON.
type reply struct {
	Worker string  `json:"worker"`
	OK     bool    `json:"ok"`
	TookMS float64 `json:"tookMs"`
	Error  string  `json:"error,omitempty"`
	note   string
}

// noReply is the error of a worker that lives and is silent.
const noReply = "no reply"

// replies lists who replied and who did not.
func replies(a stem.Asked, note func(r *stem.WorkerReply) string) []reply {
	rows := make([]reply, 0, len(a.Replies)+len(a.Silent))
	for i := range a.Replies {
		r := &a.Replies[i]
		row := reply{Worker: r.Worker, OK: r.Err == "", TookMS: float64(r.Took.Microseconds()) / 1000, Error: r.Err}
		if note != nil && row.OK {
			row.note = note(r)
		}
		rows = append(rows, row)
	}
	for _, w := range a.Silent {
		rows = append(rows, reply{Worker: w, Error: noReply})
	}
	return rows
}

func replyView() view[reply] {
	return view[reply]{
		columns: []column[reply]{
			{head: "WORKER", cell: func(r *reply) string { return r.Worker }},
			{head: "REPLY", cell: func(r *reply) string {
				if r.OK {
					return strings.TrimSpace("ok " + r.note)
				}
				return r.Error
			}, paint: func(r *reply) string {
				if r.OK {
					return green
				}
				return red
			}},
			{head: "TOOK", right: true, cell: func(r *reply) string {
				if r.Error == noReply {
					return "-"
				}
				return strconv.FormatFloat(r.TookMS, 'f', 1, 64) + " ms"
			}},
		},
		name: func(r *reply) string { return r.Worker },
	}
}

func (s *session) workerPingCommand() *cobra.Command {
	f := &askFlags{}
	c := &cobra.Command{
		Use:   "ping",
		Short: "Asks workers whether they hear, and says who does not",
		Long: `Asks workers whether they hear, and says who does not: a worker that lives, by its
heartbeat, and did not reply within --timeout (STEM_CONTROL_TIMEOUT, 5s). It ends
as soon as all have. The exit code is 0 when all replied, 6 when some did, 1 when
none did, 4 when no worker is there.`,
		Example: `  {{stem}} worker ping
  {{stem}} worker ping --worker 'web-*' --timeout 2s --output json`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to ask; default: all")
	c.RunE = s.asks(func(ctx context.Context, _ []string) error {
		a, err := s.ask(ctx, f, stem.CommandPing, nil)
		if err != nil {
			return err
		}
		return s.showReplies(f, a, nil)
	})
	return c
}

// showReplies lists who replied, and judges.
func (s *session) showReplies(f *askFlags, a stem.Asked, note func(*stem.WorkerReply) string) error {
	s.changes = len(a.Replies) // where they were told to change
	_, err := list(s, replyView(), one(replies(a, note)))
	return errors.Join(err, askedOf(f, a))
}

// inspected is one task that a worker holds, as JSON.
type inspected struct {
	Worker string `json:"worker"`
	State  string `json:"state"` // active or prefetched
	stem.InspectedTask
}

func (s *session) workerInspectCommand() *cobra.Command {
	f := &askFlags{}
	var only string
	c := &cobra.Command{
		Use:   "inspect",
		Short: "Lists what workers hold: active, prefetched and revoked tasks",
		Long: `Asks workers what they hold: tasks that they execute (active), that they have
received and not started (prefetched), and that were told to stop (revoked). The
exit code is as that of worker ping.`,
		Example: `  {{stem}} worker inspect
  {{stem}} worker inspect --only active --output json
  {{stem}} worker inspect --worker web-1 --only revoked`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to ask; default: all")
	c.Flags().StringVar(&only, "only", "", "`KIND`: active, prefetched or revoked; default: all")
	if err := c.RegisterFlagCompletionFunc("only", fixed("active", "prefetched", "revoked")); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
	c.RunE = s.asks(func(ctx context.Context, _ []string) error {
		switch only {
		case "", "active", "prefetched", "revoked":
		default:
			return usage("--only %q: want active, prefetched or revoked", only)
		}
		a, err := s.ask(ctx, f, stem.CommandInspect, nil)
		if err != nil {
			return err
		}
		return s.showInspected(f, a, only)
	})
	return c
}

func (s *session) showInspected(f *askFlags, a stem.Asked, only string) error {
	rows := []inspected{}
	cut := false
	for i := range a.Replies {
		r := &a.Replies[i]
		var in stem.Inspection
		if r.Err != "" {
			continue // askedOf tells
		}
		if err := r.Decode(&in); err != nil {
			return err
		}
		cut = cut || in.Truncated
		for _, x := range in.Active {
			rows = append(rows, inspected{r.Worker, "active", x})
		}
		for _, x := range in.Prefetched {
			rows = append(rows, inspected{r.Worker, "prefetched", x})
		}
	}
	kept := rows[:0]
	for _, x := range rows {
		if only == "" || x.State == only || only == "revoked" && x.Revoked {
			kept = append(kept, x)
		}
	}
	if _, err := list(s, inspectedView(), one(kept)); err != nil {
		return err
	}
	if cut {
		s.note("a worker holds more than it lists")
	}
	return askedOf(f, a)
}

func inspectedView() view[inspected] {
	type row = inspected
	return view[row]{
		columns: []column[row]{
			{head: "WORKER", cell: func(x *row) string { return x.Worker }},
			{head: "STATE", cell: func(x *row) string {
				if x.Revoked {
					return x.State + ", revoked"
				}
				return x.State
			}},
			{head: "ID", cell: func(x *row) string { return x.ID }},
			{head: "TASK", cell: func(x *row) string { return x.Name }},
			{head: "QUEUE", cell: func(x *row) string { return x.Queue }},
			{head: "ATTEMPT", right: true, cell: func(x *row) string { return strconv.Itoa(x.Attempt) }},
			{head: "SINCE", cell: func(x *row) string { return ago(x.Since) }},
			{head: "SINCE AT", wide: true, cell: func(x *row) string { return moment(x.Since) }},
		},
		name:  func(x *row) string { return x.ID },
		empty: "no worker holds anything",
	}
}

func (s *session) workerStatsCommand() *cobra.Command {
	f := &askFlags{}
	c := &cobra.Command{
		Use:   "stats",
		Short: "Asks workers for their counters of this moment",
		Long: `Asks workers for their counters of this moment: isolates, deliveries held, and what
became of tasks since the worker started. worker status shows what they last said of
themselves, without asking. The exit code is as that of worker ping.`,
		Example: `  {{stem}} worker stats
  {{stem}} worker stats --worker 'web-*' --output json`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to ask; default: all")
	c.RunE = s.asks(func(ctx context.Context, _ []string) error {
		a, err := s.ask(ctx, f, stem.CommandStats, nil)
		if err != nil {
			return err
		}
		rows := []workerRow{}
		for i := range a.Replies {
			var h stem.Heartbeat
			if a.Replies[i].Err != "" {
				continue // askedOf tells
			}
			if err := a.Replies[i].Decode(&h); err != nil {
				return err
			}
			rows = append(rows, workerRowOf(h, 0))
		}
		if _, err := list(s, workerView(), one(rows)); err != nil {
			return err
		}
		return askedOf(f, a)
	})
	return c
}

// completeWorkers completes the ids of live workers.
func (s *session) completeWorkers(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return s.completeFrom(cmd, func(ctx context.Context, c *stem.Client) (names []string, err error) {
		workers, err := c.Workers(ctx)
		for i := range workers {
			names = append(names, workers[i].Worker)
		}
		return names, err
	})
}

// live lists the workers that the flags name, by their heartbeats.
func live(ctx context.Context, client *stem.Client, f *askFlags) ([]stem.Heartbeat, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	all, err := client.Workers(ctx)
	if err != nil {
		return nil, err
	}
	var fit []stem.Heartbeat
	for i := range all {
		if broker.Match(f.worker, all[i].Worker) {
			fit = append(fit, all[i])
		}
	}
	return fit, nil
}

// anyWorkers lists the live workers; none where the store keeps no heartbeats.
func anyWorkers(ctx context.Context, client *stem.Client) ([]stem.Heartbeat, error) {
	workers, err := client.Workers(ctx)
	if errors.Is(err, broker.ErrUnsupported) {
		return nil, nil
	}
	return workers, err
}
