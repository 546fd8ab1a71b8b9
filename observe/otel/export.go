package otel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options say where measurements go. The zero value sends them nowhere.
type Options struct {
	Service    string            // service.name; "": stem
	Version    string            // service.version; "": left out
	Instance   string            // service.instance.id; "": left out
	Attributes map[string]string // more of the resource; they win over the three above

	// MetricsURL and TracesURL are receivers of OTLP over HTTP, such as
	// http://127.0.0.1:4318; /v1/metrics and /v1/traces are added unless they end
	// so. "": not sent.
	MetricsURL, TracesURL string
	Headers               map[string]string // of requests to them, such as authorization
	TLS                   *tls.Config       // for https; nil: the system's authorities

	// Console has metrics and spans written to Logger.
	ConsoleMetrics, ConsoleTraces bool

	Interval time.Duration // between two exports of metrics; 0: 15 s

	// Sampler is one of OpenTelemetry's names: always_on, always_off,
	// traceidratio, parentbased_always_on, parentbased_always_off,
	// parentbased_traceidratio. "": parentbased_always_on. SamplerArg is the
	// share that a ratio records, 0 to 1; "": 1.
	Sampler, SamplerArg string

	Logger *slog.Logger // of exports that fail, and of the console; nil: none
}

const (
	defaultInterval = 15 * time.Second
	exportTimeout   = 10 * time.Second
	cardinality     = 20_000 // of one metric: above what observe.Bounds allow
)

// Exporter sends measurements to where its options say. It is safe for
// concurrent use.
type Exporter struct {
	meter   *Meter                   // nil: metrics go nowhere
	tracer  *Tracer                  // nil: spans go nowhere
	metrics *sdkmetric.MeterProvider // of meter
	traces  *sdktrace.TracerProvider // of tracer
	spans   *batcher                 // sends them; nil: none are sent
}

// Open makes an Exporter and starts its loops, which Close ends. Nothing is
// connected to yet: a receiver that is away is logged, and costs what it would
// have been sent.
func Open(ctx context.Context, o Options) (*Exporter, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	x := &Exporter{}
	if err := x.openMetrics(&o); err != nil {
		return nil, err
	}
	if err := x.openTraces(&o); err != nil {
		return nil, errors.Join(err, x.Close(ctx))
	}
	return x, nil
}

func (x *Exporter) openMetrics(o *Options) error {
	options := []sdkmetric.Option{sdkmetric.WithResource(o.resource()), sdkmetric.WithCardinalityLimit(cardinality)}
	add := func(e sdkmetric.Exporter) {
		options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(
			&loudMetrics{Exporter: e, log: report{log: o.Logger, what: "metrics"}},
			sdkmetric.WithInterval(o.Interval), sdkmetric.WithTimeout(exportTimeout))))
	}
	if o.MetricsURL != "" {
		to, err := endpoint(o.MetricsURL, "/v1/metrics")
		if err != nil {
			return err
		}
		add(metricPoster{newPoster(to, o.Headers, o.TLS)})
	}
	if o.ConsoleMetrics {
		add(newMetricConsole(o.Logger))
	}
	if o.MetricsURL == "" && !o.ConsoleMetrics {
		return nil
	}
	x.metrics = sdkmetric.NewMeterProvider(options...)
	x.meter = NewMeter(x.metrics)
	return nil
}

