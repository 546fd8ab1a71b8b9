package runner

import (
	"log/slog"
	"maps"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// messagingSystem is what OpenTelemetry's messaging conventions call Stem.
const messagingSystem = "stem"

// received begins the consume span of a delivery that an isolate has taken. It
// began when the delivery was received, and goes on in its producer's trace.
func (r *Runner) received(j *Job) {
	if r.cfg.Tracer == nil {
		return
	}
	remote := measure.TraceOf(j.Delivery.Envelope.Headers)
	span := r.consume(j, remote)
	if !span.Recording() { // most are not, where few are sampled: what follows is of the same mind
		if remote.Parent == "" {
			j.trace = span.Context()
		}
		span.End(time.Time{})
		return
	}
	l := &r.line
	l.mu.Lock()
	gone := j.state == gone
	if !gone {
		j.consume = span
	}
	l.mu.Unlock()
	if gone { // its lease was lost before it began
		r.end(j, measure.SpanConsume, span, nil)
	}
}

// consume makes the consume span, and gives the handler's context to it.
func (r *Runner) consume(j *Job, remote measure.TraceContext) measure.Span {
	ctx := j.ctx
	if ctx == nil { // it was refused: no handler ever has it
		ctx = r.handlers
	}
	ctx, span := r.cfg.Tracer.Start(ctx, measure.SpanStart{
		Name: measure.SpanConsume, Kind: measure.SpanConsumer, Remote: remote, Link: true, At: r.time(j.received),
	})
	if j.ctx != nil {
		j.ctx = ctx
	}
	return span
}

// executing begins the execute span, whose context the handler gets. It
// returns nil when nothing is recorded.
func (r *Runner) executing(j *Job) measure.Span {
	if j.consume == nil {
		return nil
	}
	ctx, span := r.cfg.Tracer.Start(j.ctx, measure.SpanStart{Name: measure.SpanExecute, At: j.Started})
	j.ctx, j.trace = ctx, span.Context()
	return span
}

// executed ends the execute span with what came of the handler.
func (r *Runner) executed(j *Job, span measure.Span) {
	r.line.mu.Lock()
	o := j.outcome
	r.line.mu.Unlock()
	r.end(j, measure.SpanExecute, span, &o)
}

// consumed ends the consume span: the outcome is in the store. What was never
// given to a handler gets its span now, unless it was only given back.
func (r *Runner) consumed(j *Job) {
	if r.cfg.Tracer == nil {
		return
	}
	span := j.consume
	if span == nil {
		if j.ctx != nil || j.outcome.State == task.Queued {
			return
		}
		span = r.consume(j, measure.TraceOf(j.Delivery.Envelope.Headers))
	}
	if !span.Recording() {
		span.End(time.Time{})
		return
	}
	r.end(j, measure.SpanConsume, span, &j.outcome)
}

// lost ends the consume span of a delivery that belongs to a newer lease.
func (r *Runner) lost(j *Job) {
	if j.consume != nil {
		j.consume.Fail("lease-lost", "the task belongs to another worker now")
		r.end(j, measure.SpanConsume, j.consume, nil)
	}
}

// end ends a span of a job, of that name, that is recorded, with all that there is to say, the
// outcome included if there is one. It is said at once: bit by bit it costs thrice.
func (r *Runner) end(j *Job, name string, span measure.Span, o *task.Outcome) {
	operation, kind := "execute", "process"
	if name == measure.SpanConsume {
		operation, kind = "consume", "receive"
	}
	all, _ := r.attrs.Get().(*[]slog.Attr)
	if all == nil {
		all = new([]slog.Attr)
	}
	d := &j.Delivery
	attrs := (*all)[:0]
	attrs = append(attrs,
		slog.String("messaging.system", messagingSystem),
		slog.String("messaging.operation.name", operation),
		slog.String("messaging.operation.type", kind),
		slog.String("messaging.destination.name", d.Queue),
		slog.String("messaging.message.id", d.Envelope.ID),
		slog.String("messaging.client.id", r.cfg.ID),
		slog.String("stem.task", d.Envelope.Name),
		slog.String("stem.queue", d.Queue),
		slog.Int("stem.retry.attempt", d.Attempt),
	)
	if name == measure.SpanConsume {
		attrs = append(attrs, slog.Bool("stem.redelivered", d.Redelivered), slog.Int("messaging.message.envelope.size", d.Size))
	}
	if o != nil {
		attrs = append(attrs, slog.String("stem.outcome", string(o.State)))
		if o.Reason != "" {
			attrs = append(attrs, slog.String("stem.reason", o.Reason))
		}
		if o.Error != nil {
			span.Fail(o.Error.Type, o.Error.Message)
		}
	}
	span.End(time.Time{}, attrs...)
	*all = attrs // what it points to is small, and replaced soon
	r.attrs.Put(all)
}

// Trace is where the execution is in its trace: its execute span, where spans
// are made, and else where the task was enqueued.
func (j *Job) Trace() measure.TraceContext {
	if j.trace.Parent != "" {
		return j.trace
	}
	return measure.TraceOf(j.Delivery.Envelope.Headers)
}

// continueTrace makes what an outcome enqueues go on in the trace of the
// execution.
func (j *Job) continueTrace(next []broker.Publication) {
	if j.trace.Parent == "" {
		return
	}
	for i := range next {
		e := next[i].Envelope
		headers := make(map[string]string, len(e.Headers)+2)
		maps.Copy(headers, e.Headers)
		headers[measure.HeaderTraceParent] = j.trace.Parent
		delete(headers, measure.HeaderTraceState)
		if j.trace.State != "" {
			headers[measure.HeaderTraceState] = j.trace.State
		}
		e.Headers = headers
	}
}
