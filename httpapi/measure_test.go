package httpapi_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/measure"
)

// counts is a meter that adds up counters, and counts observations.
type counts struct {
	mu     sync.Mutex
	values map[string]float64
}

type count struct {
	c    *counts
	name string
}

func (c *counts) of(m *measure.Metric, values []string) *count {
	if m.Labels[0] == "worker" {
		values = []string{"*"} // the server's own name
	}
	return &count{c, m.Name + " " + strings.Join(values, " ")}
}
func (c *counts) Counter(m *measure.Metric, v ...string) measure.Counter     { return c.of(m, v) }
func (c *counts) Gauge(m *measure.Metric, v ...string) measure.Gauge         { return c.of(m, v) }
func (c *counts) Histogram(m *measure.Metric, v ...string) measure.Histogram { return c.of(m, v) }

func (c *count) Add(n float64) {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	c.c.values[c.name] += n
}
func (c *count) Set(float64)     {}
func (c *count) Observe(float64) { c.Add(1) }

// TestPullIsMeasured: what pullers execute counts like what a worker executes,
// at whichever server each step is made.
func TestPullIsMeasured(t *testing.T) {
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "stem.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c := &counts{values: map[string]float64{}}
	r, other := newRigOn(t, db, httpapi.Options{Meter: c}), newRigOn(t, db, httpapi.Options{Meter: c})
	next := func(body string) httpapi.Leased {
		t.Helper()
		r.enqueue(body)
		l := r.lease(`{"queues":["default"],"lease":"1s"}`)
		if len(l) != 1 {
			t.Fatalf("leased %+v", l)
		}
		return l[0]
	}
	for i, at := range []*rig{r, other} {
		at.settle(next(fmt.Sprintf(`{"name":"a","id":"s%d"}`, i)).Receipt, `"outcome":"succeeded"`)
		at.settle(next(fmt.Sprintf(`{"name":"a","id":"f%d","maxRetries":0}`, i)).Receipt, `"outcome":"failed"`)
		at.settle(next(fmt.Sprintf(`{"name":"a","id":"r%d"}`, i)).Receipt, `"outcome":"retry","in":"1h"`)
		l := next(fmt.Sprintf(`{"name":"a","id":"c%d"}`, i))
		at.must(200, "POST", fmt.Sprintf("/v1/tasks/c%d/revoke", i), `{"terminate":true}`, nil)
		at.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, l.Receipt), nil)
		at.settle(l.Receipt, `"outcome":"release"`)
	}
	old := next(`{"name":"a","id":"l"}`)
	again := r.lease(`{"queues":["default"],"wait":"20s"}`)
	if len(again) != 1 || again[0].ID != "l" {
		t.Fatalf("after the end of a lease: %+v", again)
	}
	for range 2 { // once is counted
		r.must(200, "POST", "/v1/extend", fmt.Sprintf(`{"tasks":[{"receipt":%q}]}`, old.Receipt), nil)
	}
	r.settle(old.Receipt, `"outcome":"failed"`)
	r.settle(again[0].Receipt, `"outcome":"succeeded"`)
	r.settle(again[0].Receipt, `"outcome":"succeeded"`) // the same again is no outcome
	r.enqueue(`{"name":"a","expiresAt":"2001-01-01T00:00:00Z"}`)
	eventually(t, "what has expired is refused", func() bool {
		r.lease(`{"queues":["default"]}`)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.values["stem.tasks.expired a default"] == 1
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	want := map[string]float64{
		"stem.tasks.started a default": 10, "stem.tasks.succeeded a default": 3, "stem.tasks.failed a default": 2,
		"stem.tasks.retried a default": 2, "stem.tasks.revoked a default": 2, "stem.tasks.redelivered a default": 1,
		"stem.tasks.lease_lost a default": 1, "stem.tasks.expired a default": 1,
		"stem.lease.renewed *": 2, "stem.lease.lost *": 1, "stem.dlq.added default retries-exhausted": 2,
		"stem.task.duration a default succeeded": 3, "stem.task.queue_time a default succeeded": 3,
		"stem.task.duration a default failed": 2, "stem.task.queue_time a default failed": 2,
		"stem.task.duration a default retried": 2, "stem.task.queue_time a default retried": 2,
	}
	got := maps.Clone(c.values)
	maps.DeleteFunc(got, func(k string, _ float64) bool { return strings.HasSuffix(k, " queued") })
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
