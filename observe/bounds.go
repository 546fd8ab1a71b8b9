package observe

import (
	"strings"
	"sync"

	"github.com/stemjobs/stem/measure"
)

// Other is the label value under which everything past the bounds is counted.
const Other = "other"

const (
	defaultMaxValues = 1000
	defaultMaxSeries = 10_000
)

// Bounds keeps the sets of labels finite: the first values of a label are
// told apart, all that come later are Other; and when a metric has all the
// series it may have, a new combination counts as Other in every label. It is
// safe for concurrent use.
type Bounds struct {
	maxValues, maxSeries int

	mu     sync.Mutex
	values map[string]map[string]bool          // by label
	series map[*measure.Metric]map[string]bool // by metric, of joined values
}

// NewBounds tells that many values of a label apart, and gives a metric that
// many series; 0: 1,000 and 10,000.
func NewBounds(maxValues, maxSeries int) *Bounds {
	if maxValues <= 0 {
		maxValues = defaultMaxValues
	}
	if maxSeries <= 0 {
		maxSeries = defaultMaxSeries
	}
	return &Bounds{
		maxValues: maxValues, maxSeries: maxSeries,
		values: make(map[string]map[string]bool), series: make(map[*measure.Metric]map[string]bool),
	}
}

// MaxValues is how many values of one label are told apart.
func (b *Bounds) MaxValues() int { return b.maxValues }

// Apply returns the values under which to count. Values that do not fit the
// metric's labels are returned as they are: for the exporter to refuse.
func (b *Bounds) Apply(m *measure.Metric, values []string) []string {
	if len(values) != len(m.Labels) || len(values) == 0 {
		return values
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	bounded := make([]string, len(values))
	for i, v := range values {
		bounded[i] = b.value(m.Labels[i], v)
	}
	key := strings.Join(bounded, "\xff")
	known := b.series[m]
	switch {
	case known[key]:
		return bounded
	case len(known) >= b.maxSeries:
		for i := range bounded {
			bounded[i] = Other
		}
		return bounded
	case known == nil:
		known = make(map[string]bool)
		b.series[m] = known
	}
	known[key] = true
	return bounded
}

// value admits a value of a label, or makes it Other. What is no UTF-8 would
// make a whole scrape fail, so it is cleaned first.
func (b *Bounds) value(label, v string) string {
	v = strings.ToValidUTF8(v, "\uFFFD")
	known := b.values[label]
	switch {
	case known[v]:
		return v
	case len(known) >= b.maxValues:
		return Other
	case known == nil:
		known = make(map[string]bool)
		b.values[label] = known
	}
	known[v] = true
	return v
}
