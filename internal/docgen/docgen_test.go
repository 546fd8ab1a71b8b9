package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
)

// root is the module's, from this package's directory.
const root = "../.."

func TestPagesAreCurrent(t *testing.T) {
	for _, p := range pages() {
		t.Run(p.path, func(t *testing.T) {
			want, err := p.make()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(p.path)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what the code says: run make docs", p.path)
			}
		})
	}
}

func TestPagesComeOutTheSameTwice(t *testing.T) {
	for _, p := range pages() {
		first, err := p.make()
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.make()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s changes from run to run", p.path)
		}
		if !bytes.Contains(first, []byte("Do not edit")) {
			t.Errorf("%s does not say that it is generated", p.path)
		}
	}
}

func TestEveryMetricIsListed(t *testing.T) {
	page := string(metricsPage())
	for _, m := range measure.All() {
		if !strings.Contains(page, "| `"+m.Name+"` |") || m.Help == "" {
			t.Errorf("%s is missing, or says nothing of itself", m.Name)
		}
	}
}

func TestEveryPowerHasAMeaning(t *testing.T) {
	seen := make(map[string]broker.Power)
	for _, p := range broker.Powers() {
		m := meaning(p)
		if m == "" {
			t.Errorf("%s has no meaning here", p)
		}
		if other, ok := seen[m]; ok {
			t.Errorf("%s and %s mean the same", p, other)
		}
		seen[m] = p
	}
	all, err := declared()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		for _, p := range c.Powers {
			if meaning(p) == "" {
				t.Errorf("%s declares %q, which is no power", c.Backend, p)
			}
		}
	}
}

func TestWriteTouchesOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	if err := write(dir); err == nil {
		t.Fatal("it wrote outside a module")
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(filepath.Join(dir, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	second, err := os.Stat(filepath.Join(dir, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !first.ModTime().Equal(second.ModTime()) {
		t.Error("a page that had not changed was written again")
	}
}
