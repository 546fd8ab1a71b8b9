package stemcmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// pauseHelp is what both names of the command say.
const pauseHelp = `A paused queue is received by no worker, until it is resumed: not by
those that run, within a second, nor by those that start later. What runs already
goes on, and everybody may still enqueue. A pattern stands for the queues that there
are now.`

func (s *session) queuePauseCommand() *cobra.Command {
	var note string
	c := &cobra.Command{
		Use:   "pause QUEUE...",
		Short: "Stops queues from being received, until they are resumed",
		Long:  "Stops queues from being received. " + pauseHelp,
		Example: `  {{stem}} queue pause reports --note "database maintenance"
  {{stem}} queue pause '*'`,
		Args: arguments(1, -1, "the name of a QUEUE"), ValidArgsFunction: s.completeQueues,
	}
	c.Flags().StringVar(&note, "note", "", "`TEXT` that says why, to those who look")
	c.RunE = s.short(func(ctx context.Context, args []string) error { return s.pause(ctx, note, args) })
	return c
}

func (s *session) queueResumeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "resume QUEUE...",
		Short: "Lets paused queues go on",
		Example: `  {{stem}} queue resume reports
  {{stem}} queue resume '*'`,
		Args: arguments(1, -1, "the name of a QUEUE"), ValidArgsFunction: s.completeQueues,
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error { return s.resume(ctx, args) })
	return c
}

func (s *session) workerPauseCommand() *cobra.Command {
	var queues []string
	var note string
	c := &cobra.Command{
		Use:     "pause --queue QUEUE",
		Short:   "Stops workers from receiving a queue: the same as queue pause",
		Long:    "Stops workers from receiving a queue. " + pauseHelp,
		Example: `  {{stem}} worker pause --queue reports --note "database maintenance"`,
		Args:    noArguments,
	}
	c.Flags().StringArrayVar(&queues, "queue", nil, "`QUEUE`, or a pattern; may be given again")
	c.Flags().StringVar(&note, "note", "", "`TEXT` that says why, to those who look")
	s.completeQueueFlag(c)
	c.RunE = s.short(func(ctx context.Context, _ []string) error { return s.pause(ctx, note, queues) })
	return c
}

func (s *session) workerResumeCommand() *cobra.Command {
	var queues []string
	c := &cobra.Command{
		Use:     "resume --queue QUEUE",
		Short:   "Lets workers receive a paused queue: the same as queue resume",
		Example: `  {{stem}} worker resume --queue reports`,
		Args:    noArguments,
	}
	c.Flags().StringArrayVar(&queues, "queue", nil, "`QUEUE`, or a pattern; may be given again")
	s.completeQueueFlag(c)
	c.RunE = s.short(func(ctx context.Context, _ []string) error { return s.resume(ctx, queues) })
	return c
}

// paused is what became of a queue, as JSON.
type paused struct {
	Queue  string `json:"queue"`
	Answer string `json:"answer"` // paused, resumed, or "was not paused"
}

func pausedView() view[paused] {
	return view[paused]{
		columns: []column[paused]{
			{head: "QUEUE", cell: func(p *paused) string { return p.Queue }},
			{head: "ANSWER", cell: func(p *paused) string { return p.Answer }},
		},
		name: func(p *paused) string { return p.Queue },
	}
}

// checkQueues refuses what are no names of queues, nor patterns.
func checkQueues(queues []string) error {
	if len(queues) == 0 {
		return usage("say which queue: --queue")
	}
	for _, q := range queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q, "*", "x")); err != nil {
			return fmt.Errorf("queue %q: %w", q, err)
		}
	}
	return nil
}

