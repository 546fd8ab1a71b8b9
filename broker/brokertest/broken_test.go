package brokertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/task"
)

// broken is a broker that breaks one rule.
type broken struct {
	name string
	rule string // that must notice
	also string // rules that may notice too; "*": any
	bend bend

	open   func(bend) func(t testing.TB) Backend // nil: openBent
	reopen func(t testing.TB, b Backend) Backend
	inject func(t testing.TB, b Backend, queue, id string, raw []byte)
}

// Every broken broker is caught by the rule that it breaks, and by no rule that
// has nothing to do with it.
func TestBroken(t *testing.T) {
	var all []broken
	for _, list := range [][]broken{
		brokenPublishing(), brokenReceiving(), brokenOrder(), brokenWaiting(), brokenSettling(), brokenReturns(), brokenOutcomes(),
		brokenLeases(), brokenOperating(), brokenReplays(), brokenDeadLetters(), brokenCalls(), brokenPowers(), brokenPauses(), brokenOverlaps(), brokenStores(),
	} {
		all = append(all, list...)
	}
	for _, x := range all {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			if x.open == nil {
				x.open = openBent
			}
			caught(t, Options{Open: x.open(x.bend), Reopen: x.reopen, InjectMalformed: x.inject, Virtual: true, Seed: 1, light: true}, x)
		})
	}
}

func caught(t *testing.T, o Options, x broken) {
	t.Helper()
	rules := slices.DeleteFunc(o.rules(), func(r conform.Rule) bool { return conform.Number(r.Name) == "Model" }) // it may notice all
	failed := conform.Failures(t, rules)
	for name, said := range failed {
		if conform.Number(name) == x.rule {
			t.Logf("%s: %.300s", name, said)
		}
	}
	also := strings.Fields(x.also)
	if x.also == "*" {
		for _, r := range rules {
			also = append(also, conform.Number(r.Name))
		}
	}
	if complaint := conform.Unexpected(failed, x.rule, also...); complaint != "" {
		t.Errorf("a broker that %s:\n%s", x.name, complaint)
	}
}

// A bent broker without a bend passes: what the table shows is the bend.
func TestUnbent(t *testing.T) {
	Run(t, Options{Open: openBent(bend{}), Virtual: true})
	t.Run("several handles", func(t *testing.T) { Run(t, Options{Open: openShared(bend{}), Reopen: reopenShared, Virtual: true}) })
	t.Run("malformed entries", func(t *testing.T) {
		Run(t, Options{Open: openBent(showMalformed), InjectMalformed: injectMalformed, Virtual: true})
	})
	t.Run("exchanges that overlap", func(t *testing.T) { Run(t, Options{Open: openBent(bend{overlaps: true}), Virtual: true}) })
	t.Run("two stores", func(t *testing.T) { Run(t, Options{Open: openJoined(bend{}), Virtual: true}) })
}

// publish is a bend of Publish.
type publish func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error)

// changed bends what is published.
func changed(change func(p *broker.Publication)) publish {
	return func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
		batch = slices.Clone(batch)
		for i := range batch {
			if batch[i].Envelope != nil {
				v := *batch[i].Envelope
				batch[i].Envelope = &v
				change(&batch[i])
			}
		}
		return b.on().Publish(ctx, batch)
	}
}

// answered bends what Publish answers.
func answered(change func(b *bent, p broker.Publication, o *broker.Outcome) error) publish {
	return func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
		out, err := b.on().Publish(ctx, batch)
		for i := range out {
			if err := change(b, batch[i], &out[i]); err != nil {
				return nil, err
			}
		}
		return out, err
	}
}

