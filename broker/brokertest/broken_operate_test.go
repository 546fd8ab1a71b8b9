package brokertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func brokenOperating() []broken {
	return []broken{
		{name: "counts no age", rule: "B25", bend: bend{queues: func(_ []string, infos []broker.QueueInfo) []broker.QueueInfo {
			for i := range infos {
				infos[i].Oldest = 0
			}
			return infos
		}}},
		{name: "lists queues as they were asked for", rule: "B25", bend: bend{queues: func(names []string, infos []broker.QueueInfo) []broker.QueueInfo {
			slices.SortFunc(infos, func(a, b broker.QueueInfo) int {
				return slices.Index(names, a.Name) - slices.Index(names, b.Name)
			})
			return infos
		}}},
		{name: "hides queues of delayed tasks alone", rule: "B25", bend: bend{queues: func(names []string, infos []broker.QueueInfo) []broker.QueueInfo {
			return slices.DeleteFunc(infos, func(q broker.QueueInfo) bool { return len(names) == 0 && q.Ready+q.Leased+q.Dead == 0 })
		}}},
		{name: "takes all that is delayed for due soon", rule: "B25", bend: bend{queues: func(_ []string, infos []broker.QueueInfo) []broker.QueueInfo {
			for i := range infos {
				infos[i].Due = infos[i].Delayed
			}
			return infos
		}}},
		{name: "counts the leased as ready", rule: "B25", also: "*", bend: bend{queues: func(_ []string, infos []broker.QueueInfo) []broker.QueueInfo {
			for i := range infos {
				infos[i].Ready, infos[i].Leased = infos[i].Ready+infos[i].Leased, 0
			}
			return infos
		}}},
		{name: "purges what is leased", rule: "B26", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			ids, err := b.on().Purge(ctx, p)
			for _, d := range b.deliveries() {
				if d.Queue == p.Queue {
					_, _ = b.on().Settle(ctx, []broker.Settlement{settlement(d, task.Cancelled)})
				}
			}
			return ids, err
		}}},
		{name: "purges what is dead", rule: "B26", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			_, _ = b.on().DeadLetters().PurgeDeadLetters(ctx, broker.DeadFilter{Queue: p.Queue}, broker.PurgeOptions{})
			return b.on().Purge(ctx, p)
		}}},
		{name: "purges without a page's bound", rule: "B26", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			p.Limit = 0
			return b.on().Purge(ctx, p)
		}}},
		{name: "does not say what it purged", rule: "B26", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			_, err := b.on().Purge(ctx, p)
			return nil, err
		}}},
	}
}

func brokenReplays() []broken {
	return []broken{
		{name: "leaves a dead letter where it was replayed", rule: "B27", also: "P4", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				list, _, err := b.on().DeadLetters().ListDeadLetters(ctx, f, broker.Page{})
				if err == nil && !o.DryRun {
					b.kept = append(b.kept, list...)
				}
				return b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
			},
			listed: func(b *bent, f broker.DeadFilter, list []broker.DeadLetter) []broker.DeadLetter {
				for i := range b.kept {
					if f.Match(&b.kept[i]) {
						list = append(list, b.kept[i])
					}
				}
				return list
			},
		}},
		{name: "loses what it replays", rule: "B27", also: "B7 B13 B31 P1 P2 P3 P4", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				r, err := b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
				if err == nil && !o.DryRun {
					_, err = b.Revoke(ctx, revocations(r))
				}
				return r, err
			},
		}},
		{name: "replays in a dry run", rule: "B27", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				o.DryRun = false
				return b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
			},
		}},
		{name: "replays at once what is for later", rule: "B27", also: "P3", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				o.NotBefore = time.Time{}
				return b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
			},
		}},
	}
}