// expand puts the queues that there are in the place of patterns: those that
// hold anything, that are paused, or that workers hear.
func expand(ctx context.Context, client *stem.Client, queues []string) ([]string, error) {
	if !slices.ContainsFunc(queues, broker.IsPattern) {
		return queues, nil
	}
	known := map[string]bool{}
	infos, err := client.Queues(ctx)
	if err != nil {
		return nil, err
	}
	for i := range infos {
		known[infos[i].Name] = true
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pauses {
		known[p.Queue] = true
	}
	workers, err := anyWorkers(ctx, client)
	if err != nil {
		return nil, err
	}
	for i := range workers {
		for _, q := range workers[i].Queues {
			known[q] = !broker.IsPattern(q)
		}
	}
	var names []string
	for _, q := range queues {
		if !broker.IsPattern(q) {
			names = append(names, q)
			continue
		}
		for name, is := range known {
			if is && broker.Match(q, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return nil, fail(ExitNotFound, "there is no queue that fits %s", strings.Join(queues, ", "))
	}
	return names, nil
}

func (s *session) pause(ctx context.Context, note string, queues []string) error {
	if err := checkQueues(queues); err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	if queues, err = expand(ctx, client, queues); err != nil {
		return err
	}
	if err := client.PauseQueues(ctx, note, queues...); err != nil {
		return err
	}
	rows := make([]paused, len(queues))
	for i, q := range queues {
		rows[i] = paused{q, "paused"}
		s.changes++
	}
	_, err = list(s, pausedView(), one(rows))
	return err
}

func (s *session) resume(ctx context.Context, queues []string) error {
	if err := checkQueues(queues); err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	if queues, err = expand(ctx, client, queues); err != nil {
		return err
	}
	was, err := client.ResumeQueues(ctx, queues...)
	if err != nil {
		return err
	}
	rows := make([]paused, len(queues))
	for i, q := range queues {
		rows[i] = paused{q, "was not paused"}
		if was[i] {
			rows[i].Answer = "resumed"
			s.changes++
		}
	}
	_, err = list(s, pausedView(), one(rows))
	return err
}

func (s *session) queueDrainCommand() *cobra.Command {
	var delayed bool
	c := &cobra.Command{
		Use:   "drain QUEUE...",
		Short: "Waits until queues are worked off",
		Long: `Waits until queues are worked off: nothing ready and nothing that a worker holds.
With --delayed also nothing that waits for its moment. It changes nothing; stop who
enqueues first. A paused queue that holds something is refused, since it would never
end. The exit code is 1 when it did not end within --timeout.`,
		Example: `  {{stem}} queue drain default --timeout 10m
  {{stem}} queue drain critical reports --delayed`,
		Args: arguments(1, -1, "the name of a QUEUE"), ValidArgsFunction: s.completeQueues,
	}
	c.Flags().BoolVar(&delayed, "delayed", false, "wait for delayed tasks too")
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		for _, q := range args {
			if err := task.ValidateQueue(q); err != nil {
				return err
			}
		}
		return s.queueDrain(ctx, args, delayed)
	})
	return c
}

// drainLook is how often a drain looks.
const drainLook = 500 * time.Millisecond

func (s *session) queueDrain(ctx context.Context, queues []string, delayed bool) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	shown := -1
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	for {
		left, infos, err := s.left(ctx, client, queues, delayed)
		switch {
		case ctx.Err() != nil:
			return fail(ExitFailed, "%w: %s left", context.Cause(ctx), several(max(shown, 0), "task"))
		case err != nil:
			return err
		case left == 0:
			_, err = list(s, queueView(), one(infos))
			return err
		}
		if left != shown && isTerminal(s.p.Stderr) {
			s.note("%s left", several(left, "task"))
		}
		shown = left
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// left counts what queues still hold. It refuses a paused one that holds any.
func (s *session) left(ctx context.Context, client *stem.Client, queues []string, delayed bool) (int, []broker.QueueInfo, error) {
	infos, err := client.Queues(ctx, queues...)
	if err != nil {
		return 0, nil, err
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil {
		return 0, nil, err
	}
	left := 0
	for _, q := range infos {
		n := q.Ready + q.Leased
		if delayed {
			n += q.Delayed
		}
		left += n
		if i := slices.IndexFunc(pauses, func(p broker.Pause) bool { return p.Queue == q.Name }); i >= 0 && n > q.Leased {
			return 0, nil, fail(ExitRefused, "queue %s is paused with %s in it", q.Name, several(n, "task")).
				hinted("Let it go on with %s queue resume %s", s.app.Name, q.Name)
		}
	}
	return left, infos, nil
}
