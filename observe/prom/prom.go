package prom

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
)

// Options shape an Exporter. The zero value is ready to use.
type Options struct {
	Version string // of the program, shown by stem_build_info; empty: its module's

	// MaxValues is how many values of one label are told apart, and MaxSeries
	// how many series one metric has; what comes later counts as "other".
	MaxValues int // 0: 1,000
	MaxSeries int // 0: 10,000

	Logger *slog.Logger // of scrapes that fail in part; nil: none
}

// Exporter is a measure.Meter that Prometheus reads. Its methods are safe for
// concurrent use. Asking for a handle takes a lock; using one does not.
type Exporter struct {
	registry *prometheus.Registry
	logger   *slog.Logger
	bounds   *observe.Bounds

	mu       sync.Mutex
	families map[*measure.Metric]*family
}

var _ measure.Meter = (*Exporter)(nil)

// New returns an Exporter with the metrics of the Go runtime, of the process,
// and stem_build_info in its registry.
func New(o Options) *Exporter {
	e := &Exporter{
		registry: prometheus.NewRegistry(),
		logger:   o.Logger,
		bounds:   observe.NewBounds(o.MaxValues, o.MaxSeries),
		families: make(map[*measure.Metric]*family),
	}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	e.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(o.Version),
	)
	return e
}

// Registry is where a program registers metrics of its own beside Stem's.
func (e *Exporter) Registry() *prometheus.Registry { return e.registry }

// Handler serves the registry. What cannot be collected, such as the depths of
// a store that is away, is logged and left out; the rest is served.
func (e *Exporter) Handler() http.Handler {
	return promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(e.logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 8,
		EnableOpenMetrics:   true,
	})
}

// Counter implements measure.Meter. It panics when values do not fit the
// metric's labels, as Gauge and Histogram do.
func (e *Exporter) Counter(m *measure.Metric, values ...string) measure.Counter {
	f := e.family(m, measure.KindCounter)
	return f.counters.WithLabelValues(e.bounds.Apply(m, values)...)
}

// Gauge implements measure.Meter. The gauges of the whole store are served
// from it alone (Watch), so a handle of one of them drops what it is
// given.
func (e *Exporter) Gauge(m *measure.Metric, values ...string) measure.Gauge {
	if ofStore(m) {
		return measure.None.Gauge(m, values...)
	}
	f := e.family(m, measure.KindGauge)
	return f.gauges.WithLabelValues(e.bounds.Apply(m, values)...)
}

// Histogram implements measure.Meter.
func (e *Exporter) Histogram(m *measure.Metric, values ...string) measure.Histogram {
	f := e.family(m, measure.KindHistogram)
	h := f.histograms.WithLabelValues(e.bounds.Apply(m, values)...)
	if x, ok := h.(prometheus.ExemplarObserver); ok {
		return newTraced(h, x)
	}
	return h
}

// exampleEvery is how often a bucket takes another trace as its example: a scrape
// shows the newest alone, and making one costs more than the observation.
const exampleEvery = 100 * time.Millisecond

// traced is a histogram that keeps traces as examples, one for each bucket. They are
// served to those who ask for OpenMetrics.
type traced struct {
	prometheus.Observer
	examples prometheus.ExemplarObserver
	limits   []float64
	taken    []atomic.Int64 // when each bucket took its newest, in Unix ns; 0: never
}

func newTraced(h prometheus.Observer, x prometheus.ExemplarObserver) *traced {
	limits := observe.Buckets()
	return &traced{Observer: h, examples: x, limits: limits, taken: make([]atomic.Int64, len(limits)+1)}
}

func (t *traced) ObserveIn(at measure.TraceContext, seconds float64) {
	taken := &t.taken[sort.SearchFloat64s(t.limits, seconds)]
	now, last := time.Now().UnixNano(), taken.Load()
	if since := now - last; since >= 0 && since < int64(exampleEvery) || !taken.CompareAndSwap(last, now) {
		t.Observe(seconds)
		return
	}
	t.examples.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": at.TraceID()})
}

// family is one metric's series. One of the vectors is set, by kind.
type family struct {
	metric     *measure.Metric
	counters   *prometheus.CounterVec
	gauges     *prometheus.GaugeVec
	histograms *prometheus.HistogramVec
}

func (e *Exporter) family(m *measure.Metric, kind measure.Kind) *family {
	if m.Kind != kind {
		panic("prom: " + m.Name + " is a " + string(m.Kind) + ", not a " + string(kind))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.families[m]; f != nil {
		return f
	}
	f := &family{metric: m}
	switch kind {
	case measure.KindCounter:
		f.counters = prometheus.NewCounterVec(prometheus.CounterOpts{Name: Name(m), Help: m.Help}, m.Labels)
		e.registry.MustRegister(f.counters)
	case measure.KindGauge:
		f.gauges = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: Name(m), Help: m.Help}, m.Labels)
		e.registry.MustRegister(f.gauges)
	case measure.KindHistogram:
		f.histograms = prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Name: Name(m), Help: m.Help, Buckets: observe.Buckets()}, m.Labels)
		e.registry.MustRegister(f.histograms)
	}
	e.families[m] = f
	return f
}

// buildInfo is the gauge, always 1, whose labels say what runs.
func buildInfo(version string) prometheus.Collector {
	labels := prometheus.Labels{"version": version, "revision": "unknown", "goversion": "unknown"}
	if b, ok := debug.ReadBuildInfo(); ok {
		labels["goversion"] = b.GoVersion
		if version == "" {
			labels["version"] = b.Main.Version
		}
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				labels["revision"] = s.Value
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "stem_build_info", Help: "Always 1; the labels say what runs.", ConstLabels: labels,
	})
	g.Set(1)
	return g
}
