package stemcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

// deadPage is how many dead letters are changed in one call, and idPage how
// many that are named.
const (
	deadPage = 1000
	idPage   = 500
)

// pageTimeout ends one call of a change that goes on page by page.
const pageTimeout = time.Minute

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// replayFlags shape a replay.
type replayFlags struct {
	in   duration
	at   instant
	rate rate
	set  settings
}

// due is when what is replayed now is to be due; zero: at once.
func (f *replayFlags) due() time.Time {
	if f.in > 0 {
		return time.Now().Add(time.Duration(f.in))
	}
	return time.Time(f.at)
}

func (s *session) dlqReplayCommand() *cobra.Command {
	f, ask, how := &deadFlags{}, &changeFlags{}, &replayFlags{}
	c := &cobra.Command{
		Use:   "replay",
		Short: "Puts dead letters back into their queues, oldest first",
		Long: `Puts dead letters back into their queues, oldest first, with fresh retries. Attempts
are kept, and the replay is noted on the task: replayCount, lastReplayAt. It can be
stopped at any moment, says then how many were replayed, and ends with 6.

With --set the arguments of one dead letter are edited in the step that replays it;
the first ones are kept in the task's meta. PATH names a place in them, with dots,
and a backslash before a dot that is part of a name; VALUE is JSON, or else a text:
  --set args.user.email=a@example.com  --set args.list.0=7  --set 'args={"a":1}'`,
		Example: `  {{stem}} dlq replay --queue default --limit 10 --yes
  {{stem}} dlq replay --queue default --limit 5 --dry-run
  {{stem}} dlq replay --task email.send --reason retries-exhausted --in 10m
  {{stem}} dlq replay --queue default --rate 100/s --yes
  {{stem}} dlq replay --group 1f3a5c7e9b2d --yes
  {{stem}} dlq replay --id job-42 --set args.user.email=a@example.com --yes`,
		Args: noArguments,
	}
	f.add(s, c, 0, "at most so many; 0: all")
	f.addGroup(c)
	flags := c.Flags()
	flags.Var(&how.in, "in", "due so much later")
	flags.Var(&how.at, "at", "due at this `MOMENT`")
	flags.Var(&how.rate, "rate", "no faster than this `RATE`, such as 100/s, 60/m or 10/h")
	flags.Var(&how.set, "set", "`PATH=VALUE` to change in the arguments; may be given again")
	notTogether(c, "in", "at")
	notTogether(c, "set", "queue", "task", "reason", "older-than", "limit", "group", "rate")
	ask.add(c)
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		if len(how.set) > 0 {
			return s.replayEdited(ctx, f, ask, how)
		}
		return s.changeDead(ctx, f, ask, &deadJob{
			action: "replay", verb: "Replay", rate: how.rate,
			call: func(ctx context.Context, client *stem.Client, filter broker.DeadFilter, limit int, dry bool) (int, []string, error) {
				r, err := client.ReplayDeadLetters(ctx, filter, broker.ReplayOptions{Limit: limit, DryRun: dry, NotBefore: how.due()})
				return r.Count, replayedIDs(r), err
			},
		})
	})
	return c
}

func replayedIDs(r broker.Replayed) []string {
	ids := make([]string, len(r.Entries))
	for i, e := range r.Entries {
		ids[i] = e.ID
	}
	return ids
}

