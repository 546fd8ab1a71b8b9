package conform_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/conform"
)

func rule(name string, test func(t testing.TB)) conform.Rule {
	return conform.Rule{Name: name, Test: test}
}

// Failures tells which rules failed and why, and goes on after each.
func TestFailures(t *testing.T) {
	cleaned := 0
	failed := conform.Failures(t, []conform.Rule{
		rule("A1_passes", func(t testing.TB) { t.Cleanup(func() { cleaned++ }); t.Log("fine") }),
		rule("A2_says_two_things", func(t testing.TB) { t.Errorf("one %d", 1); t.Error("two") }),
		rule("A3_stops", func(t testing.TB) {
			defer func() { cleaned++ }()
			t.Fatalf("stopped")
			t.Error("never reached")
		}),
		rule("A4_waits_an_hour", func(t testing.TB) {
			time.Sleep(time.Hour)
			if t.Fail(); !t.Failed() {
				panic("Failed does not tell")
			}
		}),
	})
	want := map[string]string{"A2_says_two_things": "one 1; two", "A3_stops": "stopped", "A4_waits_an_hour": "failed"}
	if fmt.Sprint(failed) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", failed, want)
	}
	if cleaned != 2 {
		t.Errorf("%d of 2 cleanups ran", cleaned)
	}
}

func TestUnexpected(t *testing.T) {
	failed := map[string]string{"B7_x": "seven", "B8_y": "eight", "B9_z": "nine"}
	if got := conform.Unexpected(failed, "B7", "B8", "B9"); got != "" {
		t.Errorf("all was expected: got %q", got)
	}
	if got := conform.Unexpected(failed, "B7", "B8"); !strings.Contains(got, "B9_z failed too: nine") {
		t.Errorf("B9 was not expected: got %q", got)
	}
	if got := conform.Unexpected(failed, "B1", "B7", "B8", "B9"); got != "B1 did not notice" {
		t.Errorf("B1 did not fail: got %q", got)
	}
}

// Run runs every rule once, several at a time, in real and in virtual time.
func TestRun(t *testing.T) {
	for _, virtual := range []bool{false, true} {
		var ran atomic.Int64
		var rules []conform.Rule
		for i := range 20 {
			rules = append(rules, rule(fmt.Sprintf("C%d_counts", i), func(t testing.TB) {
				began := time.Now()
				if virtual {
					time.Sleep(time.Hour)
				}
				if virtual && time.Since(began) != time.Hour {
					t.Errorf("an hour of virtual time took %s", time.Since(began))
				}
				ran.Add(1)
			}))
		}
		conform.Run(t, conform.Config{Virtual: virtual, Parallel: 3}, rules)
		if ran.Load() != 20 {
			t.Errorf("%d of 20 rules ran", ran.Load())
		}
	}
}
