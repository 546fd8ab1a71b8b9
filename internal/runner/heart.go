package runner

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
)

// maxListed bounds the running jobs that a heartbeat names.
const maxListed = 100

// gauges are the worker's values of the moment.
type gauges struct {
	active, total, lost, inflight, prefetched measure.Gauge
}

func newGauges(m measure.Meter, worker string) gauges {
	return gauges{
		active: m.Gauge(measure.IsolatesActive, worker), total: m.Gauge(measure.IsolatesTotal, worker),
		lost: m.Gauge(measure.IsolatesLost, worker), inflight: m.Gauge(measure.WorkerInflight, worker),
		prefetched: m.Gauge(measure.WorkerPrefetch, worker),
	}
}

// Snapshot is what the worker would say of itself now.
func (r *Runner) Snapshot() store.Heartbeat {
	h := store.Heartbeat{
		Worker: r.cfg.ID, Host: r.host, PID: os.Getpid(), Version: r.cfg.Version,
		StartedAt: r.born.Round(0).UTC(), At: time.Now().Round(0).UTC(), Queues: r.queueNames(), Interval: r.cfg.HeartbeatInterval.Milliseconds(),
		Succeeded: r.counts.succeeded.Load(), Failed: r.counts.failed.Load(), Retried: r.counts.retried.Load(),
	}
	if ms := r.renewedAt.Load(); ms > 0 {
		h.RenewedAt = time.UnixMilli(ms).UTC()
	}
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Isolates = store.Isolates{Active: l.executing, Total: l.isolates}
	h.Inflight, h.Draining = l.held.n, l.mode != 0
	for iso := range l.pool {
		if j := iso.job; j != nil && j.state == running && len(h.Running) < maxListed {
			e := j.Delivery.Envelope
			h.Running = append(h.Running, store.RunningJob{ID: e.ID, Name: e.Name, Since: j.Started.Round(0).UTC()})
		}
	}
	slices.SortFunc(h.Running, func(a, b store.RunningJob) int { return a.Since.Compare(b.Since) })
	return h
}

// startHeart publishes heartbeats and gauges until the returned function is
// called, which sends the last one.
func (r *Runner) startHeart(ctx context.Context) (stop func()) {
	var done sync.WaitGroup
	end := make(chan struct{})
	done.Go(func() { r.heart(context.WithoutCancel(ctx), end) })
	return func() {
		close(end)
		done.Wait()
	}
}

func (r *Runner) heart(ctx context.Context, end <-chan struct{}) {
	beat := time.NewTicker(r.cfg.HeartbeatInterval)
	defer beat.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	if !r.timed {
		look.Stop()
	}
	failures := 0
	send := func(stopped bool) {
		failures = r.beat(ctx, failures, stopped)
		if !stopped {
			r.refreshRates(ctx)
		}
		r.measure()
	}
	stopping := r.stopping
	send(false)
	for {
		select {
		case <-beat.C:
			send(false)
		case <-stopping:
			stopping = nil
			send(false)
		case <-look.C:
			r.measure()
		case <-end:
			send(true)
			return
		}
	}
}

// beat stores one heartbeat and returns how many have failed in a row.
func (r *Runner) beat(ctx context.Context, failures int, stopped bool) int {
	if r.cfg.Heartbeats == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, min(r.cfg.HeartbeatInterval, 5*time.Second))
	defer cancel()
	h := r.Snapshot()
	h.Stopped, h.Load = stopped, hostLoad()
	if err := r.cfg.Heartbeats.Beat(ctx, h, 3*r.cfg.HeartbeatInterval); err != nil {
		failures++
		if loud(failures) {
			r.log.Warn("cannot store the heartbeat", "failures", failures, "error", err)
		}
		return failures
	}
	return 0
}

// measure sets the gauges.
func (r *Runner) measure() {
	if !r.timed {
		return
	}
	l := &r.line
	l.mu.Lock()
	active, total, lost, inflight, waiting := l.executing, l.isolates, l.lost, l.held.n, l.readyCount()
	l.mu.Unlock()
	r.gauges.active.Set(float64(active))
	r.gauges.total.Set(float64(total))
	r.gauges.lost.Set(float64(lost))
	r.gauges.inflight.Set(float64(inflight))
	r.gauges.prefetched.Set(float64(waiting))
}
