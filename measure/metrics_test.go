package measure_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strings"
	"testing"

	"github.com/stemjobs/stem/measure"
)

// declared counts the metrics that the source declares.
func declared(t *testing.T) int {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "metrics.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		if lit, ok := node.(*ast.CompositeLit); ok {
			if name, ok := lit.Type.(*ast.Ident); ok && name.Name == "Metric" {
				n++
			}
		}
		return true
	})
	return n
}

func TestAllHasEveryMetric(t *testing.T) {
	if got, want := len(measure.All()), declared(t); got != want {
		t.Errorf("All lists %d metrics, the source declares %d", got, want)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	name := regexp.MustCompile(`^stem(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)+$`)
	label := regexp.MustCompile(`^[a-z]+$`)
	seen := make(map[string]bool)
	for _, m := range measure.All() {
		if !name.MatchString(m.Name) || seen[m.Name] {
			t.Errorf("%q is no name, or one of two", m.Name)
		}
		seen[m.Name] = true
		switch m.Kind {
		case measure.KindCounter, measure.KindGauge, measure.KindHistogram:
		default:
			t.Errorf("%s: %q is no kind", m.Name, m.Kind)
		}
		if !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: its help %q is no sentence", m.Name, m.Help)
		}
		if len(m.Labels) == 0 {
			t.Errorf("%s has no labels", m.Name)
		}
		for _, l := range m.Labels {
			if !label.MatchString(l) {
				t.Errorf("%s: %q is no label", m.Name, l)
			}
		}
	}
}

func TestNoneTakesEverything(t *testing.T) {
	measure.None.Counter(measure.TasksStarted, "a", "b").Add(1)
	measure.None.Gauge(measure.QueueDepth, "a").Set(1)
	measure.None.Histogram(measure.TaskDuration).Observe(1)
}
