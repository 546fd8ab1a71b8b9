package stemcmd

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
	"github.com/stemjobs/stem/observe/otel"
	"github.com/stemjobs/stem/observe/prom"
)

// telemetry is where a service's measurements and traces go.
type telemetry struct {
	prom   *prom.Exporter // nil: nothing for Prometheus
	otel   *otel.Exporter // nil: nothing is sent
	meter  measure.Meter  // of both; nil: nothing is measured
	tracer measure.Tracer // nil: nothing is traced
	flush  func()         // sends what is left, once
}

// How long the last measurements may take to be sent: those of a service, and
// those of a command that somebody waits for.
const (
	flushTime    = 5 * time.Second
	commandFlush = 2 * time.Second
)

// openTelemetry makes the exporters that the configuration names. Prometheus
// needs a listener.
func (s *session) openTelemetry(ctx context.Context, listens bool) (*telemetry, error) {
	t := &telemetry{}
	var meters []measure.Meter
	if listens && !s.conf.Config.NoMetrics {
		t.prom = prom.New(prom.Options{Version: s.describeBuild().Version, Logger: s.log})
		meters = append(meters, t.prom)
	}
	if c := &s.conf.Config; !listens && c.Metrics.Prometheus {
		s.log.Warn("metrics for Prometheus are asked for, and nobody can read them: --http is not set")
	}
	o, err := s.otelOptions()
	if err != nil {
		return nil, err
	}
	if t.otel, t.flush, err = s.openExporter(ctx, o, flushTime); err != nil {
		return nil, err
	}
	if t.otel != nil {
		if m := t.otel.Meter(); m != nil {
			meters = append(meters, m)
		}
		if x := t.otel.Tracer(); x != nil {
			t.tracer = x
		}
	}
	if len(meters) > 0 {
		t.meter = measure.Join(meters...)
	}
	return t, nil
}

// openExporter makes the exporter that the options name, which the session closes
// at its end; nil where they name nowhere to send to. The function sends what is
// left, once, for no longer than that.
func (s *session) openExporter(ctx context.Context, o otel.Options, atMost time.Duration) (*otel.Exporter, func(), error) {
	if o.MetricsURL == "" && o.TracesURL == "" && !o.ConsoleMetrics && !o.ConsoleTraces {
		return nil, func() {}, nil
	}
	x, err := otel.Open(ctx, o)
	if err != nil {
		return nil, nil, usage("%w", err)
	}
	flush := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), atMost)
		defer cancel()
		if err := x.Close(ctx); err != nil { // what was to be done is done
			s.log.Warn("the last measurements are lost", "error", err)
		}
	})
	s.closers = append(s.closers, func() error { flush(); return nil })
	return x, flush, nil
}

// openTracer is the tracer of a command that ends soon; nil where traces go
// nowhere. Such a command sends no metrics: nobody could add them up.
func (s *session) openTracer(ctx context.Context) (measure.Tracer, error) {
	o, err := s.otelOptions()
	if err != nil {
		return nil, err
	}
	o.MetricsURL, o.ConsoleMetrics = "", false
	x, _, err := s.openExporter(ctx, o, commandFlush)
	if err != nil || x == nil {
		return nil, err
	}
	return x.Tracer(), nil
}

// watch adds the gauges of the whole store.
func (t *telemetry) watch(s *observe.Store) error {
	var errs []error
	if t.prom != nil {
		errs = append(errs, t.prom.Watch(s))
	}
	if t.otel != nil && t.otel.Meter() != nil {
		errs = append(errs, t.otel.Meter().Watch(s))
	}
	return errors.Join(errs...)
}

// otelOptions joins Stem's variables with OpenTelemetry's own; Stem's win.
func (s *session) otelOptions() (otel.Options, error) {
	c := &s.conf.Config
	o := otel.Options{
		Service: s.env["OTEL_SERVICE_NAME"], Version: s.describeBuild().Version, Instance: uuid.NewString(),
		Sampler: s.env["OTEL_TRACES_SAMPLER"], SamplerArg: s.env["OTEL_TRACES_SAMPLER_ARG"], Logger: s.log,
	}
	if s.env["OTEL_SDK_DISABLED"] == "true" {
		return o, nil
	}
	if o.Service == "" {
		o.Service = s.app.Name
	}
	metrics, traces := c.Metrics, c.Traces
	if !s.set("STEM_METRIC_EXPORTERS") {
		metrics.Send, metrics.Console = s.env["OTEL_METRICS_EXPORTER"] == "otlp", s.env["OTEL_METRICS_EXPORTER"] == "console"
	}
	metricsTo := firstOf(metrics.URL, c.OTLP, s.env["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"], s.env["OTEL_EXPORTER_OTLP_ENDPOINT"])
	tracesTo := firstOf(traces.URL, c.OTLP, s.env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], s.env["OTEL_EXPORTER_OTLP_ENDPOINT"])
	if !c.TracesSet {
		by := s.env["OTEL_TRACES_EXPORTER"]
		traces.Send = by == "otlp" || by == "" && tracesTo != ""
		traces.Console = by == "console"
	}
	o.ConsoleMetrics, o.ConsoleTraces = metrics.Console, traces.Console
	for _, x := range []struct {
		send bool
		to   string
		url  *string
		what string
	}{{metrics.Send, metricsTo, &o.MetricsURL, "metrics"}, {traces.Send, tracesTo, &o.TracesURL, "traces"}} {
		if !x.send {
			continue
		}
		if x.to == "" {
			return o, usage("%s are to be sent, and nothing says where", x.what).hinted("Set STEM_OTLP_ENDPOINT, such as http://127.0.0.1:4318")
		}
		*x.url = x.to
	}
	if ms, err := strconv.Atoi(s.env["OTEL_METRIC_EXPORT_INTERVAL"]); err == nil && ms > 0 {
		o.Interval = time.Duration(ms) * time.Millisecond
	}
	var err error
	if o.Headers, err = otelPairs("OTEL_EXPORTER_OTLP_HEADERS", s.env["OTEL_EXPORTER_OTLP_HEADERS"]); err != nil {
		return o, err
	}
	o.Attributes, err = otelPairs("OTEL_RESOURCE_ATTRIBUTES", s.env["OTEL_RESOURCE_ATTRIBUTES"])
	if err != nil {
		return o, err
	}
	if host, err := os.Hostname(); err == nil && o.Attributes["host.name"] == "" {
		o.Attributes["host.name"] = host
	}
	return o, nil
}

// firstOf is the first text that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// otelPairs reads KEY=VALUE,KEY=VALUE, with values as in URLs. The error does not
// show them: they may be secrets.
func otelPairs(name, text string) (map[string]string, error) {
	out := map[string]string{}
	if text == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, usage("%s: want KEY=VALUE, with commas in between", name)
		}
		out[key] = value
	}
	return out, nil
}
