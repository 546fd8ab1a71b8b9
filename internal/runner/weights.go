package runner

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// order gives the sequence in which an exchange serves the queues: as listed
// when no queue has a weight, else a random one in which each place falls to a
// queue in proportion to its weight among those not placed yet.
type order struct {
	strict bool
	names  []string
	turns  []turn
}

type turn struct {
	name   string
	weight float64
	key    float64
}

func newOrder(queues []Queue) *order {
	o := &order{strict: true, names: make([]string, len(queues)), turns: make([]turn, len(queues))}
	for i, q := range queues {
		o.names[i] = q.Name
		o.turns[i] = turn{name: q.Name, weight: float64(max(q.Weight, 1))}
		o.strict = o.strict && q.Weight == 0
	}
	return o
}

// next is nil for the order as subscribed. The slice is valid until the next
// call.
func (o *order) next() []string {
	if o.strict || len(o.turns) < 2 {
		return nil
	}
	for i := range o.turns {
		// A weighted shuffle in one pass: the exponential clock of the heavier
		// queue runs faster.
		o.turns[i].key = -math.Log(1-rand.Float64()) / o.turns[i].weight
	}
	slices.SortFunc(o.turns, func(a, b turn) int { return cmp.Compare(a.key, b.key) })
	for i := range o.turns {
		o.names[i] = o.turns[i].name
	}
	return o.names
}
