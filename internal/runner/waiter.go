package runner

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/broker"
)

// waiter calls the consumer's Wait beside its exchanges, so that an outcome
// need not wait for it to return. The fetcher asks, and learns of the return
// through woken; busy and until are the fetcher's own.
type waiter struct {
	consumer atomic.Pointer[broker.Consumer]
	asked    chan time.Duration
	woken    chan struct{}
	timer    *time.Timer // of the fetcher's sleep

	busy  bool
	until time.Duration
}

func newWaiter(c broker.Consumer) *waiter {
	w := &waiter{asked: make(chan time.Duration, 1), woken: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	w.use(c)
	return w
}

func (w *waiter) use(c broker.Consumer) { w.consumer.Store(&c) }

// ask has the waiter wait. It must not be busy.
func (w *waiter) ask(now, atMost time.Duration) {
	w.busy, w.until = true, now+atMost
	w.asked <- atMost
}

// run serves ask until ctx ends. When Wait fails, the look that the fetcher
// takes once a second has to do.
func (w *waiter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case atMost := <-w.asked:
			if err := (*w.consumer.Load()).Wait(ctx, atMost); err != nil {
				pause(ctx, lookEvery)
			}
			w.woken <- struct{}{}
		}
	}
}