func brokenPublishing() []broken {
	return []broken{
		{name: "rounds the numbers of args", rule: "B1", bend: bend{publish: changed(func(p *broker.Publication) {
			var v any
			if json.Unmarshal(p.Envelope.Args, &v) == nil {
				if args, err := json.Marshal(v); err == nil && bytes.Contains(p.Envelope.Args, []byte("big")) {
					p.Envelope.Args = args
				}
			}
		})}},
		{name: "says Stored of what it dropped", rule: "B1", also: "*", bend: bend{publish: func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
			out := make([]broker.Outcome, len(batch))
			for i := range out {
				out[i].State = broker.Stored
			}
			return out, nil
		}}},
		{name: "says Stored of what exists", rule: "B2", also: "B4", bend: bend{publish: answered(func(_ *bent, _ broker.Publication, o *broker.Outcome) error {
			if o.State == broker.Exists {
				*o = broker.Outcome{State: broker.Stored}
			}
			return nil
		})}},
		{name: "stores a repeated id twice", rule: "B2", also: "B4 B29 B30", bend: bend{publish: answered(func(b *bent, p broker.Publication, o *broker.Outcome) error {
			if o.State != broker.Exists {
				return nil
			}
			twin := *p.Envelope
			twin.ID += "-" + task.NewID()
			_, err := b.on().Publish(context.Background(), []broker.Publication{{Envelope: &twin}})
			*o = broker.Outcome{State: broker.Stored}
			return err
		})}},
		{name: "forgets an id that is leased", rule: "B2", also: "B29", bend: bend{publish: answered(func(b *bent, p broker.Publication, o *broker.Outcome) error {
			if _, held := b.deliveries()[o.ExistingID]; held && o.State == broker.Exists {
				*o = broker.Outcome{State: broker.Stored}
			}
			return nil
		})}},
		{name: "fails a batch for one bad item", rule: "B3", also: "B4 B5 B24", bend: bend{publish: answered(func(_ *bent, _ broker.Publication, o *broker.Outcome) error {
			return o.Err
		})}},
		{name: "ignores claims", rule: "B4", also: "B14 B20", bend: bend{publish: changed(func(p *broker.Publication) { p.Claims = nil })}},
		{name: "keeps claims beyond their time", rule: "B4", bend: bend{publish: changed(func(p *broker.Publication) {
			p.Claims = slices.Clone(p.Claims)
			for i := range p.Claims {
				p.Claims[i].For *= 100
			}
		})}},
		{name: "drops what it cannot do", rule: "B5", bend: bend{publish: changed(func(p *broker.Publication) {
			p.Limits, p.Hold, p.Group = nil, "", nil
		})}},
		{name: "delivers what is delayed at once", rule: "B9", also: "B2 B12 B25 B26 P1 P3", bend: bend{publish: changed(func(p *broker.Publication) {
			p.Envelope.NotBefore = time.Time{}
		})}},
		{name: "delivers what is delayed too late", rule: "B9", also: "B12", bend: bend{publish: changed(func(p *broker.Publication) {
			if !p.Envelope.NotBefore.IsZero() {
				p.Envelope.NotBefore = p.Envelope.NotBefore.Add(100 * time.Millisecond)
			}
		})}},
	}
}

// deliveries bends each delivery.
func deliveries(change func(b *bent, d *broker.Delivery)) func(*bent, *bentConsumer, *broker.Batch) {
	return func(b *bent, _ *bentConsumer, got *broker.Batch) {
		for i := range got.Deliveries {
			change(b, &got.Deliveries[i])
		}
	}
}

func brokenReceiving() []broken {
	return []broken{
		{name: "ignores the bound in bytes", rule: "B6", bend: bend{want: func(w broker.Want) broker.Want { w.Bytes = 0; return w }}},
		{name: "blocks in each exchange", rule: "B6", also: "*", bend: bend{want: func(w broker.Want) broker.Want {
			time.Sleep(time.Second)
			return w
		}}},
		{name: "takes one more than was wanted", rule: "B6", also: "*", bend: bend{want: func(w broker.Want) broker.Want { w.Count++; return w }}},
		{name: "delivers to two at once", rule: "B7", also: "*", bend: bend{batch: func(b *bent, c *bentConsumer, got *broker.Batch) {
			for id, d := range b.held {
				if _, mine := c.mine[id]; !mine && len(got.Deliveries) == 0 && c.lease >= long && b.counts[id] == 0 {
					b.counts[id]++
					got.Deliveries = append(got.Deliveries, d)
					return
				}
			}
		}}},
		{name: "gives an epoch twice after a replay", rule: "B7", also: "B27 P4", bend: bend{
			batch: deliveries(func(b *bent, d *broker.Delivery) {
				if d.Replays > 0 {
					d.Receipt.Epoch = 1
				}
			}),
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if d := b.held[s.Receipt.ID]; d.Replays > 0 {
					s.Receipt = d.Receipt
				}
				return s
			},
			renew: func(b *bent, r broker.Renewal) broker.Renewal {
				if d := b.held[r.Receipt.ID]; d.Replays > 0 {
					r.Receipt = d.Receipt
				}
				return r
			},
		}},
		{name: "settles what it delivers", rule: "B8", also: "*", bend: bend{batch: deliveries(func(b *bent, d *broker.Delivery) {
			_, _ = b.on().Settle(context.Background(), []broker.Settlement{{Receipt: d.Receipt, Outcome: outcome(*d, task.Succeeded)}})
		}), settled: func(*bent, broker.Settlement, error) error { return nil }, renewed: func(*bent, broker.Renewal, error) error { return nil }}},
		{name: "loses a task whose lease ended", rule: "B8", also: "*", bend: bend{batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
			got.Deliveries = slices.DeleteFunc(got.Deliveries, func(d broker.Delivery) bool { return d.Redelivered })
		}}},
		{name: "does not mark a redelivery", rule: "B8", also: "B21 B23 B31", bend: bend{batch: deliveries(func(_ *bent, d *broker.Delivery) { d.Redelivered = false })}},
	}
}

