package runner

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// maxNames bounds how many task names, and how many queues, get metrics of
// their own; the others share the label "other".
const maxNames = 1000

// marks holds the metric handles of one task name on one queue. The histograms
// are made on first use, by the fetcher alone.
type marks struct {
	task, queue string
	meter       measure.Meter

	started, succeeded, failed, retried measure.Counter
	expired, revoked, leaseLost         measure.Counter
	redelivered, unknown                measure.Counter

	byOutcome map[task.State]*timings
	dead      map[string]measure.Counter // by reason
}

// timings holds the histograms of one outcome.
type timings struct{ duration, queueTime, lateness measure.Histogram }

type marksKey struct{ task, queue string }

// registry makes and keeps marks, and copies the names: they may be parts of whole
// deliveries. It belongs to the fetcher.
type registry struct {
	meter  measure.Meter
	all    map[marksKey]*marks
	names  map[string]bool
	queues map[string]bool
	last   *marks   // most deliveries are of the same kind as the one before
	key    marksKey // of last, before bounding
}

func newRegistry(m measure.Meter) *registry {
	return &registry{meter: m, all: map[marksKey]*marks{}, names: map[string]bool{}, queues: map[string]bool{}}
}

func (g *registry) of(name, queue string) *marks {
	k := marksKey{name, queue}
	if g.last != nil && g.key == k {
		return g.last
	}
	bounded := marksKey{bound(g.names, name), bound(g.queues, queue)}
	m := g.all[bounded]
	if m == nil {
		bounded = marksKey{strings.Clone(bounded.task), strings.Clone(bounded.queue)}
		m = newMarks(g.meter, bounded)
		g.all[bounded] = m
	}
	g.last, g.key = m, k
	return m
}

func bound(seen map[string]bool, name string) string {
	switch {
	case seen[name]:
	case len(seen) >= maxNames:
		return "other"
	default:
		seen[strings.Clone(name)] = true
	}
	return name
}

func newMarks(m measure.Meter, k marksKey) *marks {
	count := func(metric *measure.Metric) measure.Counter { return m.Counter(metric, k.task, k.queue) }
	return &marks{
		task: k.task, queue: k.queue, meter: m,
		started: count(measure.TasksStarted), succeeded: count(measure.TasksSucceeded),
		failed: count(measure.TasksFailed), retried: count(measure.TasksRetried),
		expired: count(measure.TasksExpired), revoked: count(measure.TasksRevoked),
		leaseLost: count(measure.TasksLeaseLost), redelivered: count(measure.TasksRedelivered),
		unknown:   count(measure.TasksUnknown),
		byOutcome: map[task.State]*timings{}, dead: map[string]measure.Counter{},
	}
}

func (m *marks) timings(s task.State) *timings {
	t := m.byOutcome[s]
	if t == nil {
		outcome := string(s)
		t = &timings{
			duration:  m.meter.Histogram(measure.TaskDuration, m.task, m.queue, outcome),
			queueTime: m.meter.Histogram(measure.TaskQueueTime, m.task, m.queue, outcome),
			lateness:  m.meter.Histogram(measure.TaskLateness, m.task, m.queue, outcome),
		}
		m.byOutcome[s] = t
	}
	return t
}

// count adds one to a counter that most tasks never need.
func (m *marks) count(metric *measure.Metric) { m.meter.Counter(metric, m.task, m.queue).Add(1) }

func (m *marks) deadLettered(reason string) {
	c := m.dead[reason]
	if c == nil {
		if len(m.dead) >= maxNames { // a handler may give any reason
			reason = "other"
		}
		c = m.meter.Counter(measure.DLQAdded, m.queue, reason)
		m.dead[reason] = c
	}
	c.Add(1)
}

// stored counts, times and logs an outcome that is in the store now.
func (r *Runner) stored(j *Job) {
	o := &j.outcome
	j.marks.ended(&j.Delivery, o, j.trace, r.timed)
	r.consumed(j)
	switch o.State {
	case task.Succeeded:
		r.counts.succeeded.Add(1)
	case task.Retried:
		r.counts.retried.Add(1)
	case task.Failed:
		r.counts.failed.Add(1)
		r.dead.bury(j, r.cfg.ID)
	}
	r.logOutcome(j, o)
}

