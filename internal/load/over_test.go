package load

import (
	"context"
	"testing"
	"time"
)

// unfired is a context whose deadline has passed, and whose timer has not fired.
type unfired struct{ context.Context }

func (unfired) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

// A phase is over by its deadline, also for who knows it before the timer does.
func TestOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if over(ctx, ctx) || !over(ctx, unfired{ctx}) {
		t.Errorf("without an end: %v; past it: %v", over(ctx, ctx), over(ctx, unfired{ctx}))
	}
	cancel()
	if over(ctx, unfired{ctx}) {
		t.Error("somebody asked to stop, and it counts as the phase's end")
	}
}
