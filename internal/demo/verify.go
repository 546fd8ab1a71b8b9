package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/stemjobs/stem"
)

// report is what the demo found out.
type report struct {
	enqueued, succeeded, failed, redelivered int
	wrong                                    []string // files whose result differs, the first few
	wrongCount                               int
	killed                                   int
	took, total                              time.Duration
	queueTimes                               []time.Duration
}

// lost is how many tasks have no final outcome.
func (r *report) lost() int { return r.enqueued - r.succeeded - r.failed }

// verify reads every status and compares its result with a computation of its
// own.
func (d *demo) verify(ctx context.Context) (*report, error) {
	r := &report{enqueued: len(d.ids), killed: d.killed, took: d.took}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, runtime.NumCPU())
	for k := range errs {
		wg.Go(func() {
			for i := k; i < len(d.ids); i += len(errs) {
				s, err := d.client.Get(ctx, d.ids[i])
				if errors.Is(err, stem.ErrNotFound) {
					continue // lost
				}
				if err != nil {
					errs[k] = err
					return
				}
				verdict, err := check(d.files[i], &s)
				if err != nil {
					errs[k] = err
					return
				}
				mu.Lock()
				r.count(d.files[i], &s, verdict)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r, errors.Join(errs...)
}

// verdict is what one result came to.
type verdict struct {
	right       bool
	redelivered bool
}

func check(path string, s *stem.Status) (verdict, error) {
	if s.State != stem.Succeeded {
		return verdict{}, nil
	}
	want, err := summarize(path)
	if err != nil {
		return verdict{}, fmt.Errorf("check the result of %s: %w", path, err)
	}
	var got Summary
	if err := json.Unmarshal(s.Result, &got); err != nil {
		return verdict{}, nil // no summary at all: wrong
	}
	want.Redelivered = got.Redelivered
	return verdict{right: got == want, redelivered: got.Redelivered}, nil
}

func (r *report) count(path string, s *stem.Status, v verdict) {
	switch s.State {
	case stem.Succeeded:
		r.succeeded++
		r.queueTimes = append(r.queueTimes, s.StartedAt.Sub(s.EnqueuedAt))
		if v.redelivered {
			r.redelivered++
		}
		if v.right {
			return
		}
	case stem.Failed, stem.Cancelled:
		r.failed++
	default:
		return // lost
	}
	if r.wrongCount++; len(r.wrong) < 5 {
		r.wrong = append(r.wrong, path)
	}
}

func (r *report) victim() string {
	if r.killed == 0 {
		return "none: the work was done too soon; --dir takes a larger directory"
	}
	return fmt.Sprintf("process %d", r.killed)
}

func (r *report) print(out io.Writer) {
	slices.Sort(r.queueTimes)
	rank := func(share float64) string {
		if len(r.queueTimes) == 0 {
			return "-"
		}
		return r.queueTimes[int(share*float64(len(r.queueTimes)-1))].Round(time.Millisecond).String()
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("worker killed in mid-work", r.victim())
	row("enqueued", r.enqueued)
	row("succeeded", r.succeeded)
	row("redelivered after the kill", r.redelivered)
	row("lost", r.lost())
	row("wrong results", r.wrongCount)
	row("tasks per second", int(float64(r.succeeded)/r.took.Seconds()))
	row("queue time p50 / p99", rank(0.50)+" / "+rank(0.99))
	row("took", r.took.Round(time.Millisecond))
	row("in all, with the check", r.total.Round(time.Millisecond))
	_ = w.Flush() // a pipe that was closed has nobody to tell
}

// verdict is nil when every task has its right result.
func (r *report) verdict() error {
	switch {
	case r.lost() > 0:
		return fmt.Errorf("%w: %d of %d tasks have no outcome", ErrWrong, r.lost(), r.enqueued)
	case r.wrongCount > 0:
		return fmt.Errorf("%w: %d results are wrong, such as of %v", ErrWrong, r.wrongCount, r.wrong)
	case r.succeeded != r.enqueued:
		return fmt.Errorf("%w: %d of %d tasks succeeded", ErrWrong, r.succeeded, r.enqueued)
	}
	return nil
}
