package brokertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// settlements bends each settlement.
func settlements(change func(s *broker.Settlement)) func(*bent, broker.Settlement) broker.Settlement {
	return func(_ *bent, s broker.Settlement) broker.Settlement { change(&s); return s }
}

func brokenSettling() []broken {
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
		{name: "rejects what is late though nobody took it", rule: "B15", bend: bend{
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if s.Receipt.ID == "ended" {
					s.Receipt.Epoch--
				}
				return s
			},
		}},
	}
}

func brokenReturns() []broken {
	return []broken{
		{name: "counts a release", rule: "B17", also: "B31 P2", bend: bend{
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
		{name: "loses what is released", rule: "B17", also: "*", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Queued {
				s.Outcome.State, s.Outcome.Keep = task.Succeeded, 0
			}
		})}},
		{name: "releases at once what is for later", rule: "B17", also: "B7 B31", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Queued {
				s.Outcome.NotBefore = time.Time{}
			}
		})}},
		{name: "forgets a reserved slot", rule: "B31", bend: bend{settle: settlements(func(s *broker.Settlement) {
			s.Outcome.Reserved = false
		})}},
		{name: "lets a reserved slot outlive its lease", rule: "B31", bend: bend{batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
			for i := range got.Deliveries {
				d := &got.Deliveries[i]
				if d.Reserved {
					b.counts[d.Receipt.ID] = 1
				}
				d.Reserved = b.counts[d.Receipt.ID] > 0
			}
		}}},
		{name: "forgives the starts of who waits for a slot", rule: "B31", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			for i := range got.Deliveries {
				if got.Deliveries[i].Reserved {
					got.Deliveries[i].Starts = 0
				}
			}
		}}},
		{name: "retries at once", rule: "B18", also: "B2 B15 B20 P1 P3", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.NotBefore = time.Time{}
			}
		})}},
		{name: "does not count a retry", rule: "B18", also: "B17 B27 P2", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.Attempt--
			}
		})}},
		{name: "forgets the errors of retries", rule: "B18", also: "B17 B27 P2", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Retried {
				s.Outcome.Error = nil
			}
		})}},
	}
}

func brokenOutcomes() []broken {
	return []broken{
		{name: "forgets dead letters", rule: "B19", also: "*", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Failed {
				s.Outcome.State, s.Outcome.Error = task.Cancelled, nil
			}
		})}},
		{name: "forgets why it died", rule: "B19", also: "B27 B24", bend: bend{settle: settlements(func(s *broker.Settlement) {
			if s.Outcome.State == task.Failed {
				s.Outcome.Reason = ""
			}
		})}},
		{name: "keeps every status for ever", rule: "B19", bend: bend{settle: settlements(func(s *broker.Settlement) { s.Outcome.Keep = task.Forever })}},
		{name: "keeps no status", rule: "B19", also: "*", bend: bend{settle: settlements(func(s *broker.Settlement) { s.Outcome.Keep = 0 })}},
		{name: "drops follow-ups", rule: "B20", also: "B5 B13 B14 P2", bend: bend{settle: settlements(func(s *broker.Settlement) { s.Followups = nil })}},
		{name: "stores a follow-up once for each settlement", rule: "B20", bend: bend{settle: settlements(func(s *broker.Settlement) {
			s.Followups = slices.Clone(s.Followups)
			for i, f := range s.Followups {
				if f.Envelope.ID == "shared" {
					v := *f.Envelope
					v.ID += "-" + s.Receipt.ID
					s.Followups[i].Envelope = &v
				}
			}
		})}},
		{name: "fails a settlement whose follow-up exists", rule: "B20", bend: bend{settled: func(_ *bent, s broker.Settlement, err error) error {
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
		{name: "counts no start", rule: "B21", also: "B15 B16 B17 B23 B31 P1 P2", bend: bend{renew: func(_ *bent, r broker.Renewal) broker.Renewal {
			r.Start = false
			return r
		}}},
		{name: "counts a start for each call", rule: "B21", bend: bend{
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
		{name: "drops progress", rule: "B21", also: "P2", bend: bend{renew: func(_ *bent, r broker.Renewal) broker.Renewal { r.Progress = nil; return r }}},
		{name: "lets a settled task start", rule: "B22", also: "B15", bend: bend{renewed: func(_ *bent, r broker.Renewal, err error) error {
			if r.Start {
				return nil
			}
			return err
		}}},
		{name: "keeps what a closed consumer held", rule: "B23", also: "B7 B13 B16 B31", bend: bend{closed: func(context.Context, *bentConsumer) error { return nil }}},
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