// replayEdited replays one dead letter with other arguments.
func (s *session) replayEdited(ctx context.Context, f *deadFlags, ask *changeFlags, how *replayFlags) error {
	if len(f.ids) != 1 {
		return usage("--set edits one dead letter: give one --id").hinted("See %s --help", s.cmd.CommandPath())
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	id := f.ids[0]
	out := change{Action: "replay", DryRun: ask.dryRun}
	p := plan{verb: "Replay", count: 1, thing: "dead letter", filter: "id " + id + ", with " + how.set.String()}
	replay := func(dry bool) error {
		edit := func(args json.RawMessage) (_ json.RawMessage, err error) {
			out.Args, err = how.set.apply(args)
			return out.Args, err
		}
		r, err := client.ReplayEdited(ctx, id, edit, broker.ReplayOptions{DryRun: dry, NotBefore: how.due()})
		out.Count, out.IDs = r.Count, replayedIDs(r)
		return err
	}
	if err := replay(true); err != nil || ask.dryRun {
		return errors.Join(err, s.tellIf(err == nil, out, p))
	}
	if err := s.confirm(ctx, p, ask.yes); err != nil {
		return err
	}
	if err := replay(false); err != nil {
		return err
	}
	s.changes = out.Count
	return s.tell(out, p)
}

// tellIf is tell on a condition.
func (s *session) tellIf(ok bool, c change, p plan) error {
	if !ok {
		return nil
	}
	return s.tell(c, p)
}

func (s *session) dlqPurgeCommand() *cobra.Command {
	f, ask := &deadFlags{}, &changeFlags{}
	var export string
	c := &cobra.Command{
		Use:   "purge",
		Short: "Removes dead letters for good, oldest first",
		Long: `Removes dead letters for good, oldest first. With --export they are written to a file
before, which is safe on the disk before the first of them is removed; exactly what is
in the file is removed, and dlq import puts it back.`,
		Example: `  {{stem}} dlq purge --queue default --yes
  {{stem}} dlq purge --queue default --older-than 720h --dry-run
  {{stem}} dlq purge --queue default --export dead.jsonl --yes`,
		Args: noArguments,
	}
	f.add(s, c, 0, "at most so many; 0: all")
	f.addGroup(c)
	c.Flags().StringVar(&export, "export", "", "`FILE` that they are written to before; it must not be there")
	ask.add(c)
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		return s.changeDead(ctx, f, ask, &deadJob{
			action: "purge", verb: "Purge", export: export,
			call: func(ctx context.Context, client *stem.Client, filter broker.DeadFilter, limit int, dry bool) (int, []string, error) {
				p, err := client.PurgeDeadLetters(ctx, filter, broker.PurgeOptions{Limit: limit, DryRun: dry})
				return p.Count, p.IDs, err
			},
		})
	})
	return c
}

// deadJob is a change of many dead letters.
type deadJob struct {
	action, verb string
	rate         rate
	export       string // file to write them to before; "": none

	// call does, or tries, one call's worth of it, and says how many and which.
	call func(ctx context.Context, client *stem.Client, f broker.DeadFilter, limit int, dry bool) (int, []string, error)
}

// changeDead counts what is selected, asks, and changes it in pages.
func (s *session) changeDead(ctx context.Context, f *deadFlags, ask *changeFlags, job *deadJob) error {
	if err := f.bounded(s.cmd.CommandPath()); err != nil {
		return err
	}
	filter, err := f.filter(time.Now())
	if err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	chosen, err := s.choose(ctx, client, f, filter, job)
	if err != nil {
		return err
	}
	if chosen.filter.Before.IsZero() {
		chosen.filter.Before = time.Now().Add(time.Millisecond) // what dies again meanwhile is left alone
	}
	p := plan{verb: job.verb, count: chosen.count, thing: "dead letter", filter: f.words()}
	out := change{Action: job.action, Count: chosen.count, DryRun: ask.dryRun, IDs: append([]string{}, chosen.sample...)}
	if ask.dryRun {
		return s.tell(out, p)
	}
	if chosen.count == 0 && (len(f.ids) > 0 || f.group != "") {
		return fail(ExitNotFound, "no dead letter fits: %s", f.words())
	}
	if chosen.count > 0 {
		if err := s.confirm(ctx, p, ask.yes); err != nil {
			return err
		}
	}
	if job.export != "" {
		if chosen, err = s.exportFirst(ctx, client, chosen, job.export); err != nil {
			return err
		}
	}
	out.Count, out.IDs, err = s.inPages(ctx, client, chosen, job)
	s.changes = out.Count
	if err != nil && out.Count > 0 {
		return errors.Join(s.tell(out, p), fail(ExitPartly, "%d of %s were %s, then: %w",
			out.Count, several(chosen.count, "dead letter"), past(job.action), err))
	}
	if err != nil {
		return err
	}
	return s.tell(out, p)
}

