package prom

import (
	"strings"

	"github.com/stemjobs/stem/measure"
)

// Name is what a metric is called in Prometheus: dots become underscores,
// counters end in _total, and what is measured in seconds (histograms, and
// gauges of an age) in _seconds.
func Name(m *measure.Metric) string {
	name := strings.ReplaceAll(m.Name, ".", "_")
	switch {
	case m.Kind == measure.KindCounter:
		return name + "_total"
	case m.Kind == measure.KindHistogram, strings.HasSuffix(name, "_age"):
		return name + "_seconds"
	default:
		return name
	}
}
