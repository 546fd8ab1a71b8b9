package brokertest

import (
	"context"
	"slices"

	"github.com/stemjobs/stem/broker"
)

// pauserOf is the power of what is bent.
func pauserOf(b *bent) broker.Pauser {
	p, _ := broker.As[broker.Pauser](b.on())
	return p
}

func brokenPauses() []broken {
	return []broken{
		{name: "pauses without declaring it", rule: "P0", bend: bend{caps: func(c broker.Capabilities) broker.Capabilities {
			c.Powers = slices.DeleteFunc(slices.Clone(c.Powers), func(q broker.Power) bool { return q == broker.PowerPause })
			return c
		}}},
		{name: "says paused and goes on", rule: "P5", also: "B28 B29", bend: bend{pause: func(*bent, context.Context, []broker.Pause) error { return nil }}},
		{name: "pauses and does not say so", rule: "P5", bend: bend{pauses: func([]broker.Pause) []broker.Pause { return nil }}},
		{name: "does not go on", rule: "P5", also: "B28 B29", bend: bend{resume: func(_ *bent, _ context.Context, queues []string) ([]bool, error) {
			return make([]bool, len(queues)), nil
		}}},
		{name: "keeps no note", rule: "P5", bend: bend{pause: func(b *bent, ctx context.Context, batch []broker.Pause) error {
			batch = slices.Clone(batch)
			for i := range batch {
				batch[i].Note = ""
			}
			return pauserOf(b).Pause(ctx, batch)
		}}},
		{name: "counts what is paused as more", rule: "P5", bend: bend{batch: func(b *bent, _ *bentConsumer, got *broker.Batch) {
			list, err := pauserOf(b).Pauses(context.Background())
			got.More = got.More || err == nil && len(list) > 0
		}}},
		{name: "pauses a queue anew each time", rule: "P5", bend: bend{pause: func(b *bent, ctx context.Context, batch []broker.Pause) error {
			for _, p := range batch {
				_, _ = pauserOf(b).Resume(ctx, p.Queue)
			}
			return pauserOf(b).Pause(ctx, batch)
		}}},
		{name: "does not list what is to be stopped", rule: "P1", bend: bend{revs: func([]broker.PendingRevocation) []broker.PendingRevocation { return nil }}},
	}
}
