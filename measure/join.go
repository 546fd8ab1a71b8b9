package measure

// TracedHistogram is a Histogram that can keep a trace as the example of a
// value. A Meter's histograms may have it.
type TracedHistogram interface {
	Histogram
	// ObserveIn is Observe for what happened in a trace that is being recorded.
	ObserveIn(t TraceContext, seconds float64)
}

// Join returns a Meter that gives everything to all of them: None for none, and
// the Meter itself for one. Nil ones are left out.
func Join(meters ...Meter) Meter {
	var all joined
	for _, m := range meters {
		if m != nil && m != None {
			all = append(all, m)
		}
	}
	switch len(all) {
	case 0:
		return None
	case 1:
		return all[0]
	default:
		return all
	}
}

type joined []Meter

func (j joined) Counter(m *Metric, values ...string) Counter {
	out := make(counters, len(j))
	for i, meter := range j {
		out[i] = meter.Counter(m, values...)
	}
	return out
}

func (j joined) Gauge(m *Metric, values ...string) Gauge {
	out := make(gauges, len(j))
	for i, meter := range j {
		out[i] = meter.Gauge(m, values...)
	}
	return out
}

func (j joined) Histogram(m *Metric, values ...string) Histogram {
	out := make(histograms, len(j))
	for i, meter := range j {
		out[i] = meter.Histogram(m, values...)
	}
	return out
}

type counters []Counter

func (c counters) Add(n float64) {
	for _, each := range c {
		each.Add(n)
	}
}

type gauges []Gauge

func (g gauges) Set(v float64) {
	for _, each := range g {
		each.Set(v)
	}
}

type histograms []Histogram

func (h histograms) Observe(seconds float64) {
	for _, each := range h {
		each.Observe(seconds)
	}
}

func (h histograms) ObserveIn(t TraceContext, seconds float64) {
	for _, each := range h {
		ObserveIn(each, t, seconds)
	}
}

// ObserveIn observes a value with its trace where that is recorded and the
// histogram keeps such.
func ObserveIn(h Histogram, t TraceContext, seconds float64) {
	if t.Parent != "" {
		if x, ok := h.(TracedHistogram); ok && t.Sampled() {
			x.ObserveIn(t, seconds)
			return
		}
	}
	h.Observe(seconds)
}
