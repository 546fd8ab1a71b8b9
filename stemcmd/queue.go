package stemcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func (s *session) queueCommand() *cobra.Command {
	c := group("queue", "Looks at queues, pauses and empties them",
		s.queueListCommand(), s.queuePauseCommand(), s.queueResumeCommand(), s.queuePurgeCommand(), s.queueDrainCommand())
	c.Aliases = []string{"queues"}
	return c
}

// queueInfo is one queue as JSON.
type queueInfo struct {
	Name             string  `json:"name"`
	Ready            int     `json:"ready"`
	Delayed          int     `json:"delayed"`
	Due              int     `json:"due"`
	Leased           int     `json:"leased"`
	Dead             int     `json:"dead"`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds"`
}

func queueInfoOf(q *broker.QueueInfo) queueInfo {
	return queueInfo{q.Name, q.Ready, q.Delayed, q.Due, q.Leased, q.Dead, q.Oldest.Round(time.Millisecond).Seconds()}
}

func (s *session) queueListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls [QUEUE...]",
		Aliases: []string{"list"},
		Short:   "Lists queues: ready, delayed, leased and dead tasks, and the age of the oldest",
		Example: `  {{stem}} queue ls
  {{stem}} queue ls default reports --output json`,
		ValidArgsFunction: s.completeQueues,
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		for _, q := range args {
			if err := task.ValidateQueue(q); err != nil {
				return err
			}
		}
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		infos, err := client.Queues(ctx, args...)
		if err != nil {
			return err
		}
		if _, err = list(s, queueView(), one(infos)); err != nil {
			return err
		}
		return s.tellPaused(ctx, client)
	})
	return c
}

// tellPaused tells people which queues are paused; observe queues tells all.
func (s *session) tellPaused(ctx context.Context, client *stem.Client) error {
	if s.flags.output != asTable && s.flags.output != asWide {
		return nil
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil {
		return err
	}
	for _, p := range pauses {
		text := fmt.Sprintf("queue %s is paused, since %s", p.Queue, ago(p.Since))
		if p.Note != "" {
			text += ": " + p.Note
		}
		s.note("%s", text)
	}
	return nil
}

func queueView() view[broker.QueueInfo] {
	type row = broker.QueueInfo
	return view[row]{
		columns: []column[row]{
			{head: "QUEUE", cell: func(q *row) string { return q.Name }},
			{head: "READY", right: true, cell: func(q *row) string { return strconv.Itoa(q.Ready) }},
			{head: "DELAYED", right: true, cell: func(q *row) string { return strconv.Itoa(q.Delayed) }},
			{head: "DUE", right: true, wide: true, cell: func(q *row) string { return strconv.Itoa(q.Due) }},
			{head: "LEASED", right: true, cell: func(q *row) string { return strconv.Itoa(q.Leased) }},
			{head: "DEAD", right: true, cell: func(q *row) string { return strconv.Itoa(q.Dead) }, paint: func(q *row) string {
				if q.Dead > 0 {
					return red
				}
				return ""
			}},
			{head: "OLDEST", cell: func(q *row) string {
				if q.Ready == 0 {
					return "-"
				}
				return span(q.Oldest)
			}},
		},
		name: func(q *row) string { return q.Name },
		json: func(q *row) any {
			return queueInfoOf(q)
		},
		empty: "no queue holds anything",
	}
}

// changeFlags are those of commands that change many things at once.
type changeFlags struct {
	yes, dryRun bool
}

func (f *changeFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.yes, "yes", false, "do it without asking")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "say how many and show some; change nothing")
	notTogether(c, "yes", "dry-run")
}

// change is what such a command did, or would do, as JSON.
type change struct {
	Action string   `json:"action"`
	Count  int      `json:"count"`
	DryRun bool     `json:"dryRun"`
	IDs    []string `json:"ids"` // a sample

	Args json.RawMessage `json:"args,omitempty"` // as they were edited
}

func (s *session) queuePurgeCommand() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use:   "purge QUEUE",
		Short: "Cancels all that waits in a queue, ready or delayed",
		Long: `Cancels all that waits in a queue, ready or delayed. What a worker holds goes on,
and dead letters stay: see dlq purge.`,
		Example: `  {{stem}} queue purge reports --dry-run
  {{stem}} queue purge reports --yes`,
		Args:              arguments(1, 1, "QUEUE"),
		ValidArgsFunction: s.completeQueues,
	}
	f.add(c)
	c.RunE = s.long(func(ctx context.Context, args []string) error { return s.queuePurge(ctx, f, args[0]) })
	return c
}

func (s *session) queuePurge(ctx context.Context, f changeFlags, queue string) error {
	if err := task.ValidateQueue(queue); err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	infos, err := client.Queues(ctx, queue)
	if err != nil {
		return err
	}
	p := plan{verb: "Purge", thing: "waiting task", filter: "queue " + queue}
	for _, q := range infos {
		p.count += q.Ready + q.Delayed
	}
	if f.dryRun {
		return s.tell(change{Action: "purge", Count: p.count, DryRun: true, IDs: s.sampleOf(ctx, client, queue)}, p)
	}
	if p.count > 0 {
		if err := s.confirm(ctx, p, f.yes); err != nil {
			return err
		}
	}
	n, err := client.PurgeQueue(ctx, queue)
	s.changes = n
	if err != nil && n > 0 {
		return fail(ExitPartly, "%d tasks were purged, then: %w", n, err)
	}
	if err != nil {
		return err
	}
	p.count = n
	return s.tell(change{Action: "purge", Count: n, IDs: []string{}}, p)
}

// sampleOf names some of the tasks that wait in a queue; none where the store
// keeps no statuses.
func (s *session) sampleOf(ctx context.Context, client *stem.Client, queue string) []string {
	ids := []string{}
	l, err := client.List(ctx, store.Query{Queue: queue, States: []task.State{task.Queued, task.Retried}, Limit: sampleSize})
	if err != nil {
		return ids
	}
	for _, st := range l.Statuses {
		ids = append(ids, st.ID)
	}
	return ids
}

// sampleSize is how many of the things that would change a dry run shows.
const sampleSize = 10

// tell shows what was done, or would be.
func (s *session) tell(c change, p plan) error {
	if len(c.IDs) > sampleSize {
		c.IDs = c.IDs[:sampleSize]
	}
	if done, err := s.object(c); done {
		return err
	}
	if s.flags.output == asName {
		for _, id := range c.IDs {
			fmt.Fprintln(s.stdout, id)
		}
		return nil
	}
	if !c.DryRun {
		fmt.Fprintf(s.stdout, "%s %s\n", past(c.Action), several(c.Count, p.thing))
		return nil
	}
	fmt.Fprintf(s.stdout, "would %s %s\n", c.Action, several(c.Count, p.thing))
	for _, id := range c.IDs {
		fmt.Fprintln(s.stdout, "  "+id)
	}
	if c.Args != nil {
		s.sheet().json("  args", c.Args)
	}
	if more := c.Count - len(c.IDs); more > 0 && len(c.IDs) > 0 {
		fmt.Fprintf(s.stdout, "  and %d more\n", more)
	}
	return nil
}

func past(action string) string {
	switch action {
	case "purge":
		return "purged"
	case "replay":
		return "replayed"
	case "retry":
		return "retried"
	default:
		return action
	}
}