// ended counts an outcome that is in the store now, and times it where anybody
// wants that.
func (m *marks) ended(d *broker.Delivery, o *task.Outcome, trace measure.TraceContext, timed bool) {
	switch o.State {
	case task.Succeeded:
		m.succeeded.Add(1)
	case task.Retried:
		m.retried.Add(1)
	case task.Failed:
		m.failed.Add(1)
		m.deadLettered(o.Reason)
		if o.Reason == task.ReasonSignatureInvalid {
			m.count(measure.TasksBadSignature)
		}
	case task.Queued:
		if o.Reserved && !o.NotBefore.IsZero() {
			m.count(measure.TasksRateLimited)
		}
	case task.Cancelled:
		if o.Reason == task.ReasonExpired {
			m.expired.Add(1)
		} else {
			m.revoked.Add(1)
		}
	}
	if o.StartedAt.IsZero() || !timed {
		return
	}
	t := m.timings(o.State)
	measure.ObserveIn(t.duration, trace, max(0, o.EndedAt.Sub(o.StartedAt).Seconds()))
	since, delayed := due(d)
	waited := max(0, o.StartedAt.Sub(since).Seconds())
	measure.ObserveIn(t.queueTime, trace, waited)
	if delayed {
		measure.ObserveIn(t.lateness, trace, waited)
	}
}

// due is the moment from which the task waited for a worker, and whether that
// is the moment it was delayed to.
func due(d *broker.Delivery) (at time.Time, delayed bool) {
	at = d.Envelope.EnqueuedAt
	for _, t := range []time.Time{d.Envelope.NotBefore, d.NotBefore} {
		if t.After(at) {
			at, delayed = t, true
		}
	}
	return at, delayed
}

// logOutcome writes one line for what a handler, or a verdict without one, came
// to. What was given back without having been started is no outcome and seen
// at debug only.
func (r *Runner) logOutcome(j *Job, o *task.Outcome) {
	level := slog.LevelInfo
	if o.State == task.Queued && o.StartedAt.IsZero() {
		level = slog.LevelDebug
	}
	ctx := context.Background()
	if !r.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("task", j.Delivery.Envelope.Name), slog.String("task_id", j.Delivery.Envelope.ID),
		slog.String("queue", j.Delivery.Queue), slog.Int("attempt", j.Delivery.Attempt), slog.String("state", string(o.State)))
	if id := j.Trace().TraceID(); id != "" {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	if !o.StartedAt.IsZero() {
		attrs = append(attrs, slog.Float64("duration_ms", float64(o.EndedAt.Sub(o.StartedAt).Microseconds())/1000))
	}
	if o.Reason != "" {
		attrs = append(attrs, slog.String("reason", o.Reason))
	}
	if o.Error != nil {
		attrs = append(attrs, slog.String("error_type", o.Error.Type), slog.String("error", o.Error.Message))
	}
	if !o.NotBefore.IsZero() {
		attrs = append(attrs, slog.Time("not_before", o.NotBefore))
	}
	r.log.LogAttrs(ctx, level, outcomeMessage(o), attrs...)
}

func outcomeMessage(o *task.Outcome) string {
	switch o.State {
	case task.Succeeded:
		return "task succeeded"
	case task.Retried:
		return "task failed and will be retried"
	case task.Failed:
		return "task dead-lettered"
	case task.Cancelled:
		return "task cancelled"
	default:
		if o.NotBefore.IsZero() {
			return "task released"
		}
		return "task put off"
	}
}

// lostLease counts and logs a delivery that belongs to a newer lease.
func (r *Runner) lostLease(j *Job, uncertain bool, err error) {
	r.lost(j)
	if uncertain {
		// The settlement was sent before and its answer did not arrive: most
		// likely it is stored.
		r.log.Info("outcome was sent before the connection failed; it is stored, or the lease was lost",
			"task", j.Delivery.Envelope.Name, "task_id", j.Delivery.Envelope.ID, "queue", j.Delivery.Queue)
		return
	}
	j.marks.leaseLost.Add(1)
	r.leaseLost.Add(1)
	r.log.Warn("lease lost: the task belongs to another worker now", "task", j.Delivery.Envelope.Name,
		"task_id", j.Delivery.Envelope.ID, "queue", j.Delivery.Queue, "attempt", j.Delivery.Attempt, "error", err)
}

// roundtrip times a call to the broker and counts its failure.
func (r *Runner) roundtrip(operation string, took time.Duration, err error) {
	h := r.calls[operation]
	h.took.Observe(took.Seconds())
	if err != nil && !errors.Is(err, broker.ErrClosed) {
		h.failed.Add(1)
	}
}

// callMarks holds the metric handles of one operation of the broker.
type callMarks struct {
	took   measure.Histogram
	failed measure.Counter
}

func newCallMarks(m measure.Meter, backend string, operations ...string) map[string]callMarks {
	out := make(map[string]callMarks, len(operations))
	for _, op := range operations {
		out[op] = callMarks{
			took:   m.Histogram(measure.BrokerRoundtrip, backend, op),
			failed: m.Counter(measure.BrokerErrors, backend, op),
		}
	}
	return out
}
