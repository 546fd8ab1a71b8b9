package cases

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"
)

// bytes is what a task costs in the store's memory while it is ready, while it
// is delayed, and after it has ended.
func (r *run) bytes(ctx context.Context) (*Result, error) {
	prober, ok := r.sys.(Prober)
	if !ok {
		return nil, ErrUnsupported
	}
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.One(ctx, 0, time.Time{}); err != nil { // what is made at first use
		return nil, err
	}
	result := &Result{N: r.N}
	last := int64(0)
	grown := func(name string) error {
		now, err := prober.Probe(ctx)
		if name != "" {
			result.set(name, float64(now.Bytes-last)/float64(r.N))
		}
		last = now.Bytes
		return err
	}
	if err := grown(""); err != nil {
		return nil, err
	}
	empty := last
	if err := load(ctx, p, r.N, time.Now().Add(time.Hour)); err != nil {
		return nil, err
	}
	if err := grown("delayedBytes"); err != nil {
		return nil, err
	}
	delayed := last - empty
	if err := load(ctx, p, r.N, time.Time{}); err != nil {
		return nil, err
	}
	if err := grown("readyBytes"); err != nil {
		return nil, err
	}
	last = empty + delayed
	w, err := r.sys.NewWorker(ctx, func(int) {}, r.Concurrency, r.Retain)
	if err != nil {
		return nil, err
	}
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	for left := 0; left != r.N; { // the delayed ones
		if left, err = r.sys.Left(ctx); err != nil {
			return nil, errors.Join(err, w.Stop(ctx))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := w.Stop(ctx); err != nil {
		return nil, err
	}
	return result, grown("finishedBytes")
}

// fleet is what many idle workers cost, each with connections of its own, and
// how many scripts one task makes them run.
func (r *run) fleet(ctx context.Context) (*Result, error) {
	prober, ok := r.sys.(Prober)
	if !ok {
		return nil, ErrUnsupported
	}
	s := newStamps(r.N)
	for range r.Producers {
		sys, err := r.open(ctx, r.Options)
		if err != nil {
			return nil, err
		}
		defer sys.Close()
		w, err := sys.NewWorker(ctx, s.handle, r.Concurrency, false)
		if err != nil {
			return nil, err
		}
		if err := w.Start(ctx); err != nil {
			return nil, err
		}
		defer w.Stop(ctx)
	}
	time.Sleep(5 * time.Second)
	const length = 10 * time.Second
	m := r.measure(ctx)
	time.Sleep(length)
	result := m.idle(ctx)
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	before, err := prober.Probe(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for i := range r.N {
		s.sent[i].Store(time.Now().UnixNano())
		if err := p.One(ctx, i, time.Time{}); err != nil {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	lat := s.latencies(ctx, 10*time.Second)
	took := time.Since(began)
	after, err := prober.Probe(ctx)
	if err != nil {
		return nil, err
	}
	idle := result.Extra["scriptsPerS"] * took.Seconds() // heartbeats come by the ten seconds, which is what both lengths are
	result.set("scriptsPerTask", (float64(after.Scripts-before.Scripts)-idle)/float64(r.N))
	result.N = len(lat)
	result.percentiles(lat)
	return result, nil
}

// queueName names one of several queues.
func queueName(i int) string { return "q" + strconv.Itoa(i) }

// processes is the rate of several worker processes on one queue, or on one
// each.
func (r *run) processes(ctx context.Context) (*Result, error) {
	if !r.shared() {
		return nil, ErrUnsupported
	}
	for q := range r.Queues {
		if err := r.fillQueue(ctx, r.N/r.Queues, queueName(q)); err != nil {
			return nil, err
		}
	}
	ctxWork, stop := context.WithCancel(ctx)
	defer stop()
	m := r.measure(ctx)
	ends := make([]*exec.Cmd, r.Producers)
	for k := range ends {
		cmd, err := r.helper(ctxWork, "work", "-queue", queueName(k%r.Queues), "-c", strconv.Itoa(r.Concurrency))
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		ends[k] = cmd
	}
	for left := 1; left > 0; {
		var err error
		if left, err = r.sys.Left(ctx); err != nil {
			return nil, err
		}
		if m.Elapsed() > r.Max {
			return nil, fmt.Errorf("after %s %d tasks are left", r.Max, left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	result := m.done(ctx, r.N/r.Queues*r.Queues)
	result.CPU = 0 // it is the helpers'
	stop()
	for _, cmd := range ends {
		_ = cmd.Wait() // killed
	}
	return result, nil
}

// helpWork executes what is in its queue until it is killed.
func (r *run) helpWork(ctx context.Context) error {
	w, err := r.sys.NewWorker(ctx, func(int) {}, r.Concurrency, r.Retain)
	if err != nil {
		return err
	}
	if err := w.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return w.Stop(context.Background())
}

// reclaim is how long it takes until all tasks are executed again that a
// killed worker held, from the first to the last of them.
func (r *run) reclaim(ctx context.Context) (*Result, error) {
	if !r.shared() {
		return nil, ErrUnsupported
	}
	if err := r.fill(ctx, r.N); err != nil {
		return nil, err
	}
	cmd, err := r.helper(ctx, "hold", "-c", strconv.Itoa(r.N))
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the helper said %q: %w", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed
	killed := time.Now()
	s := newStamps(r.N)
	for i := range s.sent {
		s.sent[i].Store(killed.UnixNano())
	}
	w, err := r.sys.NewWorker(ctx, s.handle, r.Concurrency, false)
	if err != nil {
		return nil, err
	}
	m := r.measure(ctx)
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	result := m.report(ctx, s)
	first, last := int64(1<<62), int64(0)
	for i := range s.began {
		first, last = min(first, s.began[i].Load()), max(last, s.began[i].Load())
	}
	result.set("firstAfterKillMs", float64(first-killed.UnixNano())/1e6)
	result.set("firstToLastMs", float64(last-first)/1e6)
	return result, nil
}

// helpHold takes as many tasks as its concurrency, says so, and never ends
// them.
func (r *run) helpHold(ctx context.Context) error {
	var held atomic.Int64
	all := make(chan struct{})
	w, err := r.sys.NewWorker(ctx, func(int) {
		if held.Add(1) == int64(r.Concurrency) {
			close(all)
		}
		<-ctx.Done()
	}, r.Concurrency, false)
	if err != nil {
		return err
	}
	if err := w.Start(ctx); err != nil {
		return err
	}
	<-all
	fmt.Fprintln(os.Stdout, "held")
	<-ctx.Done()
	return nil
}

// paged is the rate on a backlog while somebody lists a million tasks, of the
// rate without.
func (r *run) paged(ctx context.Context) (*Result, error) {
	p, ok := r.sys.(Pager)
	if !ok {
		return nil, ErrUnsupported
	}
	return r.beside(ctx, p.Page)
}

// walked is the same while somebody looks through a million records for what
// crashes left.
func (r *run) walked(ctx context.Context) (*Result, error) {
	w, ok := r.sys.(Walker)
	if !ok {
		return nil, ErrUnsupported
	}
	return r.beside(ctx, w.Walk)
}

func (r *run) beside(ctx context.Context, other func(context.Context) error) (*Result, error) {
	if err := r.fillQueue(ctx, r.Backlog, queueName(0)); err != nil {
		return nil, err
	}
	rate := func() (*Result, error) {
		if err := r.fill(ctx, r.N); err != nil {
			return nil, err
		}
		return r.drain(ctx, r.N, false)
	}
	alone, err := rate()
	if err != nil {
		return nil, err
	}
	besides, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- other(besides) }()
	result, err := rate()
	stop()
	if otherErr := <-ended; otherErr != nil && !errors.Is(otherErr, context.Canceled) {
		err = errors.Join(err, otherErr)
	}
	if err != nil {
		return nil, err
	}
	result.set("aloneRate", alone.Rate)
	result.set("percentOfAlone", 100*result.Rate/alone.Rate)
	return result, nil
}