func brokenOrder() []broken {
	return []broken{
		{name: "puts a released task last", rule: "B10", also: "B8 B11 B23", bend: bend{
			settle: func(b *bent, s broker.Settlement) broker.Settlement {
				if s.Outcome.State == task.Queued {
					b.counts[s.Receipt.ID]++
				}
				return s
			},
			batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
				slices.SortStableFunc(got.Deliveries, func(x, y broker.Delivery) int {
					return min(1, b.counts[x.Receipt.ID]) - min(1, b.counts[y.Receipt.ID])
				})
			},
		}},
		{name: "serves the lowest priority first", rule: "B10", also: "B1 B11 B19 B27", bend: bend{
			publish: func(b *bent, ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
				batch = slices.Clone(batch)
				for i, p := range batch {
					if p.Envelope != nil && p.Envelope.Validate() == nil {
						v := *p.Envelope
						v.Priority = task.MaxPriority - v.Priority
						batch[i].Envelope = &v
					}
				}
				return b.on().Publish(ctx, batch)
			},
			batch: deliveries(func(_ *bent, d *broker.Delivery) {
				v := *d.Envelope
				v.Priority = task.MaxPriority - v.Priority
				d.Envelope = &v
			}),
		}},
		{name: "serves the newest first", rule: "B10", also: "*", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			slices.Reverse(got.Deliveries)
		}}},
		{name: "ignores the order of queues", rule: "B11", bend: bend{want: func(w broker.Want) broker.Want { w.Queues = nil; return w }}},
		{name: "never says that there is more", rule: "B12", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) { got.More = false }}},
		{name: "always says that there is more", rule: "B12", also: "P5", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) { got.More = true }}},
		{name: "says to come back too late", rule: "B12", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) { got.Next *= 2 }}},
		{name: "says to come back at once, always", rule: "B12", also: "P5", bend: bend{batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			got.Next = time.Millisecond
		}}},
		{name: "delivers one in two hundred twice", rule: "B30", bend: bend{batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
			for _, d := range got.Deliveries {
				if b.counts["all"]++; b.counts["all"]%200 == 0 {
					got.Deliveries = append(got.Deliveries, d)
				}
			}
		}}},
	}
}

func brokenWaiting() []broken {
	sleep := func(ctx context.Context, atMost time.Duration) error {
		select {
		case <-time.After(atMost):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return []broken{
		{name: "never wakes a consumer", rule: "B13", also: "P1 P5 B23 B28", bend: bend{wait: func(ctx context.Context, c broker.Consumer, atMost time.Duration) error {
			return sleep(ctx, atMost)
		}}},
		{name: "loses a call that comes before the wait", rule: "B13", also: "P1", bend: bend{wait: func(ctx context.Context, c broker.Consumer, atMost time.Duration) error {
			began := time.Now()
			if err := c.Wait(ctx, atMost); err != nil || time.Since(began) > 0 {
				return err
			}
			return sleep(ctx, atMost) // it was called before it slept
		}}},
		{name: "does not wait", rule: "B13", also: "B12 B29 P5", bend: bend{wait: func(ctx context.Context, c broker.Consumer, atMost time.Duration) error {
			return c.Wait(ctx, min(atMost, poll/5))
		}}},
		{name: "waits on when its context ends", rule: "B29", also: "B13", bend: bend{wait: func(ctx context.Context, c broker.Consumer, atMost time.Duration) error {
			return c.Wait(context.WithoutCancel(ctx), atMost)
		}}},
	}
}

// errBusy is an error that no rule allows.
var errBusy = errors.New("busy")
