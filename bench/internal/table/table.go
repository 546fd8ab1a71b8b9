// Package table prints results: a line for each case and system with the
// median of its repetitions, and the bars that Stem set itself.
package table

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/stemjobs/stem/bench/internal/cases"
)

// Read reads JSON lines.
func Read(r io.Reader) ([]cases.Result, error) {
	var out []cases.Result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one cases.Result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(out)+1, err)
		}
		out = append(out, one)
	}
	return out, lines.Err()
}

// figure is a number that a row shows: the median and the spread of the
// repetitions.
type figure struct{ low, median, high float64 }

func (f figure) String() string {
	switch {
	case f.high == 0:
		return ""
	case f.median >= 1000:
		return fmt.Sprintf("%.0f [%.0f–%.0f]", f.median, f.low, f.high)
	case f.median >= 10:
		return fmt.Sprintf("%.1f [%.1f–%.1f]", f.median, f.low, f.high)
	default:
		return fmt.Sprintf("%.2f [%.2f–%.2f]", f.median, f.low, f.high)
	}
}

type row struct {
	system, name, setting string
	results               []cases.Result
}

func (r *row) figure(of func(*cases.Result) float64) figure {
	var v []float64
	for i := range r.results {
		v = append(v, of(&r.results[i]))
	}
	slices.Sort(v)
	return figure{v[0], v[len(v)/2], v[len(v)-1]}
}

func group(results []cases.Result) []*row {
	var rows []*row
	for _, one := range results {
		i := slices.IndexFunc(rows, func(r *row) bool {
			return r.system == one.System && r.name == one.Case && r.setting == one.Setting
		})
		if i < 0 {
			rows = append(rows, &row{system: one.System, name: one.Case, setting: one.Setting})
			i = len(rows) - 1
		}
		rows[i].results = append(rows[i].results, one)
	}
	slices.SortStableFunc(rows, func(a, b *row) int { return strings.Compare(a.name, b.name) })
	return rows
}

// Print writes the table and then the bars.
func Print(w io.Writer, results []cases.Result) {
	rows := group(results)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tsystem\tsetting\tper second\tp50 ms\tp99 ms\tCPU µs/task\tserver µs/task\tRSS MiB\tmore")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.system, r.setting,
			r.figure(func(c *cases.Result) float64 { return c.Rate }),
			r.figure(func(c *cases.Result) float64 { return c.P50 }),
			r.figure(func(c *cases.Result) float64 { return c.P99 }),
			r.figure(func(c *cases.Result) float64 { return c.CPU }),
			r.figure(func(c *cases.Result) float64 { return c.ServerCPU }),
			r.figure(func(c *cases.Result) float64 { return c.RSS }), r.more())
	}
	t.Flush()
	printBars(w, rows)
}

func (r *row) more() string {
	var parts []string
	if f := r.figure(func(c *cases.Result) float64 { return c.CPUIdle }); f.high > 0 {
		parts = append(parts, "CPU ms/s "+f.String())
	}
	for _, name := range slices.Sorted(maps.Keys(r.results[0].Extra)) {
		parts = append(parts, name+" "+r.figure(func(c *cases.Result) float64 { return c.Extra[name] }).String())
	}
	for i := range r.results {
		if n := r.results[i].Note; n != "" {
			parts = append(parts, n)
			break
		}
	}
	return strings.Join(parts, "; ")
}
