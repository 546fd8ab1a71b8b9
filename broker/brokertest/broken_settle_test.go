package brokertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func brokenSettling() []broken {
	settle := func(change func(s *broker.Settlement)) func(*bent, broker.Settlement) broker.Settlement {
		return func(_ *bent, s broker.Settlement) broker.Settlement { change(&s); return s }
	}
	newest := func(b *bent, r broker.Receipt) broker.Receipt {
		if d, ok := b.held[r.ID]; ok {
			return d.Receipt
		}
		return r
	}
	return []broken{
		{name: "stores the good follow-ups of a bad settlement", rule: "B14", also: "B5 B15", bend: bend{settle: func(b *bent, s broker.Settlement) broker.Settlement {
			_, _ = b.on().Publish(context.Background(), s.Followups)
			return s
		}}},
		{name: "settles in spite of a bad follow-up", rule: "B14", also: "B5", bend: bend{settled: func(b *bent, s broker.Settlement, err error) error {
			if err != nil && len(s.Followups) > 0 {
				s.Followups = nil
				_, _ = b.on().Settle(context.Background(), []broker.Settlement{s})
			}
			return err
		}}},
		{name: "ignores the epoch", rule: "B15", also: "B23", bend: bend{
			settle: func(b *bent, s broker.Settlement) broker.Settlement { s.Receipt = newest(b, s.Receipt); return s },
			renew:  func(b *bent, r broker.Renewal) broker.Renewal { r.Receipt = newest(b, r.Receipt); return r },
		}},
		{name: "renews any lease", rule: "B15", also: "B22", bend: bend{renewed: func(*bent, broker.Renewal, error) error { return nil }}},
		{name: "welcomes a second settlement", rule: "B15", also: "B22 B23", bend: bend{settled: func(_ *bent, _ broker.Settlement, err error) error {
			if errors.Is(err, broker.ErrLeaseLost) {
				return nil
			}
			return err
		}}},
		{name: "rejects what is late though nobody took it", rule: "B15", also: "", bend: bend{
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if s.Receipt.ID == "ended" {
					s.Receipt.Epoch--
				}
				return s
			},
		}},
		{name: "counts a release", rule: "B17", also: "P2", bend: bend{
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if s.Outcome.State == task.Queued {
					b.counts[s.Receipt.ID]++
				}
				return s
			},
			batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
				for i := range got.Deliveries {
					got.Deliveries[i].Attempt += b.counts[got.Deliveries[i].Receipt.ID]
				}
			},
		}},
		{name: "loses what is released", rule: "B17", also: "*", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Queued {
				s.Outcome.State, s.Outcome.Keep = task.Succeeded, 0
			}
		})}},
		{name: "releases at once what is for later", rule: "B17", also: "B7", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Queued {
				s.Outcome.NotBefore = time.Time{}
			}
		})}},
		{name: "retries at once", rule: "B18", also: "B2 B15 B20 P1 P3", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.NotBefore = time.Time{}
			}
		})}},
		{name: "does not count a retry", rule: "B18", also: "B17 B27 P2", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.Attempt--
			}
		})}},
		{name: "forgets the errors of retries", rule: "B18", also: "B17 B27 P2", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.Error = nil
			}
		})}},
		{name: "forgets dead letters", rule: "B19", also: "*", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Failed {
				s.Outcome.State, s.Outcome.Error = task.Cancelled, nil
			}
		})}},
		{name: "forgets why it died", rule: "B19", also: "B27 B24", bend: bend{settle: settle(func(s *broker.Settlement) {
			if s.Outcome.State == task.Failed {
				s.Outcome.Reason = ""
			}
		})}},
		{name: "keeps every status for ever", rule: "B19", also: "", bend: bend{settle: settle(func(s *broker.Settlement) { s.Outcome.Keep = task.Forever })}},
		{name: "keeps no status", rule: "B19", also: "*", bend: bend{settle: settle(func(s *broker.Settlement) { s.Outcome.Keep = 0 })}},
		{name: "drops follow-ups", rule: "B20", also: "B5 B13 B14", bend: bend{settle: settle(func(s *broker.Settlement) { s.Followups = nil })}},
		{name: "stores a follow-up once for each settlement", rule: "B20", also: "", bend: bend{settle: settle(func(s *broker.Settlement) {
			s.Followups = slices.Clone(s.Followups)
			for i, f := range s.Followups {
				if f.Envelope.ID == "shared" {
					v := *f.Envelope
					v.ID += "-" + s.Receipt.ID
					s.Followups[i].Envelope = &v
				}
			}
		})}},
		{name: "fails a settlement whose follow-up exists", rule: "B20", also: "", bend: bend{settled: func(_ *bent, s broker.Settlement, err error) error {
			for _, f := range s.Followups {
				if f.Envelope.ID == "there" {
					return errBusy
				}
			}
			return err
		}}},
	}
}

