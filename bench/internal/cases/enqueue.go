package cases

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// enqueue stores N tasks, one call each, from several producers.
func (r *run) enqueue(ctx context.Context) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.One(ctx, 0, time.Time{}); err != nil { // opens what is opened at first use
		return nil, err
	}
	took := make([]time.Duration, r.N)
	errs := make([]error, r.Producers)
	var next atomic.Int64
	var wg sync.WaitGroup
	m := r.measure(ctx)
	for k := range r.Producers {
		wg.Go(func() {
			for errs[k] == nil {
				i := int(next.Add(1)) - 1
				if i >= r.N {
					return
				}
				began := time.Now()
				errs[k] = p.One(ctx, i, time.Time{})
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	result := m.done(ctx, r.N)
	result.percentiles(took)
	return result, errors.Join(errs...)
}

// enqueueBatch stores N tasks through the bulk call, from several producers.
func (r *run) enqueueBatch(ctx context.Context) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Many(ctx, 0, 1, time.Time{}); err != nil {
		return nil, err
	}
	took := make([]time.Duration, (r.N+r.Batch-1)/r.Batch)
	producers := max(r.Producers, 1)
	errs := make([]error, producers)
	var next atomic.Int64
	var wg sync.WaitGroup
	m := r.measure(ctx)
	for k := range producers {
		wg.Go(func() {
			for errs[k] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(took) {
					return
				}
				began, from := time.Now(), i*r.Batch
				errs[k] = p.Many(ctx, from, min(r.Batch, r.N-from), time.Time{})
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	result := m.done(ctx, r.N)
	result.percentiles(took)
	return result, errors.Join(errs...)
}

// fill loads the store from a process of its own, so that the measuring one's
// memory and CPU are the worker's alone; where there is no file to share, from
// this one.
func (r *run) fill(ctx context.Context, n int) error { return r.fillQueue(ctx, n, r.Queue) }

func (r *run) fillQueue(ctx context.Context, n int, queue string) error {
	if !r.shared() {
		p, err := r.sys.NewProducer(ctx)
		if err != nil {
			return err
		}
		defer p.Close()
		return load(ctx, p, n, time.Time{})
	}
	cmd, err := r.helper(ctx, "fill", "-n", strconv.Itoa(n), "-queue", queue)
	if err != nil {
		return err
	}
	return cmd.Run()
}

func load(ctx context.Context, p Producer, n int, due time.Time) error {
	const batch = 2000
	for i := 0; i < n; i += batch {
		if err := p.Many(ctx, i, min(batch, n-i), due); err != nil {
			return err
		}
	}
	return nil
}

// shared reports whether other processes can use the store.
func (r *run) shared() bool { return r.File != "" || r.Redis != "" }

// helper is a command that runs this program in a role on the same store.
func (r *run) helper(ctx context.Context, role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{
		"one", "-system", r.System, "-case", r.Case, "-sync", r.Sync,
		"-file", r.File, "-redis", r.Redis, "-role", role, "-lease", r.Lease.String(),
		"-tuned=" + strconv.FormatBool(r.Tuned), "-retain=" + strconv.FormatBool(r.Retain), "-drop=" + strconv.FormatBool(r.Drop),
	}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// help is what a helper process does.
func (r *run) help(ctx context.Context) error {
	switch r.Role {
	case "work":
		return r.helpWork(ctx)
	case "hold":
		return r.helpHold(ctx)
	}
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	switch r.Role {
	case "fill":
		return load(ctx, p, r.N, time.Time{})
	case "pace":
		return r.helpPace(ctx, p)
	case "write":
		return r.helpWrite(ctx, p)
	default:
		return fmt.Errorf("no role %q", r.Role)
	}
}
