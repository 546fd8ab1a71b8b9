package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// meter keeps every value under the metric's name and labels: counters and
// gauges as they are, histograms as the number of observations, with their sum
// under "…sum".
type meter struct {
	mu     sync.Mutex
	values map[string]float64
}

func newMeter() *meter { return &meter{values: map[string]float64{}} }

func (m *meter) of(metric *measure.Metric, values []string) *handle {
	return &handle{m: m, key: metric.Name + "{" + strings.Join(values, ",") + "}"}
}
func (m *meter) Counter(x *measure.Metric, v ...string) measure.Counter     { return m.of(x, v) }
func (m *meter) Gauge(x *measure.Metric, v ...string) measure.Gauge         { return m.of(x, v) }
func (m *meter) Histogram(x *measure.Metric, v ...string) measure.Histogram { return m.of(x, v) }

func (m *meter) get(key string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key]
}

type handle struct {
	m   *meter
	key string
}

func (h *handle) change(f func(values map[string]float64)) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	f(h.m.values)
}
func (h *handle) Add(n float64) { h.change(func(v map[string]float64) { v[h.key] += n }) }
func (h *handle) Set(n float64) { h.change(func(v map[string]float64) { v[h.key] = n }) }
func (h *handle) Observe(n float64) {
	h.change(func(v map[string]float64) { v[h.key]++; v[h.key+"sum"] += n })
}

func TestMetrics(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		m := newMeter()
		g.cfg.Meter, g.cfg.Concurrency = m, 2
		g.sleeper("two", 2*time.Second)
		g.handle("fail", func(context.Context, *runner.Job) (json.RawMessage, error) { return nil, errBroken })
		g.start()
		g.publish("two", func(e *task.Envelope) { e.NotBefore = time.Now().Add(time.Second) })
		g.publish("fail", func(e *task.Envelope) { e.MaxRetries = 1 })
		g.publish("nobody")
		g.publish("two", func(e *task.Envelope) {
			e.NotBefore, e.ExpiresAt = time.Now().Add(time.Second), time.Now().Add(time.Second)
		})
		after(2 * time.Second)
		if n := m.get("stem.worker.isolates.active{w1}"); n != 1 {
			t.Errorf("%v isolates active, want 1", n)
		}
		after(2 * time.Second)
		for key, want := range map[string]float64{
			"stem.tasks.started{two,default}":                1,
			"stem.tasks.succeeded{two,default}":              1,
			"stem.tasks.expired{two,default}":                1,
			"stem.tasks.started{fail,default}":               2,
			"stem.tasks.retried{fail,default}":               1,
			"stem.tasks.failed{fail,default}":                1,
			"stem.dlq.added{default,retries-exhausted}":      1,
			"stem.task.duration{two,default,succeeded}":      1,
			"stem.task.duration{two,default,succeeded}sum":   2,
			"stem.task.queue_time{two,default,succeeded}":    1,
			"stem.task.queue_time{two,default,succeeded}sum": 0,
			"stem.task.lateness{two,default,succeeded}":      1,
			"stem.task.duration{fail,default,retried}":       1,
			"stem.task.duration{fail,default,failed}":        1,
			"stem.task.lateness{fail,default,failed}":        1, // its retry was delayed
			"stem.lease.renewed{w1}":                         1,
			"stem.worker.isolates.total{w1}":                 2,
			"stem.worker.isolates.active{w1}":                0,
			"stem.worker.inflight{w1}":                       0,
		} {
			if got := m.get(key); got != want {
				t.Errorf("%s = %v, want %v", key, got, want)
			}
		}
		if n := m.get("stem.tasks.unknown{nobody,default}"); n < 1 {
			t.Errorf("unknown names counted %v times", n)
		}
		if n := m.get("stem.broker.roundtrip{memory,exchange}"); n < 5 {
			t.Errorf("%v round trips timed", n)
		}
	})
}

// Names that nobody knows do not make metrics without bound.
func TestMetricLabelsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		m := newMeter()
		g.cfg.Meter = m
		g.start()
		for i := range 1200 {
			g.publish(fmt.Sprintf("unknown-%d", i))
		}
		settle()
		m.mu.Lock()
		names := map[string]bool{}
		for key := range m.values {
			if strings.HasPrefix(key, "stem.tasks.unknown{") {
				names[key] = true
			}
		}
		m.mu.Unlock()
		if len(names) > 1001 || !names["stem.tasks.unknown{other,default}"] {
			t.Errorf("%d names, want 1000 and other", len(names))
		}
	})
}

// Outcomes that gather for a fuller exchange do not gather behind a task that
// takes long.
func TestGatheringIsShort(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Concurrency, g.cfg.Prefetch = 1, 100
		slow := newSlowBroker(g.broker)
		slow.took.set(2 * time.Millisecond)
		g.cfg.Broker = slow
		g.noop("short")
		g.sleeper("long", 500*time.Millisecond)
		first := g.publish("short")
		g.publish("long")
		for range 90 {
			g.publish("short")
		}
		g.start()
		after(15 * time.Millisecond)
		g.want(first, task.Succeeded)
	})
}

// What is kept by task and queue keeps no delivery: a store's names may be parts of
// all that it read.
func TestMetricsKeepNoDeliveries(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		const kinds, size = 64, 1 << 20
		g.broker.edit = func(b *broker.Batch) {
			for i := range b.Deliveries {
				d := &b.Deliveries[i]
				read := strings.Repeat(" ", size) + d.Queue
				d.Queue = read[size:]
			}
		}
		names := make([]string, kinds)
		for i := range names {
			names[i] = fmt.Sprintf("kind-%d", i)
			g.noop(names[i])
		}
		g.start()
		for _, name := range names {
			g.publish(name)
			settle()
		}
		after(time.Second)
		g.broker.set(func() { g.broker.exchanges = nil })
		runtime.GC()
		var heap runtime.MemStats
		runtime.ReadMemStats(&heap)
		if most := uint64(kinds / 2 * size); heap.HeapAlloc > most {
			t.Errorf("after %d kinds of tasks of 1 MiB %d MiB are kept", kinds, heap.HeapAlloc>>20)
		}
	})
}
