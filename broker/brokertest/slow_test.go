package brokertest

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// The suite passes on a machine that stops for longer than a lease between any
// two calls: no rule's test builds on the speed of the machine.
func TestSlowMachine(t *testing.T) {
	const lease = 300 * time.Millisecond
	stops := bend{ctx: func(ctx context.Context) context.Context {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(3 * lease))))
		}
		return ctx
	}}
	o := Options{Lease: lease, Slack: 20 * time.Second, Virtual: true}
	o.Open = openBent(stops)
	Run(t, o)
	t.Run("several handles", func(t *testing.T) {
		o := o
		o.Open, o.Reopen = openShared(stops), reopenShared
		Run(t, o)
	})
	t.Run("two stores", func(t *testing.T) {
		o := o
		o.Open = openJoined(stops)
		Run(t, o)
	})
}
