package prom

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
)

// ofStore reports whether a metric is one of the gauges that describe the
// whole store: they come from the store itself, or they would be added up once
// for every worker.
func ofStore(m *measure.Metric) bool {
	switch m {
	case measure.QueueDepth, measure.QueueDelayed, measure.QueueOldestAge, measure.DLQDepth:
		return true
	default:
		return false
	}
}

const (
	queuesFresh   = 5 * time.Second // how long one look at the store is served
	queuesTimeout = 3 * time.Second // how long a look may take
)

// Queues asks a store for its queues: a broker's Queues method without names.
type Queues func(ctx context.Context) ([]broker.QueueInfo, error)

// WatchQueues adds the gauges of the whole store: depths, delayed, the oldest
// task's age, dead letters. The store is asked only by scrapes, at most once
// in five seconds. One process of a deployment serves them, or those who add
// them up count double. It may be called once; later calls are an error.
func (e *Exporter) WatchQueues(ask Queues) error {
	if err := e.registry.Register(newQueueCollector(ask, e.bounds.maxValues)); err != nil {
		return fmt.Errorf("watch queues: %w", err)
	}
	return nil
}

type queueCollector struct {
	ask       Queues
	maxQueues int
	depth     *prometheus.Desc
	delayed   *prometheus.Desc
	oldest    *prometheus.Desc
	dead      *prometheus.Desc

	mu    sync.Mutex // held while asking, so that scrapes at once share a look
	at    time.Time
	infos []broker.QueueInfo
	err   error
}

func newQueueCollector(ask Queues, maxQueues int) *queueCollector {
	desc := func(m *measure.Metric) *prometheus.Desc { return prometheus.NewDesc(Name(m), m.Help, m.Labels, nil) }
	return &queueCollector{
		ask: ask, maxQueues: maxQueues,
		depth: desc(measure.QueueDepth), delayed: desc(measure.QueueDelayed),
		oldest: desc(measure.QueueOldestAge), dead: desc(measure.DLQDepth),
	}
}

// Describe implements prometheus.Collector.
func (c *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.depth, c.delayed, c.oldest, c.dead} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. When the store cannot be asked
// there is no value, rather than an old one.
func (c *queueCollector) Collect(ch chan<- prometheus.Metric) {
	infos, err := c.look()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.depth, fmt.Errorf("ask the store for its queues: %w", err))
		return
	}
	for _, q := range infos {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, q.Name)
		}
		gauge(c.depth, float64(q.Ready))
		gauge(c.delayed, float64(q.Delayed))
		gauge(c.oldest, q.Oldest.Seconds())
		gauge(c.dead, float64(q.Dead))
	}
}

func (c *queueCollector) look() ([]broker.QueueInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < queuesFresh {
		return c.infos, c.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), queuesTimeout)
	defer cancel()
	infos, err := c.ask(ctx)
	c.infos, c.err, c.at = foldQueues(infos, c.maxQueues), err, time.Now()
	return c.infos, c.err
}

// foldQueues keeps the first queues and adds up the rest as Other.
func foldQueues(infos []broker.QueueInfo, limit int) []broker.QueueInfo {
	if len(infos) <= limit {
		return infos
	}
	folded := make([]broker.QueueInfo, 0, limit+1)
	rest := broker.QueueInfo{Name: Other}
	for _, q := range infos {
		if len(folded) < limit && q.Name != Other {
			folded = append(folded, q)
			continue
		}
		rest.Ready += q.Ready
		rest.Delayed += q.Delayed
		rest.Dead += q.Dead
		rest.Oldest = max(rest.Oldest, q.Oldest)
	}
	return append(folded, rest)
}
