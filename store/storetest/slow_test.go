package storetest

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// A machine that stops between any two calls, for longer than a status or a lock
// is kept, passes the suites: no rule's test builds on its speed.
func TestSlowMachine(t *testing.T) {
	const keep, slack = 300 * time.Millisecond, 20 * time.Second
	stops := func(ctx context.Context) context.Context {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(3*keep))) + time.Duration(rand.IntN(20)/19)*3*time.Second)
		}
		return ctx
	}
	t.Run("results", func(t *testing.T) {
		Run(t, Options{Open: openBent(bend{ctx: stops}), Keep: keep, Slack: slack, Virtual: true})
	})
	t.Run("schedules", func(t *testing.T) {
		RunSchedules(t, ScheduleOptions{Open: openBentPlan(planBend{ctx: stops}), TTL: keep, Slack: slack, Virtual: true})
	})
}
