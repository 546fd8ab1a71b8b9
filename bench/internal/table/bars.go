package table

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/stemjobs/stem/bench/internal/cases"
)

// bar is a figure that Stem is held to.
type bar struct {
	what         string
	system, name string
	setting      string
	of           func(*cases.Result) float64
	atLeast      float64 // 0: atMost
	atMost       float64
	timesOf      *bar // the figure is a ratio to this one's
	unit         string
}

func rate(c *cases.Result) float64 { return c.Rate }
func p50(c *cases.Result) float64  { return c.P50 }
func p99(c *cases.Result) float64  { return c.P99 }
func rss(c *cases.Result) float64  { return c.RSS }

func extra(name string) func(*cases.Result) float64 {
	return func(c *cases.Result) float64 { return c.Extra[name] }
}

func bars() []bar {
	river := &bar{system: "river-sqlite", name: "process", setting: "full tuned c=100 retain", of: rate}
	small := &bar{system: "stem-sqlite", name: "scale", setting: "full c=100 backlog=10000", of: rate}
	return []bar{
		{what: "memory: process, results kept, c=10", system: "stem-memory", name: "process", setting: "c=10 retain", of: rate, atLeast: 250_000, unit: "/s"},
		{what: "memory: idle latency p99", system: "stem-memory", name: "latency", setting: "c=10", of: p99, atMost: 0.5, unit: "ms"},
		{what: "SQLite: process, results kept, c=100", system: "stem-sqlite", name: "process", setting: "full c=100 retain", of: rate, atLeast: 40_000, unit: "/s"},
		{what: "SQLite: process, results kept, c=10", system: "stem-sqlite", name: "process", setting: "full c=10 retain", of: rate, atLeast: 30_000, unit: "/s"},
		{what: "the same, c=100, of River's", system: "stem-sqlite", name: "process", setting: "full c=100 retain", of: rate, atLeast: 12, timesOf: river, unit: "×"},
		{what: "SQLite: enqueue in batches of 1000", system: "stem-sqlite", name: "enqueueBatch", setting: "full batch=1000", of: rate, atLeast: 100_000, unit: "/s"},
		{what: "SQLite: enqueue, 64 producers", system: "stem-sqlite", name: "enqueue", setting: "full p=64", of: rate, atLeast: 40_000, unit: "/s"},
		{what: "SQLite: enqueue, 1 producer", system: "stem-sqlite", name: "enqueue", setting: "full p=1", of: rate, atLeast: 4_000, unit: "/s"},
		{what: "SQLite: idle latency p50", system: "stem-sqlite", name: "latency", setting: "full c=10", of: p50, atMost: 1, unit: "ms"},
		{what: "SQLite: idle latency p99", system: "stem-sqlite", name: "latency", setting: "full c=10", of: p99, atMost: 2, unit: "ms"},
		{what: "SQLite: the same between processes, p50", system: "stem-sqlite", name: "latency2", setting: "full c=10", of: p50, atMost: 5, unit: "ms"},
		{what: "SQLite: the same between processes, p99", system: "stem-sqlite", name: "latency2", setting: "full c=10", of: p99, atMost: 15, unit: "ms"},
		{what: "SQLite: idle cost, c=10", system: "stem-sqlite", name: "idle", setting: "full c=10", of: func(c *cases.Result) float64 { return c.CPUIdle }, atMost: 2, unit: "ms/s"},
		{what: "SQLite: 5,000 due at once, first", system: "stem-sqlite", name: "delayed", setting: "full c=100", of: extra("firstMs"), atMost: 5, unit: "ms"},
		{what: "SQLite: 5,000 due at once, p99", system: "stem-sqlite", name: "delayed", setting: "full c=100", of: p99, atMost: 300, unit: "ms"},
		{what: "SQLite: rate at a backlog of 1 M, of that at 10 k", system: "stem-sqlite", name: "scale", setting: "full c=100 backlog=1000000", of: rate, atLeast: 0.8, timesOf: small, unit: "×"},
		{what: "SQLite: four writers, least share", system: "stem-sqlite", name: "fair", setting: "full p=4", of: extra("leastSharePercent"), atLeast: 15, unit: "%"},
		{what: "SQLite: four writers, write p99", system: "stem-sqlite", name: "fair", setting: "full p=4", of: p99, atMost: 10, unit: "ms"},
		{what: "long and short mixed, short's queue time p99", system: "stem-sqlite", name: "mixed", setting: "full c=10", of: p99, atMost: 20, unit: "ms"},
		{what: "worker RSS on a backlog of 100 k", system: "stem-sqlite", name: "process", setting: "full c=100 retain", of: rss, atMost: 40, unit: "MiB"},
	}
}

// value is the median of the bar's figure, false where it was not measured.
func (b *bar) value(rows []*row) (float64, bool) {
	i := slices.IndexFunc(rows, func(r *row) bool {
		return r.system == b.system && r.name == b.name && r.setting == b.setting
	})
	if i < 0 {
		return 0, false
	}
	v := rows[i].figure(b.of).median
	if b.timesOf == nil {
		return v, true
	}
	base, ok := b.timesOf.value(rows)
	if !ok || base == 0 {
		return 0, false
	}
	return v / base, true
}

func printBars(w io.Writer, rows []*row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nbar\twanted\tmeasured\t")
	for _, b := range bars() {
		wanted, verdict := fmt.Sprintf("≥ %g %s", b.atLeast, b.unit), "missed"
		v, ok := b.value(rows)
		if b.atLeast == 0 {
			wanted = fmt.Sprintf("≤ %g %s", b.atMost, b.unit)
		}
		switch {
		case !ok:
			fmt.Fprintf(t, "%s\t%s\tnot measured\t\n", b.what, wanted)
			continue
		case b.atLeast > 0 && v >= b.atLeast, b.atLeast == 0 && v <= b.atMost:
			verdict = "reached"
		}
		fmt.Fprintf(t, "%s\t%s\t%.4g %s\t%s\n", b.what, wanted, v, b.unit, verdict)
	}
	t.Flush()
}
