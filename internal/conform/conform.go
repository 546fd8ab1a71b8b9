// Package conform runs conformance suites: lists of rules, each with a test of
// its own. It runs them against a backend, many at once and, where the backend
// allows it, in virtual time; and it runs them against a backend that is broken
// on purpose, to learn which rules notice.
package conform

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Rule is one rule and the test of it.
type Rule struct {
	Name string
	Test func(t testing.TB)
}

// Config says how rules are run.
type Config struct {
	// Virtual runs each rule in a testing/synctest bubble of its own.
	Virtual bool
	// Parallel is how many rules run at once; 0: 8. It is not bound to the
	// number of CPUs as -parallel is, since most rules only wait.
	Parallel int
}

// Slack is what a busy machine may add to a bound, unless it is given: 20 s, or
// 50 ms in virtual time, where nothing is ever busy.
func Slack(given time.Duration, virtual bool) time.Duration {
	switch {
	case given > 0:
		return given
	case virtual:
		return 50 * time.Millisecond
	default:
		return 20 * time.Second
	}
}

// Run runs each rule as a subtest of its name.
func Run(t *testing.T, c Config, rules []Rule) {
	if c.Parallel <= 0 {
		c.Parallel = 8
	}
	slots := make(chan struct{}, c.Parallel)
	var wg sync.WaitGroup
	for _, r := range rules {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t.Run(r.Name, func(t *testing.T) { runOne(t, c, r) })
		})
	}
	wg.Wait()
}

func runOne(t *testing.T, c Config, r Rule) {
	if !c.Virtual {
		r.Test(t)
		return
	}
	synctest.Test(t, func(t *testing.T) { r.Test(t) })
}

// Failures runs the rules in virtual time, one after the other, against
// something that is expected to break some, and returns what each broken rule
// said, by the rule's name. Nothing of it fails t.
func Failures(t *testing.T, rules []Rule) map[string]string {
	failed := make(map[string]string)
	for _, r := range rules {
		synctest.Test(t, func(t *testing.T) {
			rec := &recorder{TB: t, name: r.Name}
			done := make(chan struct{})
			go func() {
				defer close(done)
				r.Test(rec)
			}()
			<-done
			if said, bad := rec.verdict(); bad {
				failed[r.Name] = said
			}
		})
	}
	return failed
}

// Number is the rule's number: what stands before the first underscore.
func Number(rule string) string {
	n, _, _ := strings.Cut(rule, "_")
	return n
}

// Unexpected compares what failed with what had to: the rule that is broken,
// and those that may fail with it. It returns a complaint, or "".
func Unexpected(failed map[string]string, rule string, also ...string) string {
	var extra []string
	hit := false
	for name, said := range failed {
		n := Number(name)
		hit = hit || n == rule
		if n != rule && !slices.Contains(also, n) {
			extra = append(extra, name+" failed too: "+said)
		}
	}
	slices.Sort(extra)
	if !hit {
		extra = append([]string{rule + " did not notice"}, extra...)
	}
	return strings.Join(extra, "\n")
}

// recorder is a testing.TB that keeps its failures to itself.
type recorder struct {
	testing.TB // for what is not recorded: Cleanup, Context, TempDir
	name       string

	mu     sync.Mutex
	failed bool
	said   []string
}

func (r *recorder) note(fail bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = r.failed || fail
	r.said = append(r.said, strings.TrimSpace(text))
}

func (r *recorder) verdict() (said string, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.said, "; "), r.failed
}

func (r *recorder) Name() string                      { return r.name }
func (r *recorder) Helper()                           {}
func (r *recorder) Log(args ...any)                   { r.note(false, fmt.Sprintln(args...)) }
func (r *recorder) Logf(format string, args ...any)   { r.note(false, fmt.Sprintf(format, args...)) }
func (r *recorder) Fail()                             { r.note(true, "failed") }
func (r *recorder) Error(args ...any)                 { r.note(true, fmt.Sprintln(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.note(true, fmt.Sprintf(format, args...)) }

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	_, failed := r.verdict()
	return failed
}