func brokenLeases() []broken {
	giveBack := func(ctx context.Context, c *bentConsumer, started bool) error {
		for _, d := range c.received(started) {
			_, _ = c.b.on().Settle(ctx, []broker.Settlement{settlement(d, task.Queued)})
		}
		return c.Consumer.Close(ctx)
	}
	return []broken{
		{name: "settles only for a consumer that is open", rule: "B16", also: "B23 P1", bend: bend{
			closed: func(ctx context.Context, c *bentConsumer) error {
				c.b.mu.Lock()
				for id := range c.mine {
					c.b.counts[c.mine[id].Receipt.String()]++
				}
				c.b.mu.Unlock()
				return c.Consumer.Close(ctx)
			},
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if b.counts[s.Receipt.String()] > 0 {
					s.Receipt.Epoch--
				}
				return s
			},
		}},
		{name: "extends no lease", rule: "B21", also: "B15 B23 P1", bend: bend{renew: func(_ *bent, r broker.Renewal) broker.Renewal {
			r.Extend = time.Millisecond
			return r
		}}},
		{name: "counts no start", rule: "B21", also: "B15 B16 B17 B23 P1 P2", bend: bend{renew: func(_ *bent, r broker.Renewal) broker.Renewal {
			r.Start = false
			return r
		}}},
		{name: "counts a start for each call", rule: "B21", also: "", bend: bend{
			renewed: func(b *bent, r broker.Renewal, err error) error {
				if r.Start && err == nil {
					b.counts[r.Receipt.String()]++
				}
				return err
			},
			batch: func(b *bent, c *bentConsumer, got *broker.Batch) {
				for i, d := range got.Deliveries {
					r := d.Receipt
					for r.Epoch--; r.Epoch > 0; r.Epoch-- {
						if n := b.counts[r.String()]; n > 1 {
							got.Deliveries[i].Starts += n - 1
						}
					}
				}
			},
		}},
		{name: "drops progress", rule: "B21", also: "", bend: bend{renew: func(_ *bent, r broker.Renewal) broker.Renewal { r.Progress = nil; return r }}},
		{name: "lets a settled task start", rule: "B22", also: "B15", bend: bend{renewed: func(_ *bent, r broker.Renewal, err error) error {
			if r.Start {
				return nil
			}
			return err
		}}},
		{name: "keeps what a closed consumer held", rule: "B23", also: "B7 B13 B16", bend: bend{closed: func(context.Context, *bentConsumer) error { return nil }}},
		{name: "gives back what a closed consumer has started", rule: "B23", also: "B16", bend: bend{closed: func(ctx context.Context, c *bentConsumer) error {
			return giveBack(ctx, c, true)
		}}},
		{name: "loses what a closed consumer held", rule: "B23", also: "*", bend: bend{closed: func(ctx context.Context, c *bentConsumer) error {
			for _, d := range append(c.received(false), c.received(true)...) {
				s := settlement(d, task.Succeeded)
				_, _ = c.b.on().Settle(ctx, []broker.Settlement{s})
			}
			return c.Consumer.Close(ctx)
		}}},
	}
}

