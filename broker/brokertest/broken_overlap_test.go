package brokertest

import "github.com/stemjobs/stem/broker"

func brokenOverlaps() []broken {
	return []broken{
		{name: "loses what one of two exchanges got", rule: "P6", bend: bend{overlaps: true, overlapped: func(_ *bentConsumer, got *broker.Batch) {
			got.Deliveries = nil
		}}},
		{name: "gives two exchanges the same", rule: "P6", bend: bend{overlaps: true, overlapped: func(c *bentConsumer, got *broker.Batch) {
			for _, d := range c.mine {
				got.Deliveries = append(got.Deliveries, d)
				break
			}
		}}},
		{name: "forgets the revocations of what two exchanges brought", rule: "P6", bend: bend{
			overlaps: true, overlapped: func(_ *bentConsumer, got *broker.Batch) { got.Revoked = nil },
			batch: func(_ *bent, c *bentConsumer, got *broker.Batch) {
				if c.met {
					got.Revoked = nil
				}
			},
		}},
		{name: "wakes nobody after two exchanges", rule: "P6", bend: bend{overlaps: true, deaf: true}},
	}
}
