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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem/bench/internal/meter"
)

// stamps remembers when each task was sent and when its handler began.
type stamps struct {
	sent, began []atomic.Int64 // Unix nanoseconds
	seen        atomic.Int64
	all         chan struct{}
}

func newStamps(n int) *stamps {
	return &stamps{sent: make([]atomic.Int64, n), began: make([]atomic.Int64, n), all: make(chan struct{})}
}

func (s *stamps) handle(seq int) {
	if seq < len(s.began) && s.began[seq].CompareAndSwap(0, time.Now().UnixNano()) && int(s.seen.Add(1)) == len(s.began) {
		close(s.all)
	}
}

// latencies waits for all tasks, and returns the time from sent to begun of
// those that ran.
func (s *stamps) latencies(ctx context.Context, atMost time.Duration) []time.Duration {
	select {
	case <-s.all:
	case <-ctx.Done():
	case <-time.After(atMost):
	}
	var out []time.Duration
	for i := range s.began {
		if b := s.began[i].Load(); b > 0 {
			out = append(out, time.Duration(b-s.sent[i].Load()))
		}
	}
	return out
}

// worker starts a worker that stamps, and lets it become idle.
func (r *run) stampingWorker(ctx context.Context, s *stamps) (Worker, error) {
	w, err := r.sys.NewWorker(ctx, s.handle, r.Concurrency, false)
	if err != nil {
		return nil, err
	}
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second)
	return w, nil
}

func (m *measuring) report(ctx context.Context, s *stamps) *Result {
	lat := s.latencies(ctx, 30*time.Second)
	result := m.done(ctx, len(lat))
	if len(lat) < len(s.began) {
		result.Note = fmt.Sprintf("%d of %d had not run", len(s.began)-len(lat), len(s.began))
	}
	result.percentiles(lat)
	return result
}

// latency is from the enqueue call to the handler's start, one task at a time.
func (r *run) latency(ctx context.Context) (*Result, error) {
	return r.paced(ctx, 50*time.Millisecond, 1)
}

// steady is the same at a thousand tasks a second.
func (r *run) steady(ctx context.Context) (*Result, error) {
	return r.paced(ctx, time.Millisecond, r.Producers)
}

