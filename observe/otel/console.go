package otel

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// report logs exports that fail: the first in a row, and when it is over.
type report struct {
	log  *slog.Logger
	what string

	mu       sync.Mutex
	failures int
}

// done takes an export's error: it is logged here, and nowhere else.
func (r *report) done(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && r.failures == 0:
		r.failures++
		r.log.Warn("cannot send measurements; those are lost, and later ones are tried", "what", r.what, "error", err)
	case err != nil:
		r.failures++
	case r.failures > 0:
		r.log.Info("measurements are sent again", "what", r.what, "failures", r.failures)
		r.failures = 0
	}
}

// loudMetrics logs failures, which the SDK would print.
type loudMetrics struct {
	sdkmetric.Exporter
	log report
}

func (l *loudMetrics) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	l.log.done(l.Exporter.Export(ctx, m))
	return nil
}

// spanConsole writes spans to a log, each as it ends.
type spanConsole struct{ log *slog.Logger }

var _ sdktrace.SpanProcessor = spanConsole{}

// take implements taker.
func (c spanConsole) take(s ended, more []slog.Attr) {
	attrs := []slog.Attr{
		slog.String("span", s.Name()), slog.String("trace_id", s.SpanContext().TraceID().String()),
		slog.String("span_id", s.SpanContext().SpanID().String()),
		slog.Time("began", s.StartTime()),
		slog.Float64("duration_ms", float64(s.EndTime().Sub(s.StartTime()).Microseconds())/1000),
	}
	if s.Parent().HasSpanID() {
		attrs = append(attrs, slog.String("parent_id", s.Parent().SpanID().String()))
	}
	if s.Status().Code == codes.Error {
		attrs = append(attrs, slog.String("error", s.Status().Description))
	}
	c.log.LogAttrs(context.Background(), slog.LevelInfo, "span", append(attrs, slog.Any("attributes", group(append(s.Attributes(), keyValues(more)...))))...)
}

func (spanConsole) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (spanConsole) ForceFlush(context.Context) error                { return nil }
func (spanConsole) Shutdown(context.Context) error                  { return nil }

func (c spanConsole) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.take(s, nil)
	}
}

func group(attrs []attribute.KeyValue) slog.Value {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = slog.Any(string(a.Key), a.Value.AsInterface())
	}
	return slog.GroupValue(out...)
}

// metricConsole writes the series that have changed since it last wrote.
type metricConsole struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[series]float64 // a histogram's is its count
}

type series struct {
	name   string
	labels attribute.Distinct
}

func newMetricConsole(log *slog.Logger) *metricConsole {
	return &metricConsole{log: log, last: map[series]float64{}}
}

func (*metricConsole) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

func (*metricConsole) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

func (c *metricConsole) Export(ctx context.Context, all *metricdata.ResourceMetrics) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					c.write(ctx, m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					c.write(ctx, m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					c.write(ctx, m.Name, p.Attributes, float64(p.Count), slog.Float64("sum", p.Sum))
				}
			}
		}
	}
	return nil
}

func (c *metricConsole) write(ctx context.Context, name string, labels attribute.Set, v float64, more ...slog.Attr) {
	key := series{name, labels.Equivalent()}
	if last, known := c.last[key]; known && last == v {
		return
	}
	c.last[key] = v
	attrs := append([]slog.Attr{slog.String("metric", name), slog.Any("labels", group(labels.ToSlice())), slog.Float64("value", v)}, more...)
	c.log.LogAttrs(ctx, slog.LevelInfo, "metric", attrs...)
}

func (*metricConsole) ForceFlush(context.Context) error { return nil }
func (*metricConsole) Shutdown(context.Context) error   { return nil }
