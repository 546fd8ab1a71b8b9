package otel

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// metricPoster sends metrics, cumulative ones, of the kinds that a Meter makes.
type metricPoster struct{ *poster }

func (metricPoster) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

func (metricPoster) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

func (metricPoster) ForceFlush(context.Context) error { return nil }

func (p metricPoster) Shutdown(context.Context) error {
	p.close()
	return nil
}

// Export sends MetricsData, which on the wire is the request of a receiver.
func (p metricPoster) Export(ctx context.Context, all *metricdata.ResourceMetrics) error {
	out := &metrics.ResourceMetrics{}
	if all.Resource != nil {
		out.Resource = &resource.Resource{Attributes: pairs(all.Resource.Attributes())}
		out.SchemaUrl = all.Resource.SchemaURL()
	}
	for _, s := range all.ScopeMetrics {
		scope := &metrics.ScopeMetrics{
			Scope: &common.InstrumentationScope{Name: s.Scope.Name, Version: s.Scope.Version}, SchemaUrl: s.Scope.SchemaURL,
		}
		for _, m := range s.Metrics {
			scope.Metrics = append(scope.Metrics, metricOf(&m))
		}
		out.ScopeMetrics = append(out.ScopeMetrics, scope)
	}
	body, err := proto.Marshal(&metrics.MetricsData{ResourceMetrics: []*metrics.ResourceMetrics{out}})
	if err != nil {
		return fmt.Errorf("encode for %s: %w", p.url, err)
	}
	return p.post(ctx, body)
}

func metricOf(m *metricdata.Metrics) *metrics.Metric {
	const cumulative = metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	out := &metrics.Metric{Name: m.Name, Description: m.Description, Unit: m.Unit}
	switch data := m.Data.(type) {
	case metricdata.Sum[float64]:
		out.Data = &metrics.Metric_Sum{Sum: &metrics.Sum{
			DataPoints: numbers(data.DataPoints), IsMonotonic: data.IsMonotonic, AggregationTemporality: cumulative,
		}}
	case metricdata.Gauge[float64]:
		out.Data = &metrics.Metric_Gauge{Gauge: &metrics.Gauge{DataPoints: numbers(data.DataPoints)}}
	case metricdata.Histogram[float64]:
		out.Data = &metrics.Metric_Histogram{Histogram: &metrics.Histogram{
			DataPoints: histograms(data.DataPoints), AggregationTemporality: cumulative,
		}}
	}
	return out
}

func numbers(points []metricdata.DataPoint[float64]) []*metrics.NumberDataPoint {
	out := make([]*metrics.NumberDataPoint, len(points))
	for i := range points {
		p := &points[i]
		out[i] = &metrics.NumberDataPoint{
			Attributes: pairs(p.Attributes.ToSlice()), TimeUnixNano: uint64(p.Time.UnixNano()),
			Value: &metrics.NumberDataPoint_AsDouble{AsDouble: p.Value}, Exemplars: exemplars(p.Exemplars),
		}
		if !p.StartTime.IsZero() {
			out[i].StartTimeUnixNano = uint64(p.StartTime.UnixNano())
		}
	}
	return out
}

func histograms(points []metricdata.HistogramDataPoint[float64]) []*metrics.HistogramDataPoint {
	out := make([]*metrics.HistogramDataPoint, len(points))
	for i := range points {
		p := &points[i]
		out[i] = &metrics.HistogramDataPoint{
			Attributes: pairs(p.Attributes.ToSlice()), StartTimeUnixNano: uint64(p.StartTime.UnixNano()),
			TimeUnixNano: uint64(p.Time.UnixNano()), Count: p.Count, Sum: &p.Sum,
			BucketCounts: p.BucketCounts, ExplicitBounds: p.Bounds, Exemplars: exemplars(p.Exemplars),
		}
		if v, ok := p.Min.Value(); ok {
			out[i].Min = &v
		}
		if v, ok := p.Max.Value(); ok {
			out[i].Max = &v
		}
	}
	return out
}

func exemplars(all []metricdata.Exemplar[float64]) []*metrics.Exemplar {
	out := make([]*metrics.Exemplar, len(all))
	for i := range all {
		e := &all[i]
		out[i] = &metrics.Exemplar{
			FilteredAttributes: pairs(e.FilteredAttributes), TimeUnixNano: uint64(e.Time.UnixNano()),
			Value: &metrics.Exemplar_AsDouble{AsDouble: e.Value}, TraceId: e.TraceID, SpanId: e.SpanID,
		}
	}
	return out
}

// pairs are attributes as they are sent: of metrics and resources all are texts.
func pairs(attrs []attribute.KeyValue) []*common.KeyValue {
	out := make([]*common.KeyValue, len(attrs))
	for i, a := range attrs {
		out[i] = &common.KeyValue{
			Key: string(a.Key), Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: a.Value.String()}},
		}
	}
	return out
}
