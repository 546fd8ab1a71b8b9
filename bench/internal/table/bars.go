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
	above        *bar // the figure is what is more than this one's
	unit         string
}

func rate(c *cases.Result) float64 { return c.Rate }
func p50(c *cases.Result) float64  { return c.P50 }
func p99(c *cases.Result) float64  { return c.P99 }
func rss(c *cases.Result) float64  { return c.RSS }

func extra(name string) func(*cases.Result) float64 {
	return func(c *cases.Result) float64 { return c.Extra[name] }
}

func bars() []bar { return slices.Concat(embeddedBars(), redisBars(), telemetryBars()) }

// telemetryBars are rates while everything is observed, of those without.
func telemetryBars() []bar {
	var out []bar
	for _, x := range []struct{ system, setting string }{{"stem-memory", "c=10 retain"}, {"stem-sqlite", "full c=100 retain"}} {
		bare := &bar{system: x.system, name: "process", setting: x.setting, of: rate}
		out = append(out,
			bar{what: x.system + ": process with metrics, of that without", system: x.system, name: "process", setting: x.setting + " metrics", of: rate, atLeast: 0.9, timesOf: bare, unit: "×"},
			bar{what: x.system + ": and with 10 % of traces", system: x.system, name: "process", setting: x.setting + " traces", of: rate, atLeast: 0.75, timesOf: bare, unit: "×"})
	}
	return out
}

func embeddedBars() []bar {
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

// both is a task's CPU in the client and in the server.
func both(c *cases.Result) float64 { return c.CPU + c.ServerCPU }

// redisBars are those beside asynq, and those of Redis alone.
func redisBars() []bar {
	peer := func(name, setting string, of func(*cases.Result) float64) *bar {
		return &bar{system: "asynq", name: name, setting: setting, of: of}
	}
	own := func(name, setting string, of func(*cases.Result) float64) *bar {
		return &bar{system: "stem-redis", name: name, setting: setting, of: of}
	}
	b := func(what string, own *bar, atLeast, atMost float64, unit string, timesOf *bar) bar {
		own.what, own.atLeast, own.atMost, own.unit, own.timesOf = what, atLeast, atMost, unit, timesOf
		return *own
	}
	kept := "c=100 retain"
	small := own("scale", "mem c=100 backlog=10000", rate)
	out := []bar{
		b("process, results kept, of asynq's", own("process", "mem "+kept, rate), 7, 0, "×", peer("process", "mem "+kept, rate)),
		b("the same, AOF everysec", own("process", "aof "+kept, rate), 6.5, 0, "×", peer("process", "aof "+kept, rate)),
		b("the same at c=10, of c=100", own("process", "mem c=10 retain", rate), 0.85, 0, "×", own("process", "mem "+kept, rate)),
		b("process, results ignored, of asynq's", own("process", "mem c=100", rate), 6, 0, "×", peer("process", "mem c=100", rate)),
		b("process, no status kept, of asynq's", own("process", "mem c=100 drop", rate), 7, 0, "×", peer("process", "mem c=100", rate)),
		b("process, CPU a task, of asynq's", own("process", "mem "+kept, both), 0, 0.2, "×", peer("process", "mem "+kept, both)),
		b("worker RSS, MiB above asynq's", own("process", "mem "+kept, rss), 0, 10, "MiB", nil),
	}
	out[len(out)-1].above = peer("process", "mem "+kept, rss)
	for _, p := range []struct {
		setting  string
		rate     float64
		cpuBound bool
	}{{"mem p=1", 1, false}, {"mem p=10", 1.3, true}, {"mem p=64", 2, true}} {
		out = append(out, b("enqueue, "+p.setting[4:]+", of asynq's", own("enqueue", p.setting, rate), p.rate, 0, "×", peer("enqueue", p.setting, rate)))
		if p.cpuBound {
			out = append(out, b("the same, CPU a task", own("enqueue", p.setting, both), 0, 0.5, "×", peer("enqueue", p.setting, both)))
		}
	}
	idleCost := func(c *cases.Result) float64 { return c.CPUIdle + c.Extra["serverCpuMsPerS"] }
	out = append(out,
		b("enqueue in batches of 1000", own("enqueueBatch", "mem batch=1000", rate), 150_000, 0, "/s", nil),
		b("the same, four producers", own("enqueueBatch", "mem p=4 batch=1000", rate), 220_000, 0, "/s", nil),
		b("idle latency p50", own("latency", "mem c=10", p50), 0, 1, "ms", nil),
		b("idle latency p99", own("latency", "mem c=10", p99), 0, 2, "ms", nil),
		b("idle cost, CPU of both, of asynq's", own("idle", "mem c=10", idleCost), 0, 1, "×", peer("idle", "mem c=10", idleCost)),
		b("idle cost, commands, of asynq's", own("idle", "mem c=10", extra("commandsPerS")), 0, 1, "×", peer("idle", "mem c=10", extra("commandsPerS"))),
		b("200 idle workers, scripts a task", own("fleet", "mem c=10 p=200", extra("scriptsPerTask")), 0, 3, "", nil),
		b("200 idle workers, looks for work", own("fleet", "mem c=10 p=200", extra("looksPerS")), 0, 5, "/s", nil),
		b("1,000/s, p50", own("steady", "mem c=50 p=10", p50), 0, 1, "ms", nil),
		b("1,000/s, p99", own("steady", "mem c=50 p=10", p99), 0, 5, "ms", nil),
		b("5,000 due at once, first", own("delayed", "mem c=100", extra("firstMs")), 0, 5, "ms", nil),
		b("5,000 due at once, p50", own("delayed", "mem c=100", p50), 0, 100, "ms", nil),
		b("5,000 due at once, p99", own("delayed", "mem c=100", p99), 0, 200, "ms", nil),
		b("rate at a backlog of 1 M, of that at 10 k", own("scale", "mem c=100 backlog=1000000", rate), 0.9, 0, "×", small),
		b("bytes of a ready task", own("bytes", "mem c=100", extra("readyBytes")), 0, 520, "B", nil),
		b("bytes of a delayed task", own("bytes", "mem c=100", extra("delayedBytes")), 0, 620, "B", nil),
		b("bytes of a finished task, without args", own("bytes", "mem c=100 noargs", extra("finishedBytes")), 0, 520, "B", nil),
		b("the same with args and result", own("bytes", "mem c=100 retain", extra("finishedBytes")), 0, 900, "B", nil),
		b("10,000 of a killed worker, first to last", own("reclaim", "mem c=100", extra("firstToLastMs")), 0, 1000, "ms", nil),
		b("rate while tasks are listed", own("paged", "mem c=100 backlog=1000000", extra("percentOfAlone")), 95, 0, "%", nil),
		bar{what: "rate while the reconciler walks", system: "stem-redis-pair", name: "walked", setting: "mem c=100 backlog=1000000", of: extra("percentOfAlone"), atLeast: 95, unit: "%"},
		b("four processes on one queue, of one", own("processes", "mem c=100 p=4 queues=1", rate), 1, 0, "×", own("processes", "mem c=100 p=1 queues=1", rate)),
		b("four processes on four queues, of one", own("processes", "mem c=100 p=4 queues=4", rate), 1, 0, "×", own("processes", "mem c=100 p=1 queues=1", rate)),
	)
	for i := range out {
		out[i].what = "Redis: " + out[i].what
	}
	return out
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
	if b.above != nil {
		base, ok := b.above.value(rows)
		return v - base, ok
	}
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
