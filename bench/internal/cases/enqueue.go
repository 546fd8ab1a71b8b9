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

	"github.com/stemjobs/stem/bench/internal/meter"
)

// done fills what every case measures the same way.
func done(m *meter.Meter, n int) *Result {
	took, cpu := m.Elapsed(), m.CPU()
	r := &Result{N: n, Seconds: took.Seconds(), RSS: meter.PeakRSS()}
	if n > 0 {
		r.Rate = float64(n) / took.Seconds()
		r.CPU = float64(cpu.Microseconds()) / float64(n)
	}
	return r
}

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
	m := meter.Start()
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
	result := done(m, r.N)
	result.percentiles(took)
	return result, errors.Join(errs...)
}

// enqueueBatch stores N tasks through the bulk call.
func (r *run) enqueueBatch(ctx context.Context) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Many(ctx, 0, 1, time.Time{}); err != nil {
		return nil, err
	}
	var took []time.Duration
	m := meter.Start()
	for i := 0; i < r.N; i += r.Batch {
		began := time.Now()
		if err := p.Many(ctx, i, min(r.Batch, r.N-i), time.Time{}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	result := done(m, r.N)
	result.percentiles(took)
	return result, nil
}

// fill loads the store from a process of its own, so that the measuring one's
// memory and CPU are the worker's alone; where there is no file to share, from
// this one.
func (r *run) fill(ctx context.Context, n int) error {
	if r.File == "" {
		p, err := r.sys.NewProducer(ctx)
		if err != nil {
			return err
		}
		defer p.Close()
		return load(ctx, p, n, time.Time{})
	}
	cmd, err := r.helper(ctx, "fill", "-n", strconv.Itoa(n))
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

// helper is a command that runs this program in a role on the same store.
func (r *run) helper(ctx context.Context, role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"one", "-system", r.System, "-case", r.Case, "-sync", r.Sync,
		"-file", r.File, "-role", role, "-tuned=" + strconv.FormatBool(r.Tuned)}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// help is what a helper process does.
func (r *run) help(ctx context.Context) error {
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