func (x *Exporter) openTraces(o *Options) error {
	sampler, follow, err := o.sampler()
	if err != nil {
		return err
	}
	about, err := resource.Merge(resource.Environment(), o.resource())
	if err != nil {
		return fmt.Errorf("what spans are of: %w", err)
	}
	r := &recorder{sampler: sampler, follow: follow}
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(about), sdktrace.WithSampler(sampler), sdktrace.WithIDGenerator(ids{})}
	if o.TracesURL != "" {
		to, err := endpoint(o.TracesURL, "/v1/traces")
		if err != nil {
			return err
		}
		b := newBatcher(newPoster(to, o.Headers, o.TLS), about, o.Logger)
		x.spans = b
		r.takers = append(r.takers, b)
		options = append(options, sdktrace.WithSpanProcessor(b))
	}
	if o.ConsoleTraces {
		c := spanConsole{o.Logger}
		r.takers = append(r.takers, c)
		options = append(options, sdktrace.WithSpanProcessor(c))
	}
	if len(r.takers) == 0 {
		return nil
	}
	x.traces = sdktrace.NewTracerProvider(options...)
	x.tracer = NewTracer(x.traces)
	r.provider, r.tracer = x.traces, x.tracer.tracer
	x.tracer.recorder, x.tracer.follow = r, follow
	return nil
}

// Meter counts for the exporter; nil where metrics go nowhere.
func (x *Exporter) Meter() *Meter { return x.meter }

// Tracer makes the exporter's spans; nil where spans go nowhere.
func (x *Exporter) Tracer() *Tracer { return x.tracer }

// TracerProvider is for spans of a handler's own; nil where spans go nowhere.
func (x *Exporter) TracerProvider() trace.TracerProvider {
	if x.traces == nil {
		return nil
	}
	return x.traces
}

// Close sends what is left, for as long as ctx allows, and ends the loops. The
// error says that something could not be sent in time.
func (x *Exporter) Close(ctx context.Context) error {
	var errs []error
	if x.spans != nil {
		errs = append(errs, x.spans.Shutdown(ctx))
	}
	if x.traces != nil {
		errs = append(errs, x.traces.Shutdown(context.WithoutCancel(ctx))) // there is nothing left to wait for
	}
	if x.metrics != nil {
		errs = append(errs, x.metrics.Shutdown(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("send the last measurements: %w", err)
	}
	return nil
}

// endpoint is the URL of one signal.
func endpoint(base, path string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("OTLP receiver %q: want a URL such as http://127.0.0.1:4318", base)
	}
	if !strings.HasSuffix(u.Path, path) {
		u.Path = strings.TrimSuffix(u.Path, "/") + path
	}
	return u.String(), nil
}

func (o *Options) resource() *resource.Resource {
	attrs := []attribute.KeyValue{attribute.String("service.name", "stem")}
	for _, a := range [][2]string{{"service.name", o.Service}, {"service.version", o.Version}, {"service.instance.id", o.Instance}} {
		if a[1] != "" {
			attrs = append(attrs, attribute.String(a[0], a[1]))
		}
	}
	for k, v := range o.Attributes {
		attrs = append(attrs, attribute.String(k, v))
	}
	return resource.NewSchemaless(attrs...) // of equal keys the last counts
}

// sampler reads the sampler, and whether it follows the choice of a trace's
// beginning.
func (o *Options) sampler() (s sdktrace.Sampler, follow bool, err error) {
	share := 1.0
	if o.SamplerArg != "" {
		share, err = strconv.ParseFloat(o.SamplerArg, 64)
		if err != nil || !(share >= 0 && share <= 1) {
			return nil, false, fmt.Errorf("the sampler's share %q: want a number from 0 to 1", o.SamplerArg)
		}
	}
	name, follow := strings.CutPrefix(o.Sampler, "parentbased_")
	switch name {
	case "":
		if o.Sampler != "" {
			return nil, false, fmt.Errorf("sampler %q: want one such as parentbased_traceidratio", o.Sampler)
		}
		s, follow = sdktrace.AlwaysSample(), true
	case "always_on":
		s = sdktrace.AlwaysSample()
	case "always_off":
		s = sdktrace.NeverSample()
	case "traceidratio":
		s = sdktrace.TraceIDRatioBased(share)
	default:
		return nil, false, fmt.Errorf("sampler %q: want always_on, always_off or traceidratio, with or without parentbased_ before it", o.Sampler)
	}
	if follow {
		s = sdktrace.ParentBased(s)
	}
	return s, follow, nil
}