func (r *run) paced(ctx context.Context, gap time.Duration, producers int) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	s := newStamps(r.N)
	w, err := r.stampingWorker(ctx, s)
	if err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	m := r.measure(ctx)
	began := time.Now()
	errs := make([]error, producers)
	var wg sync.WaitGroup
	for k := range producers {
		wg.Go(func() {
			for i := k; i < r.N && errs[k] == nil; i += producers {
				time.Sleep(time.Until(began.Add(time.Duration(i) * gap)))
				s.sent[i].Store(time.Now().UnixNano())
				errs[k] = p.One(ctx, i, time.Time{})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return m.report(ctx, s), nil
}

// latencyAcross is latency with the producer in another process.
func (r *run) latencyAcross(ctx context.Context) (*Result, error) {
	if !r.shared() {
		return nil, ErrUnsupported
	}
	s := newStamps(r.N)
	w, err := r.stampingWorker(ctx, s)
	if err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	m := r.measure(ctx)
	cmd, err := r.helper(ctx, "pace", "-n", strconv.Itoa(r.N))
	if err != nil {
		return nil, err
	}
	err = readLines(cmd, func(line string) error {
		var i int
		var at int64
		if _, err := fmt.Sscan(line, &i, &at); err != nil {
			return fmt.Errorf("helper said %q: %w", line, err)
		}
		s.sent[i].Store(at)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m.report(ctx, s), nil
}

// helpPace enqueues one task after the other and prints when.
func (r *run) helpPace(ctx context.Context, p Producer) error {
	for i := range r.N {
		time.Sleep(50 * time.Millisecond)
		at := time.Now().UnixNano()
		if err := p.One(ctx, i, time.Time{}); err != nil {
			return err
		}
		fmt.Println(i, at)
	}
	return nil
}

func readLines(cmd *exec.Cmd, each func(line string) error) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && err == nil {
		err = each(lines.Text())
	}
	_, _ = io.Copy(io.Discard, out)
	return errors.Join(err, cmd.Wait())
}

// delayed is how late tasks start that are all due at one moment.
func (r *run) delayed(ctx context.Context) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	s := newStamps(r.N)
	w, err := r.stampingWorker(ctx, s)
	if err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	due := time.Now().Add(4 * time.Second).Truncate(time.Second)
	for i := range s.sent {
		s.sent[i].Store(due.UnixNano())
	}
	if err := load(ctx, p, r.N, due); err != nil {
		return nil, err
	}
	left := time.Until(due)
	time.Sleep(left)
	m := r.measure(ctx)
	result := m.report(ctx, s)
	first := time.Duration(1<<63 - 1)
	for i := range s.began {
		if b := s.began[i].Load(); b > 0 {
			first = min(first, time.Duration(b-due.UnixNano()))
		}
	}
	result.set("firstMs", float64(first)/1e6)
	if left < 0 {
		result.Note = "the tasks were stored after they were due"
	}
	return result, nil
}

// fair has several processes write at once, one task a commit, and compares
// their shares.
func (r *run) fair(ctx context.Context) (*Result, error) {
	if !r.shared() {
		return nil, ErrUnsupported
	}
	type report struct {
		commits  int
		p99, max float64
	}
	reports := make([]report, r.Producers)
	errs := make([]error, r.Producers)
	var wg sync.WaitGroup
	m := r.measure(ctx)
	for k := range r.Producers {
		cmd, err := r.helper(ctx, "write", "-n", strconv.Itoa((k+1)*10_000_000))
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			errs[k] = readLines(cmd, func(line string) error {
				_, err := fmt.Sscan(line, &reports[k].commits, &reports[k].p99, &reports[k].max)
				return err
			})
		})
	}
	wg.Wait()
	total, least := 0, 1<<62
	result := &Result{}
	for _, p := range reports {
		total, least = total+p.commits, min(least, p.commits)
		result.P99, result.Max = max(result.P99, p.p99), max(result.Max, p.max)
	}
	result.N, result.Seconds, result.RSS = total, m.Elapsed().Seconds(), meter.PeakRSS()
	result.Rate = float64(total) / fairLength.Seconds()
	result.set("leastSharePercent", 100*float64(least)/float64(max(total, 1)))
	return result, errors.Join(errs...)
}

const fairLength = 5 * time.Second

// helpWrite enqueues one task after the other for five seconds, numbered from
// N, and prints how many and how long they took.
func (r *run) helpWrite(ctx context.Context, p Producer) error {
	if err := p.One(ctx, r.N, time.Time{}); err != nil {
		return err
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(2 * time.Second))) // all at once
	var took []time.Duration
	for end := time.Now().Add(fairLength); time.Now().Before(end); {
		began := time.Now()
		if err := p.One(ctx, r.N+len(took)+1, time.Time{}); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	var result Result
	result.percentiles(took)
	fmt.Fprintln(os.Stdout, strings.Join([]string{strconv.Itoa(len(took)),
		strconv.FormatFloat(result.P99, 'f', 3, 64), strconv.FormatFloat(result.Max, 'f', 3, 64)}, " "))
	return nil
}

// mixed is the queue time of short tasks (1 ms) while half of the isolates
// execute long ones (1 s).
func (r *run) mixed(ctx context.Context) (*Result, error) {
	p, err := r.sys.NewProducer(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	const longFrom = 1 << 30
	s := newStamps(r.N)
	w, err := r.sys.NewWorker(ctx, func(seq int) {
		if seq >= longFrom {
			time.Sleep(time.Second)
			return
		}
		s.handle(seq)
		time.Sleep(time.Millisecond)
	}, r.Concurrency, false)
	if err != nil {
		return nil, err
	}
	if err := w.Start(ctx); err != nil {
		return nil, err
	}
	defer w.Stop(ctx)
	time.Sleep(time.Second)
	m := r.measure(ctx)
	ctxLong, stop := context.WithCancel(ctx)
	defer stop()
	long := make(chan error, 1)
	go func() { // keeps half of the isolates busy
		for i := longFrom; ; {
			for range r.Concurrency / 2 {
				if err := p.One(ctxLong, i, time.Time{}); err != nil {
					long <- err
					return
				}
				i++
			}
			select {
			case <-time.After(time.Second):
			case <-ctxLong.Done():
				long <- nil
				return
			}
		}
	}()
	for i := range r.N {
		s.sent[i].Store(time.Now().UnixNano())
		if err := p.One(ctx, i, time.Time{}); err != nil {
			return nil, err
		}
		time.Sleep(2 * time.Millisecond)
	}
	result := m.report(ctx, s)
	stop()
	if err := <-long; err != nil && !errors.Is(err, context.Canceled) {
		return nil, err
	}
	return result, nil
}
