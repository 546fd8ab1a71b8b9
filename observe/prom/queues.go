package prom

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
)

// ofStore reports whether a metric is one of the gauges that describe the
// whole store.
func ofStore(m *measure.Metric) bool { return slices.Contains(observe.OfStore(), m) }

// Watch adds the gauges of the whole store: depths, delayed, the oldest task's
// age, dead letters, the ages of heartbeats. The store is asked only by
// scrapes. It may be called once; later calls are an error.
func (e *Exporter) Watch(s *observe.Store) error {
	if err := e.registry.Register(newStoreCollector(s, e.bounds.MaxValues())); err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	return nil
}

// WatchQueues is Watch of a store's queues alone.
func (e *Exporter) WatchQueues(ask observe.Queues) error { return e.Watch(observe.NewStore(ask, nil)) }

type storeCollector struct {
	store *observe.Store
	limit int
	descs map[*measure.Metric]*prometheus.Desc
}

func newStoreCollector(s *observe.Store, limit int) *storeCollector {
	c := &storeCollector{store: s, limit: limit, descs: map[*measure.Metric]*prometheus.Desc{}}
	for _, m := range observe.OfStore() {
		c.descs[m] = prometheus.NewDesc(Name(m), m.Help, m.Labels, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. When the store cannot be asked
// there is no value, rather than an old one.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	readings, err := c.store.Read(c.limit)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.descs[measure.QueueDepth], err)
		return
	}
	for _, r := range readings {
		ch <- prometheus.MustNewConstMetric(c.descs[r.Metric], prometheus.GaugeValue, r.Value, r.Label)
	}
}
