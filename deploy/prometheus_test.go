package deploy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe/prom"
)

const runbooks = "../docs/runbook"

// rule is an alert.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// readYAML reads one document, and refuses fields that v does not have.
func readYAML(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(text, v, yaml.Strict()); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	readYAML(t, "prometheus/rules.yaml", &file)
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("%d rules", len(all))
	}
	return all
}

// tool runs a program that make needs installs.
func tool(t *testing.T, install, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\nIs %s there? \"make needs\" installs it: apt-get install %s", name, strings.Join(args, " "), err, out, name, install)
	}
	return string(out)
}

func promtool(t *testing.T, args ...string) string {
	t.Helper()
	return tool(t, "prometheus", "promtool", args...)
}

func TestRules(t *testing.T) {
	// The go command keeps a passed test's result while what the test itself
	// read is as it was; it does not see what promtool reads.
	for _, name := range []string{"rules.yaml", "rules_test.yaml", "prometheus.yml"} {
		if _, err := os.ReadFile(filepath.Join("prometheus", name)); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "check", "rules", "prometheus/rules.yaml")
	promtool(t, "check", "config", "prometheus/prometheus.yml")
	promtool(t, "test", "rules", "prometheus/rules_test.yaml")
}

// TestRulesAreTested: for each alert there is data on which it fires, and data
// on which it is silent.
func TestRulesAreTested(t *testing.T) {
	var file struct {
		Rules    []string `yaml:"rule_files"`
		Interval string   `yaml:"evaluation_interval"`
		Tests    []struct {
			Name     string              `yaml:"name"`
			Interval string              `yaml:"interval"`
			Input    []map[string]string `yaml:"input_series"`
			Alerts   []struct {
				At    string `yaml:"eval_time"`
				Alert string `yaml:"alertname"`
				Want  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	readYAML(t, "prometheus/rules_test.yaml", &file)
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, a := range test.Alerts {
			if len(a.Want) > 0 {
				fires[a.Alert] = true
			} else if len(test.Input) > 0 || a.Alert == "StemMetricsAbsent" {
				silent[a.Alert] = true
			}
		}
	}
	for _, r := range alerts(t) {
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: tested to fire: %t, to be silent: %t", r.Alert, fires[r.Alert], silent[r.Alert])
		}
	}
}

// TestRunbook: each alert has its page, linked and listed, and each page its alert.
func TestRunbook(t *testing.T) {
	index, err := os.ReadFile(filepath.Join(runbooks, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{"README.md": true}
	for _, r := range alerts(t) {
		page := r.Alert + ".md"
		pages[page] = true
		text, err := os.ReadFile(filepath.Join(runbooks, page))
		if err != nil {
			t.Errorf("%s has no page: %v", r.Alert, err)
			continue
		}
		if want := "https://github.com/stemjobs/stem/blob/main/docs/runbook/" + page; r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		if line := fmt.Sprintf("| [%s](%s) | %s |", r.Alert, page, r.Labels["severity"]); !strings.Contains(string(index), line) {
			t.Errorf("the runbook's index has no %q", line)
		}
		_, rest, _ := strings.Cut(string(text), "\n## Look\n")
		look, rest, decide := strings.Cut(rest, "\n## Decide\n")
		_, cure, ok := strings.Cut(rest, "\n## Cure\n")
		if !strings.HasPrefix(string(text), "# "+r.Alert+"\n") || !decide || !ok || len(cure) < 40 {
			t.Errorf("%s is not of the form title, Look, Decide, Cure", page)
		}
		if n := len(commandLines(look)); n != 3 {
			t.Errorf("%s has %d commands to look with, want 3", page, n)
		}
	}
	files, err := os.ReadDir(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !pages[f.Name()] {
			t.Errorf("%s is the page of no alert", f.Name())
		}
	}
}

var (
	metricName = regexp.MustCompile(`\bstem_[a-z_]+`)
	dottedName = regexp.MustCompile("`(stem\\.[a-z_.]+)`")
)

// served are the names that Prometheus sees of the metrics that there are.
func served() map[string]bool {
	names := map[string]bool{"stem_build_info": true}
	for _, m := range measure.All() {
		name := prom.Name(m)
		if m.Kind != measure.KindHistogram {
			names[name] = true
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			names[name+suffix] = true
		}
	}
	return names
}

// TestMetricsExist: what rules, dashboard and runbook name is measured.
func TestMetricsExist(t *testing.T) {
	names := served()
	for _, path := range []string{"prometheus/rules.yaml", "prometheus/rules_test.yaml", "grafana/stem.json"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := metricName.FindAllString(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric", path)
		}
		for _, name := range found {
			if !names[name] {
				t.Errorf("%s: nothing measures %s", path, name)
			}
		}
	}
	pages, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range dottedName.FindAllStringSubmatch(string(text), -1) {
			spans := []string{"stem.enqueue", "stem.consume", "stem.execute"}
			if !slices.Contains(spans, m[1]) && !slices.ContainsFunc(measure.All(), func(x *measure.Metric) bool { return x.Name == m[1] }) {
				t.Errorf("%s: nothing measures %s", path, m[1])
			}
		}
	}
}

// panel is as much of a panel of Grafana as is looked at.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	Source  source `json:"datasource"`
	GridPos struct{ H, W, X, Y int }
	Targets []struct {
		Expr   string `json:"expr"`
		RefID  string `json:"refId"`
		Source source `json:"datasource"`
	} `json:"targets"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// TestDashboard: it is valid, its panels do not overlap, and its queries are
// expressions that Prometheus understands.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("grafana/stem.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title == "" || board.SchemaVersion < 30 || len(board.Panels) < 10 {
		t.Fatalf("uid %q, title %q, schema %d, %d panels", board.UID, board.Title, board.SchemaVersion, len(board.Panels))
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	var queries []map[string]string
	variables := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$queue", ".*", "$task", ".*")
	for _, p := range board.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: an id twice, or none, or no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies over %q, or off the page", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, q := range p.Targets {
			if q.Source.UID != "${datasource}" || p.Source.UID != "${datasource}" {
				t.Errorf("panel %q asks a datasource of somebody's", p.Title)
			}
			expr := variables.Replace(q.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("panel %q: a variable that there is not in %s", p.Title, q.Expr)
			}
			queries = append(queries, map[string]string{"record": fmt.Sprintf("panel_%d_%s", p.ID, q.RefID), "expr": expr})
		}
	}
	rules, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": queries}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(path, rules, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}
