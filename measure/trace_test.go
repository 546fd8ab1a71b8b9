package measure_test

import (
	"testing"

	"github.com/stemjobs/stem/measure"
)

func TestTraceContext(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	tests := []struct {
		parent  string
		valid   bool
		sampled bool
	}{
		{"00-" + id + "-00f067aa0ba902b7-01", true, true},
		{"00-" + id + "-00f067aa0ba902b7-00", true, false},
		{"00-" + id + "-00f067aa0ba902b7-0b", true, true},
		{"cc-" + id + "-00f067aa0ba902b7-01-later", true, true},
		{"00-" + id + "-00f067aa0ba902b7-01-later", false, false},
		{"cc-" + id + "-00f067aa0ba902b7-01later", false, false},
		{"ff-" + id + "-00f067aa0ba902b7-01", false, false},
		{"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, false},
		{"00-" + id + "-0000000000000000-01", false, false},
		{"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false, false},
		{"00-" + id + "-00f067aa0ba902b7-0x", false, false},
		{"00_" + id + "-00f067aa0ba902b7-01", false, false},
		{"00-" + id, false, false},
		{"", false, false},
	}
	for _, tt := range tests {
		c := measure.TraceOf(map[string]string{"traceparent": tt.parent, "tracestate": "a=b"})
		want := ""
		if tt.valid {
			want = id
		}
		if c.Valid() != tt.valid || c.Sampled() != tt.sampled || c.TraceID() != want {
			t.Errorf("%q: valid %v, sampled %v, trace %q", tt.parent, c.Valid(), c.Sampled(), c.TraceID())
		}
	}
	if c := measure.TraceOf(map[string]string{"tracestate": "a=b"}); c != (measure.TraceContext{}) {
		t.Errorf("a state without a parent is %+v", c)
	}
}

// recorder is a Meter that keeps what it is given.
type recorder struct {
	count, gauge, seconds float64
	trace                 string
}

func (r *recorder) Counter(*measure.Metric, ...string) measure.Counter { return counter{r} }
func (r *recorder) Gauge(*measure.Metric, ...string) measure.Gauge     { return gauge{r} }
func (r *recorder) Histogram(*measure.Metric, ...string) measure.Histogram {
	return histogram{r}
}

type (
	counter   struct{ *recorder }
	gauge     struct{ *recorder }
	histogram struct{ *recorder }
)

func (c counter) Add(n float64)       { c.count += n }
func (g gauge) Set(v float64)         { g.gauge = v }
func (h histogram) Observe(s float64) { h.seconds += s }
func (h histogram) ObserveIn(t measure.TraceContext, s float64) {
	h.seconds += s
	h.trace = t.TraceID()
}

func TestJoinGivesToAll(t *testing.T) {
	if measure.Join() != measure.None || measure.Join(nil, measure.None) != measure.None {
		t.Error("none joined is not None")
	}
	a, b := &recorder{}, &recorder{}
	if measure.Join(nil, a) != measure.Meter(a) {
		t.Error("one joined is not itself")
	}
	m := measure.Join(a, measure.None, b)
	m.Counter(measure.TasksStarted, "t", "q").Add(2)
	m.Gauge(measure.QueueDepth, "q").Set(3)
	h := m.Histogram(measure.TaskDuration, "t", "q", "succeeded")
	h.Observe(4)
	measure.ObserveIn(h, measure.TraceContext{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, 1)
	want := recorder{2, 3, 5, "4bf92f3577b34da6a3ce929d0e0e4736"}
	if *a != want || *b != want {
		t.Errorf("got %+v and %+v, want %+v", *a, *b, want)
	}
	measure.ObserveIn(h, measure.TraceContext{Parent: "00-11111111111111111111111111111111-00f067aa0ba902b7-00"}, 1)
	if a.seconds != 6 || a.trace != want.trace {
		t.Error("a trace that is not recorded became an example")
	}
}
