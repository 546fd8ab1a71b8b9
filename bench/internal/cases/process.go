package cases

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// process is the rate of a worker on a backlog of no-op tasks, until the last
// outcome is stored.
func (r *run) process(ctx context.Context) (*Result, error) {
	if err := r.fill(ctx, r.N); err != nil {
		return nil, err
	}
	return r.drain(ctx, r.N, true)
}

// scale is that rate, of N tasks, while a backlog waits behind them.
func (r *run) scale(ctx context.Context) (*Result, error) {
	if err := r.fill(ctx, r.N+r.Backlog); err != nil {
		return nil, err
	}
	return r.drain(ctx, r.N, false)
}

func (r *run) drain(ctx context.Context, want int, settled bool) (*Result, error) {
	var count atomic.Int64
	all := make(chan struct{})
	w, err := r.sys.NewWorker(ctx, func(int) {
		if count.Add(1) == int64(want) {
			close(all)
		}
	}, r.Concurrency, r.Retain)
	if err != nil {
		return nil, err
	}
	m := r.measure(ctx)
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	select {
	case <-all:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(r.Max):
		result := m.done(ctx, int(count.Load()))
		result.Note = fmt.Sprintf("stopped after %s with %d of %d", r.Max, count.Load(), want)
		return result, nil
	}
	for settled {
		left, err := r.sys.Left(ctx)
		if err != nil {
			return nil, err
		}
		if left == 0 {
			break
		}
		if m.Elapsed() > r.Max+30*time.Second {
			return nil, fmt.Errorf("all tasks ran, and %d are never settled", left)
		}
		time.Sleep(2 * time.Millisecond)
	}
	result := m.done(ctx, want)
	if n := count.Load(); settled && n > int64(want) {
		result.Note = fmt.Sprintf("%d tasks ran more than once", n-int64(want))
	}
	return result, nil
}

// idle is what a worker costs that has nothing to do.
func (r *run) idle(ctx context.Context) (*Result, error) {
	w, err := r.sys.NewWorker(ctx, func(int) {}, r.Concurrency, false)
	if err != nil {
		return nil, err
	}
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	time.Sleep(3 * time.Second)
	const length = 10 * time.Second
	m := r.measure(ctx)
	time.Sleep(length)
	return m.idle(ctx), nil
}
