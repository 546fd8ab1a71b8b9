// Package measure is the small interface through which Stem counts and times
// what it does, and the one table of every metric there is. What fills it
// (Prometheus, OpenTelemetry) lives in observe/.
//
// A caller asks a Meter for a handle once, for one set of label values, and
// keeps it: using a handle is cheap and safe for concurrent use.
package measure

// Kind is the kind of a metric.
type Kind string

// The kinds of metrics.
const (
	KindCounter   Kind = "counter"
	KindGauge     Kind = "gauge"
	KindHistogram Kind = "histogram" // in seconds
)

// Metric is one row of the table.
type Metric struct {
	Name   string // with dots, as in logs and OpenTelemetry
	Kind   Kind
	Labels []string // names, in the order that values are given
	Help   string
}

// Meter makes handles. values are those of the metric's labels, in order.
type Meter interface {
	Counter(m *Metric, values ...string) Counter
	Gauge(m *Metric, values ...string) Gauge
	Histogram(m *Metric, values ...string) Histogram
}

// Counter only goes up.
type Counter interface{ Add(n float64) }

// Gauge is a value of the moment.
type Gauge interface{ Set(v float64) }

// Histogram collects durations in seconds.
type Histogram interface{ Observe(seconds float64) }

// None is the Meter that drops everything.
var None Meter = none{}

type none struct{}

func (none) Counter(*Metric, ...string) Counter     { return none{} }
func (none) Gauge(*Metric, ...string) Gauge         { return none{} }
func (none) Histogram(*Metric, ...string) Histogram { return none{} }
func (none) Add(float64)                            {}
func (none) Set(float64)                            {}
func (none) Observe(float64)                        {}
