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

// Report is what the demo found out.
type Report struct {
	Enqueued    int `json:"enqueued"`
	Succeeded   int `json:"succeeded"`
	Failed      int `json:"failed"`
	Redelivered int `json:"redelivered"`         // after the kill
	Lost        int `json:"lost"`                // without a final outcome
	Wrong       int `json:"wrong"`               // results that differ, failures included
	Killed      int `json:"killedPid,omitempty"` // 0: the work was done too soon

	PerSecond int   `json:"perSecond"`
	P50       int64 `json:"queueTimeP50Ms"`
	P99       int64 `json:"queueTimeP99Ms"`
	Took      int64 `json:"tookMs"`  // from the first enqueue to the last outcome
	Total     int64 `json:"totalMs"` // in all, with the check

	wrong      []string // the first few files whose result differs
	queueTimes []time.Duration
}

// measure works out the figures.
func (r *Report) measure(took, total time.Duration) {
	r.Lost = r.Enqueued - r.Succeeded - r.Failed
	r.PerSecond = int(float64(r.Succeeded) / took.Seconds())
	r.Took, r.Total = took.Milliseconds(), total.Milliseconds()
	slices.Sort(r.queueTimes)
	rank := func(share float64) int64 {
		if len(r.queueTimes) == 0 {
			return 0
		}
		return r.queueTimes[int(share*float64(len(r.queueTimes)-1))].Round(time.Millisecond).Milliseconds()
	}
	r.P50, r.P99 = rank(0.50), rank(0.99)
}

// verify reads every status and compares its result with a computation of its
// own.
func (d *demo) verify(ctx context.Context) (*Report, error) {
	r := &Report{Enqueued: len(d.ids), Killed: d.killed}
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

func (r *Report) count(path string, s *stem.Status, v verdict) {
	switch s.State {
	case stem.Succeeded:
		r.Succeeded++
		r.queueTimes = append(r.queueTimes, s.StartedAt.Sub(s.EnqueuedAt))
		if v.redelivered {
			r.Redelivered++
		}
		if v.right {
			return
		}
	case stem.Failed, stem.Cancelled:
		r.Failed++
	default:
		return // lost
	}
	if r.Wrong++; len(r.wrong) < 5 {
		r.wrong = append(r.wrong, path)
	}
}

func (r *Report) victim() string {
	if r.Killed == 0 {
		return "none: the work was done too soon; --dir takes a larger directory"
	}
	return fmt.Sprintf("process %d", r.Killed)
}

// Print writes the report as a table for people.
func (r *Report) Print(out io.Writer) {
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("worker killed in mid-work", r.victim())
	row("enqueued", r.Enqueued)
	row("succeeded", r.Succeeded)
	row("redelivered after the kill", r.Redelivered)
	row("lost", r.Lost)
	row("wrong results", r.Wrong)
	row("tasks per second", r.PerSecond)
	row("queue time p50 / p99", fmt.Sprintf("%s / %s", ms(r.P50), ms(r.P99)))
	row("took", ms(r.Took))
	row("in all, with the check", ms(r.Total))
	_ = w.Flush() // a pipe that was closed has nobody to tell
}

// verdict is nil when every task has its right result.
func (r *Report) verdict() error {
	switch {
	case r.Lost > 0:
		return fmt.Errorf("%w: %d of %d tasks have no outcome", ErrWrong, r.Lost, r.Enqueued)
	case r.Wrong > 0:
		return fmt.Errorf("%w: %d results are wrong, such as of %v", ErrWrong, r.Wrong, r.wrong)
	case r.Succeeded != r.Enqueued:
		return fmt.Errorf("%w: %d of %d tasks succeeded", ErrWrong, r.Succeeded, r.Enqueued)
	}
	return nil
}