func brokenDeadLetters() []broken {
	return []broken{
		{name: "forgets the attempts of a replayed task", rule: "B27", also: "P4", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			for i := range got.Deliveries {
				got.Deliveries[i].Attempt -= got.Deliveries[i].RetryBase
				got.Deliveries[i].RetryBase = 0
			}
		}}},
		{name: "lists dead letters of any queue", rule: "B27", bend: bend{list: func(_ *bent, f broker.DeadFilter, p broker.Page) (broker.DeadFilter, broker.Page) {
			f.Queue = ""
			return f, p
		}}},
		{name: "forgets the edit of a replay", rule: "B27", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				edited := o.Edited
				if o.Check(f) == nil {
					o.Edited = nil
				}
				r, err := b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
				for i := range r.Entries {
					r.Entries[i].Envelope = edited
				}
				return r, err
			},
		}},
		{name: "takes an edit that moves the task in line", rule: "B27", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				if o.Edited != nil {
					v := *o.Edited
					v.Priority = 7
					o.Edited = &v
				}
				return b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
			},
		}},
		{name: "purges dead letters in a dry run", rule: "B27", bend: bend{
			drop: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
				o.DryRun = false
				return b.on().DeadLetters().PurgeDeadLetters(ctx, f, o)
			},
		}},
	}
}

func brokenCalls() []broken {
	return []broken{
		{name: "works on after Close", rule: "B28", bend: bend{end: func(*bent) error { return nil }}},
		{name: "ignores the context", rule: "B29", also: "B13", bend: bend{ctx: context.WithoutCancel}},
		{name: "publishes half of a batch when its context ends", rule: "B29", bend: bend{
			publish: func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
				if ctx.Err() != nil {
					_, _ = b.on().Publish(context.Background(), batch[:len(batch)/2])
				}
				return b.on().Publish(ctx, batch)
			},
		}},
	}
}

func revocations(r broker.Replayed) (all []broker.Revocation) {
	for _, x := range r.Entries {
		all = append(all, broker.Revocation{ID: x.ID})
	}
	return all
}

func brokenPowers() []broken {
	without := func(p broker.Power) func(broker.Capabilities) broker.Capabilities {
		return func(c broker.Capabilities) broker.Capabilities {
			c.Powers = slices.DeleteFunc(slices.Clone(c.Powers), func(q broker.Power) bool { return q == p })
			return c
		}
	}
	return []broken{
		{name: "revokes without declaring it", rule: "P0", bend: bend{caps: without(broker.PowerRevoke)}},
		{name: "keeps statuses without declaring it", rule: "P0", bend: bend{caps: without(broker.PowerStatuses)}},
		{name: "declares durability without a way to show it", rule: "P0", also: "B1", bend: bend{caps: func(c broker.Capabilities) broker.Capabilities {
			c.Powers = append(slices.Clone(c.Powers), broker.PowerDurable)
			return c
		}}},
		{name: "says cancelled and goes on", rule: "P1", also: "B28 B29 P3", bend: bend{revoke: func(_ *bent, _ context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
			out := make([]broker.RevokeAnswer, len(batch))
			for i := range out {
				out[i].State = broker.RevokeCancelled
			}
			return out, nil
		}}},
		{name: "tells no worker of a revocation", rule: "P1", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) { got.Revoked = nil }}},
		{name: "takes dead letters back without declaring it", rule: "P0", bend: bend{caps: without(broker.PowerImport)}},
		{name: "forgets the replays of what it takes back", rule: "P4", bend: bend{imports: func(d broker.DeadLetter) broker.DeadLetter {
			d.ReplayCount = 0
			return d
		}}},
		{name: "lists what it takes back as dead since now", rule: "P4", bend: bend{imports: func(d broker.DeadLetter) broker.DeadLetter {
			d.DeadAt = time.Now()
			return d
		}}},
		{name: "says that it took back what is known", rule: "P4", bend: bend{known: func(_ *bent, _ []broker.DeadLetter, errs []error) {
			for i, err := range errs {
				if errors.Is(err, broker.ErrExists) {
					errs[i] = nil
				}
			}
		}}},
		{name: "says that it took back what it lost", rule: "P4", bend: bend{known: func(b *bent, batch []broker.DeadLetter, errs []error) {
			for i, err := range errs {
				if err == nil {
					f := broker.DeadFilter{IDs: []string{batch[i].Envelope.ID}}
					_, _ = b.on().DeadLetters().PurgeDeadLetters(context.Background(), f, broker.PurgeOptions{})
				}
			}
		}}},
		{name: "holds what is dead", rule: "P3", bend: bend{holds: func(ids []string, held []bool) []bool {
			for i, id := range ids {
				held[i] = held[i] || id == "dead"
			}
			return held
		}}},
	}
}