func brokenOperating() []broken {
	return []broken{
		{name: "counts no age", rule: "B25", also: "", bend: bend{queues: func(_ []string, infos []broker.QueueInfo) []broker.QueueInfo {
			for i := range infos {
				infos[i].Oldest = 0
			}
			return infos
		}}},
		{name: "lists queues as they were asked for", rule: "B25", also: "", bend: bend{queues: func(names []string, infos []broker.QueueInfo) []broker.QueueInfo {
			slices.SortFunc(infos, func(a, b broker.QueueInfo) int {
				return slices.Index(names, a.Name) - slices.Index(names, b.Name)
			})
			return infos
		}}},
		{name: "hides queues of delayed tasks alone", rule: "B25", also: "", bend: bend{queues: func(names []string, infos []broker.QueueInfo) []broker.QueueInfo {
			return slices.DeleteFunc(infos, func(q broker.QueueInfo) bool { return len(names) == 0 && q.Ready+q.Leased+q.Dead == 0 })
		}}},
		{name: "counts the leased as ready", rule: "B25", also: "*", bend: bend{queues: func(_ []string, infos []broker.QueueInfo) []broker.QueueInfo {
			for i := range infos {
				infos[i].Ready, infos[i].Leased = infos[i].Ready+infos[i].Leased, 0
			}
			return infos
		}}},
		{name: "purges what is leased", rule: "B26", also: "", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			ids, err := b.on().Purge(ctx, p)
			for _, d := range b.deliveries() {
				if d.Queue == p.Queue {
					_, _ = b.on().Settle(ctx, []broker.Settlement{settlement(d, task.Cancelled)})
				}
			}
			return ids, err
		}}},
		{name: "purges what is dead", rule: "B26", also: "", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			_, _ = b.on().DeadLetters().PurgeDeadLetters(ctx, broker.DeadFilter{Queue: p.Queue}, broker.PurgeOptions{})
			return b.on().Purge(ctx, p)
		}}},
		{name: "purges without a page's bound", rule: "B26", also: "", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			p.Limit = 0
			return b.on().Purge(ctx, p)
		}}},
		{name: "does not say what it purged", rule: "B26", also: "", bend: bend{purge: func(b *bent, ctx context.Context, p broker.Purge) ([]string, error) {
			_, err := b.on().Purge(ctx, p)
			return nil, err
		}}},
		{name: "leaves a dead letter where it was replayed", rule: "B27", also: "", bend: bend{
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
		{name: "loses what it replays", rule: "B27", also: "B7 B13 P2 P3", bend: bend{
			replay: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
				r, err := b.on().DeadLetters().ReplayDeadLetters(ctx, f, o)
				if err == nil && !o.DryRun {
					_, err = b.Revoke(ctx, revocations(r))
				}
				return r, err
			},
		}},
		{name: "replays in a dry run", rule: "B27", also: "", bend: bend{
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
		{name: "forgets the attempts of a replayed task", rule: "B27", also: "", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			for i := range got.Deliveries {
				got.Deliveries[i].Attempt -= got.Deliveries[i].RetryBase
				got.Deliveries[i].RetryBase = 0
			}
		}}},
		{name: "lists dead letters of any queue", rule: "B27", also: "", bend: bend{list: func(_ *bent, f broker.DeadFilter, p broker.Page) (broker.DeadFilter, broker.Page) {
			f.Queue = ""
			return f, p
		}}},
		{name: "purges dead letters in a dry run", rule: "B27", also: "", bend: bend{
			drop: func(b *bent, ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
				o.DryRun = false
				return b.on().DeadLetters().PurgeDeadLetters(ctx, f, o)
			},
		}},
		{name: "works on after Close", rule: "B28", also: "", bend: bend{end: func(*bent) error { return nil }}},
		{name: "ignores the context", rule: "B29", also: "B13", bend: bend{ctx: context.WithoutCancel}},
		{name: "publishes half of a batch when its context ends", rule: "B29", also: "", bend: bend{
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
		{name: "revokes without declaring it", rule: "P0", also: "", bend: bend{caps: without(broker.PowerRevoke)}},
		{name: "keeps statuses without declaring it", rule: "P0", also: "", bend: bend{caps: without(broker.PowerStatuses)}},
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
		{name: "tells no worker of a revocation", rule: "P1", also: "", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) { got.Revoked = nil }}},
		{name: "holds what is dead", rule: "P3", also: "", bend: bend{holds: func(ids []string, held []bool) []bool {
			for i, id := range ids {
				held[i] = held[i] || id == "dead"
			}
			return held
		}}},
	}
}