// chosen is what a change acts on: all that the filter selects, oldest first
// and at most count of them, or the ids that next gives page by page.
type chosen struct {
	filter broker.DeadFilter
	count  int
	total  int // that the filter selects
	sample []string
	next   func() ([]string, error) // nil: by filter; no more ids: the end
}

// choose finds out what is to be changed.
func (s *session) choose(ctx context.Context, client *stem.Client, f *deadFlags, filter broker.DeadFilter, job *deadJob) (chosen, error) {
	c := chosen{filter: filter}
	if f.group == "" {
		var err error
		if c.count, c.sample, err = job.call(ctx, client, filter, f.limit.value, true); err != nil {
			return c, err
		}
		c.total = c.count
		if f.limit.value > 0 && job.export != "" {
			c.total, _, err = job.call(ctx, client, filter, 0, true)
		}
		return c, err
	}
	ids, more, err := client.DeadLettersLike(ctx, filter, f.group, 0)
	if err != nil {
		return c, err
	}
	if more {
		s.note("only the newest dead letters were looked at: narrow the filter, or do it again")
	}
	if n := f.limit.value; n > 0 && len(ids) > n {
		ids = ids[:n]
	}
	c.count, c.total, c.sample, c.next = len(ids), len(ids), ids[:min(len(ids), sampleSize)], idPages(ids)
	return c, nil
}

// idPages gives ids page by page.
func idPages(ids []string) func() ([]string, error) {
	return func() ([]string, error) {
		page := ids[:min(len(ids), idPage)]
		ids = ids[len(page):]
		return page, nil
	}
}

// inPages changes what was chosen, and says how many and some of which. Each
// call is finished, also when somebody asks to stop meanwhile, so that the
// number is true.
func (s *session) inPages(ctx context.Context, client *stem.Client, c chosen, job *deadJob) (done int, sample []string, err error) {
	sample = []string{}
	defer func() { s.progressEnds(done, c.count) }()
	for seen := 0; seen < c.count; {
		began := time.Now()
		filter, limit := c.filter, min(job.rate.batch(deadPage), c.count-seen)
		if c.next != nil {
			if filter.IDs, err = c.next(); err != nil || len(filter.IDs) == 0 {
				return done, sample, err
			}
			limit = len(filter.IDs)
		}
		n, ids, err := s.onePage(ctx, client, filter, limit, job)
		done += n
		seen += n
		if c.next != nil {
			seen += limit - n // what is gone since is not there to be counted
		}
		if len(sample) < sampleSize {
			sample = append(sample, ids...)
		}
		s.progress(done, c.count)
		if err != nil || n == 0 && c.next == nil {
			return done, sample, err
		}
		if ctx.Err() != nil && seen < c.count {
			return done, sample, context.Cause(ctx)
		}
		if err := job.rate.wait(ctx, began, n, seen < c.count); err != nil {
			return done, sample, err
		}
	}
	return done, sample, nil
}

func (s *session) onePage(ctx context.Context, client *stem.Client, f broker.DeadFilter, limit int, job *deadJob) (int, []string, error) {
	if ctx.Err() != nil {
		return 0, nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTimeout)
	defer cancel()
	return job.call(ctx, client, f, limit, false)
}

// progress shows on a terminal how far work of more than one page is.
func (s *session) progress(done, count int) {
	if count > sampleSize && isTerminal(s.p.Stderr) {
		fmt.Fprintf(s.stderr, "\r%d of %d", done, count)
	}
}

// progressEnds ends what progress showed.
func (s *session) progressEnds(done, count int) {
	if done > 0 && count > sampleSize && isTerminal(s.p.Stderr) {
		fmt.Fprintln(s.stderr)
	}
}
