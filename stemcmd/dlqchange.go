package stemcmd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

// deadPage is how many dead letters are changed in one call.
const deadPage = 1000

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func (s *session) dlqReplayCommand() *cobra.Command {
	f, ask := &deadFlags{}, &changeFlags{}
	var in duration
	c := &cobra.Command{
		Use:   "replay",
		Short: "Puts dead letters back into their queues, oldest first",
		Long: `Puts dead letters back into their queues, oldest first, with fresh retries. Attempts
are kept, and the replay is noted on the task: replayCount, lastReplayAt.`,
		Example: `  {{stem}} dlq replay --queue default --limit 10 --yes
  {{stem}} dlq replay --queue default --limit 5 --dry-run
  {{stem}} dlq replay --task email.send --reason retries-exhausted --in 10m`,
		Args: noArguments,
	}
	f.add(s, c, 0, "at most so many; 0: all")
	c.Flags().Var(&in, "in", "due so much later")
	ask.add(c)
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		return s.changeDead(ctx, f, ask, "replay", func(client *stem.Client, filter broker.DeadFilter, limit int, dry bool) (int, []string, error) {
			o := broker.ReplayOptions{Limit: limit, DryRun: dry}
			if in > 0 {
				o.NotBefore = time.Now().Add(time.Duration(in))
			}
			r, err := client.ReplayDeadLetters(ctx, filter, o)
			ids := make([]string, len(r.Entries))
			for i, e := range r.Entries {
				ids[i] = e.ID
			}
			return r.Count, ids, err
		})
	})
	return c
}

func (s *session) dlqPurgeCommand() *cobra.Command {
	f, ask := &deadFlags{}, &changeFlags{}
	c := &cobra.Command{
		Use:   "purge",
		Short: "Removes dead letters for good, oldest first",
		Example: `  {{stem}} dlq purge --queue default --yes
  {{stem}} dlq purge --queue default --older-than 720h --dry-run`,
		Args: noArguments,
	}
	f.add(s, c, 0, "at most so many; 0: all")
	ask.add(c)
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		return s.changeDead(ctx, f, ask, "purge", func(client *stem.Client, filter broker.DeadFilter, limit int, dry bool) (int, []string, error) {
			p, err := client.PurgeDeadLetters(ctx, filter, broker.PurgeOptions{Limit: limit, DryRun: dry})
			return p.Count, p.IDs, err
		})
	})
	return c
}

// deadChange does, or tries, one call's worth of a change, and says how many
// and which.
type deadChange func(client *stem.Client, f broker.DeadFilter, limit int, dry bool) (int, []string, error)

// changeDead counts what the filter selects, asks, and changes it in pages.
func (s *session) changeDead(ctx context.Context, f *deadFlags, ask *changeFlags, action string, call deadChange) error {
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
	count, ids, err := call(client, filter, f.limit.value, true)
	if err != nil {
		return err
	}
	if filter.Before.IsZero() {
		filter.Before = time.Now().Add(time.Millisecond) // what dies again meanwhile is left alone
	}
	p := plan{verb: map[string]string{"replay": "Replay", "purge": "Purge"}[action], count: count, thing: "dead letter", filter: f.words()}
	out := change{Action: action, Count: count, DryRun: ask.dryRun, IDs: append([]string{}, ids...)}
	if ask.dryRun {
		return s.tell(out, p)
	}
	if count == 0 && len(f.ids) > 0 {
		return fail(ExitNotFound, "no dead letter fits: %s", f.words())
	}
	if count > 0 {
		if err := s.confirm(ctx, p, ask.yes); err != nil {
			return err
		}
	}
	out.Count, out.IDs, err = s.inPages(client, filter, count, call)
	if err != nil && out.Count > 0 {
		return fail(ExitPartly, "%d of %d dead letters were changed, then: %w", out.Count, count, err)
	}
	if err != nil {
		return err
	}
	return s.tell(out, p)
}

// inPages changes at most count dead letters, and says how many it did.
func (s *session) inPages(client *stem.Client, filter broker.DeadFilter, count int, call deadChange) (int, []string, error) {
	done, sample := 0, []string{}
	for done < count {
		n, ids, err := call(client, filter, min(deadPage, count-done), false)
		done += n
		if len(sample) < sampleSize {
			sample = append(sample, ids...)
		}
		s.progress(done, count)
		if err != nil || n == 0 {
			return done, sample, err
		}
	}
	return done, sample, nil
}

// progress shows on a terminal how far work of more than one page is.
func (s *session) progress(done, count int) {
	if count <= deadPage || !isTerminal(s.p.Stderr) {
		return
	}
	fmt.Fprintf(s.stderr, "\r%d of %d", done, count)
	if done >= count {
		fmt.Fprintln(s.stderr)
	}
}
