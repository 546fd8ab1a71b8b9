package otel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	batchSpans   = 512             // so many spans are sent at once, unless more gathered meanwhile
	batchDelay   = 5 * time.Second // the longest that a span waits for others
	batchBytes   = 4 << 20         // what is gathered at most, and so the largest request
	droppedEvery = time.Minute     // between two lines of log on spans that found no room
)

// batcher sends spans in batches. It keeps them as the bytes that will be sent,
// and beyond batchBytes drops those that come: a receiver that is slow, or away,
// costs spans, and neither memory nor time. It implements the SDK's SpanProcessor.
type batcher struct {
	*poster
	log    *slog.Logger
	report report
	about  []byte // the resource, encoded
	schema string // of the resource

	mu      sync.Mutex
	lines   []line // of one scope each
	spans   int
	bytes   int
	dropped int // since it was last told
	closed  bool

	full   chan struct{} // holds one: there is a batch
	stop   chan struct{} // closed by Shutdown
	done   chan struct{} // closed when the loop has ended
	cancel func()        // of what the loop sends

	sending sync.Mutex // held while a batch is sent
	told    time.Time  // guarded by sending: when drops were last logged
}

// line is the spans of one scope, encoded.
type line struct {
	scope instrumentation.Scope
	spans []byte
}

var _ sdktrace.SpanProcessor = (*batcher)(nil)

// newBatcher starts the loop, which Shutdown ends.
func newBatcher(p *poster, r *resource.Resource, log *slog.Logger) *batcher {
	ctx, cancel := context.WithCancel(context.Background())
	b := &batcher{
		poster: p, log: log, report: report{log: log, what: "spans"}, about: appendResource(nil, r), schema: r.SchemaURL(),
		full: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
	}
	go b.loop(ctx)
	return b
}

// take implements taker.
func (b *batcher) take(s ended, more []slog.Attr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	if b.bytes >= batchBytes {
		b.dropped++
		return
	}
	l := b.line(s.InstrumentationScope())
	before := len(l.spans)
	l.spans = appendSpan(l.spans, s, more)
	b.bytes += len(l.spans) - before
	if b.spans++; b.spans == batchSpans {
		select {
		case b.full <- struct{}{}:
		default:
		}
	}
}

// line is where spans of that scope gather: Stem's own, and a few of handlers. It
// is called under mu.
func (b *batcher) line(scope instrumentation.Scope) *line {
	for i := range b.lines {
		if b.lines[i].scope == scope {
			return &b.lines[i]
		}
	}
	b.lines = append(b.lines, line{scope: scope})
	return &b.lines[len(b.lines)-1]
}

func (b *batcher) loop(ctx context.Context) {
	defer close(b.done)
	t := time.NewTicker(batchDelay)
	defer t.Stop()
	for {
		select {
		case <-b.full:
			t.Reset(batchDelay)
		case <-t.C:
		case <-b.stop:
			return
		}
		b.report.done(b.send(ctx, false))
	}
}

// send sends what has gathered, and logs what was dropped: at once if it is the
// last time.
func (b *batcher) send(ctx context.Context, last bool) error {
	b.sending.Lock()
	defer b.sending.Unlock()
	body, dropped := b.gathered(last || time.Since(b.told) >= droppedEvery)
	if dropped > 0 {
		b.told = time.Now()
		b.log.Warn("spans were dropped: their receiver is slow, or away", "spans", dropped)
	}
	if body == nil {
		return nil
	}
	return b.post(ctx, body)
}

// gathered takes what has gathered, as a TracesData, which on the wire is what the
// request of a receiver is. With tell it takes the number of those dropped, too.
func (b *batcher) gathered(tell bool) (body []byte, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if tell {
		dropped, b.dropped = b.dropped, 0
	}
	if b.spans == 0 {
		return nil, dropped
	}
	body = make([]byte, 0, b.bytes+len(b.about)+256*(1+len(b.lines)))
	body, all := begin(body, 1) // resource_spans
	body = append(body, b.about...)
	for i := range b.lines {
		l := &b.lines[i]
		if len(l.spans) == 0 {
			l.spans = nil // it may be of a scope that is seen no more
			continue
		}
		var of int
		body, of = begin(body, 2) // scope_spans
		body = append(appendScope(body, &l.scope), l.spans...)
		body = end(appendString(body, 3, l.scope.SchemaURL), of)
		l.spans = l.spans[:0]
	}
	b.lines = slices.DeleteFunc(b.lines, func(l line) bool { return l.spans == nil })
	b.spans, b.bytes = 0, 0
	return end(appendString(body, 3, b.schema), all), dropped
}

// OnStart implements the SDK's SpanProcessor.
func (*batcher) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span of the SDK's.
func (b *batcher) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		b.take(s, nil)
	}
}

// ForceFlush sends what has gathered.
func (b *batcher) ForceFlush(ctx context.Context) error { return b.send(ctx, false) }

// Shutdown ends the loop and sends what is left, for as long as ctx allows. What is
// lost then is its error, and not logged.
func (b *batcher) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	b.mu.Unlock()
	if again {
		return nil
	}
	defer b.close()
	defer b.cancel()
	close(b.stop)
	var err error
	select {
	case <-b.done:
	case <-ctx.Done():
		b.cancel()
		<-b.done
		if n := b.drop(); n > 0 {
			err = fmt.Errorf("send the last %d spans: %w", n, ctx.Err())
		}
	}
	return errors.Join(err, b.send(ctx, true))
}

// drop gives up what has gathered, and returns how many spans that is.
func (b *batcher) drop() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.spans
	b.spans, b.lines = 0, nil
	return n
}
