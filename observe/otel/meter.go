package otel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
)

// Meter is a measure.Meter on a provider of OpenTelemetry. Its labels are
// bounded: see observe.Bounds.
type Meter struct {
	meter  metric.Meter
	bounds *observe.Bounds

	mu       sync.Mutex
	families map[*measure.Metric]*family
}

var _ measure.Meter = (*Meter)(nil)

// family is the instrument of one metric. One of them is set, by kind.
type family struct {
	counter   metric.Float64Counter
	gauge     metric.Float64Gauge
	histogram metric.Float64Histogram
}

// NewMeter makes a Meter. The provider stays the caller's to shut down.
func NewMeter(p metric.MeterProvider) *Meter {
	return &Meter{meter: p.Meter(scope), bounds: observe.NewBounds(0, 0), families: map[*measure.Metric]*family{}}
}

// Counter implements measure.Meter. It panics when values do not fit the
// metric's labels, as Gauge and Histogram do.
func (x *Meter) Counter(m *measure.Metric, values ...string) measure.Counter {
	f := x.family(m, measure.KindCounter)
	return counter{f.counter, []metric.AddOption{metric.WithAttributeSet(x.labels(m, values))}}
}

// Gauge implements measure.Meter. The gauges of the whole store come from it
// alone (Watch), so a handle of one of them drops what it is given.
func (x *Meter) Gauge(m *measure.Metric, values ...string) measure.Gauge {
	if slices.Contains(observe.OfStore(), m) {
		return measure.None.Gauge(m, values...)
	}
	f := x.family(m, measure.KindGauge)
	return gauge{f.gauge, []metric.RecordOption{metric.WithAttributeSet(x.labels(m, values))}}
}

// Histogram implements measure.Meter.
func (x *Meter) Histogram(m *measure.Metric, values ...string) measure.Histogram {
	f := x.family(m, measure.KindHistogram)
	return histogram{f.histogram, []metric.RecordOption{metric.WithAttributeSet(x.labels(m, values))}}
}

// labels are the attributes under which to count.
func (x *Meter) labels(m *measure.Metric, values []string) attribute.Set {
	if len(values) != len(m.Labels) {
		panic(fmt.Sprintf("otel: %s has the labels %v, not %d", m.Name, m.Labels, len(values)))
	}
	attrs := make([]attribute.KeyValue, len(values))
	for i, v := range x.bounds.Apply(m, values) {
		attrs[i] = attribute.String(m.Labels[i], v)
	}
	return attribute.NewSet(attrs...)
}

func (x *Meter) family(m *measure.Metric, kind measure.Kind) *family {
	if m.Kind != kind {
		panic("otel: " + m.Name + " is a " + string(m.Kind) + ", not a " + string(kind))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if f := x.families[m]; f != nil {
		return f
	}
	f, err := &family{}, error(nil)
	switch kind {
	case measure.KindCounter:
		f.counter, err = x.meter.Float64Counter(m.Name, metric.WithDescription(m.Help))
	case measure.KindGauge:
		f.gauge, err = x.meter.Float64Gauge(m.Name, metric.WithDescription(m.Help))
	case measure.KindHistogram:
		f.histogram, err = x.meter.Float64Histogram(m.Name, metric.WithDescription(m.Help),
			metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(observe.Buckets()...))
	}
	if err != nil { // a name of the table that OpenTelemetry does not take
		panic("otel: " + m.Name + ": " + err.Error())
	}
	x.families[m] = f
	return f
}

// Watch adds the gauges of the whole store, asked whenever metrics are
// collected; they are absent while it is away. It may be called once.
func (x *Meter) Watch(s *observe.Store) error {
	gauges := map[*measure.Metric]metric.Float64ObservableGauge{}
	var all []metric.Observable
	for _, m := range observe.OfStore() {
		options := []metric.Float64ObservableGaugeOption{metric.WithDescription(m.Help)}
		if strings.HasSuffix(m.Name, "_age") {
			options = append(options, metric.WithUnit("s"))
		}
		g, err := x.meter.Float64ObservableGauge(m.Name, options...)
		if err != nil {
			return fmt.Errorf("watch the store: %s: %w", m.Name, err)
		}
		gauges[m] = g
		all = append(all, g)
	}
	_, err := x.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		readings, err := s.Read(x.bounds.MaxValues())
		if err != nil {
			return nil //nolint:nilerr // these gauges are absent then; an error would keep all the others back
		}
		for _, r := range readings {
			o.ObserveFloat64(gauges[r.Metric], r.Value, metric.WithAttributes(attribute.String(r.Metric.Labels[0], r.Label)))
		}
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	return nil
}

type counter struct {
	to      metric.Float64Counter
	options []metric.AddOption
}

func (c counter) Add(n float64) { c.to.Add(context.Background(), n, c.options...) }

type gauge struct {
	to      metric.Float64Gauge
	options []metric.RecordOption
}

func (g gauge) Set(v float64) { g.to.Record(context.Background(), v, g.options...) }

type histogram struct {
	to      metric.Float64Histogram
	options []metric.RecordOption
}

func (h histogram) Observe(s float64) { h.to.Record(context.Background(), s, h.options...) }

// ObserveIn implements measure.TracedHistogram: the SDK takes its exemplars
// from the span of the context.
func (h histogram) ObserveIn(t measure.TraceContext, s float64) {
	h.to.Record(trace.ContextWithRemoteSpanContext(context.Background(), parse(t)), s, h.options...)
}
