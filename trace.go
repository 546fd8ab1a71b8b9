package stem

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// enqueueSpan is the span of one enqueue, which the items of a batch share. It
// travels in the context to where their envelopes are made.
type enqueueSpan struct {
	span   measure.Span
	remote string // the header that it goes on from; "" where ctx had the parent, or there is none
	at     measure.TraceContext

	items           int
	task, id, queue string // of a lone item; id and queue once its envelope is made

	// headers are those of an envelope that has no others: one map for the whole
	// batch, which nobody changes, since an envelope never changes.
	headers map[string]string
}

type enqueueSpanKey struct{}

// trace begins the span of an enqueue; nil where nothing is traced. An explicit
// traceparent header is the parent, and else the span that ctx has.
func (c *Client) trace(ctx context.Context, items []Item) (context.Context, *enqueueSpan) {
	if c.opts.Tracer == nil || len(items) == 0 {
		return ctx, nil
	}
	var remote measure.TraceContext
	if o := items[0].opts; o != nil {
		remote = measure.TraceOf(o.headers)
	}
	ctx, span := c.opts.Tracer.Start(ctx, measure.SpanStart{Name: measure.SpanEnqueue, Kind: measure.SpanProducer, Remote: remote})
	s := &enqueueSpan{span: span, remote: remote.Parent, at: span.Context(), items: len(items), task: items[0].name}
	if s.at.Parent != "" {
		s.headers = traceHeaders(nil, s.at)
	}
	return context.WithValue(ctx, enqueueSpanKey{}, s), s
}

// describe notes what is known of a lone task once its envelope is made.
func (s *enqueueSpan) describe(e *task.Envelope) {
	if s != nil {
		s.id, s.queue = e.ID, e.Queue
	}
}

// attributes are what there is to say of the span.
func (s *enqueueSpan) attributes() []slog.Attr {
	attrs := append(make([]slog.Attr, 0, 7),
		slog.String("messaging.system", "stem"),
		slog.String("messaging.operation.name", "enqueue"),
		slog.String("messaging.operation.type", "send"),
	)
	if s.items > 1 {
		return append(attrs, slog.Int("messaging.batch.message_count", s.items))
	}
	attrs = append(attrs, slog.String("stem.task", s.task))
	if s.id == "" {
		return attrs
	}
	return append(attrs,
		slog.String("messaging.message.id", s.id),
		slog.String("messaging.destination.name", s.queue),
		slog.String("stem.queue", s.queue),
	)
}

// end ends the span with the first thing that went wrong, if anything did.
func (s *enqueueSpan) end(receipts []Receipt, err error) {
	if s == nil {
		return
	}
	if !s.span.Recording() {
		s.span.End(time.Time{})
		return
	}
	for i := 0; err == nil && i < len(receipts); i++ {
		err = receipts[i].Err
	}
	if err != nil {
		s.span.Fail(enqueueFailure(err), err.Error())
	}
	s.span.End(time.Time{}, s.attributes()...)
}

// enqueueFailure is the error.type of an enqueue that failed.
func enqueueFailure(err error) string {
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		return "outcome-unknown"
	case errors.Is(err, ErrTaskExists):
		return "task-exists"
	case errors.Is(err, ErrQueueFull):
		return "queue-full"
	case errors.Is(err, task.ErrTooLarge):
		return "too-large"
	case errors.Is(err, task.ErrInvalid):
		return "invalid"
	default:
		return "_OTHER"
	}
}

// carry puts the trace that an enqueue belongs to into the envelope's headers:
// that of its span, or where nothing is traced that of the running task. An
// explicit header of another trace than the batch's stays.
func carry(ctx context.Context, e *task.Envelope) {
	own := e.Headers[measure.HeaderTraceParent]
	s, traced := ctx.Value(enqueueSpanKey{}).(*enqueueSpan)
	var at measure.TraceContext
	switch {
	case traced && own == s.remote:
		at = s.at
	case own == "":
		at = Current(ctx).Trace()
	}
	if at.Parent == "" {
		return
	}
	if traced && len(e.Headers) == 0 && own == s.remote {
		e.Headers = s.headers
		return
	}
	e.Headers = traceHeaders(e.Headers, at)
}

// traceHeaders are those headers with that trace in place of theirs.
func traceHeaders(from map[string]string, at measure.TraceContext) map[string]string {
	headers := make(map[string]string, len(from)+2)
	maps.Copy(headers, from)
	headers[measure.HeaderTraceParent] = at.Parent
	delete(headers, measure.HeaderTraceState)
	if at.State != "" {
		headers[measure.HeaderTraceState] = at.State
	}
	return headers
}

// Trace is where the execution is in its trace, for what the handler calls without
// a library for traces: its span, where spans are made, and else where the task was
// enqueued. It is the zero value outside of any trace.
func (e *Execution) Trace() measure.TraceContext {
	if e.job != nil {
		return e.job.Trace()
	}
	return measure.TraceOf(e.info.Headers)
}
