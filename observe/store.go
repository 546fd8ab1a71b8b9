package observe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
)

// OfStore lists the gauges that describe the whole store. They come from the
// store itself, and an exporter takes no values of them from elsewhere: added
// up over workers they would count double.
func OfStore() []*measure.Metric {
	return []*measure.Metric{
		measure.QueueDepth, measure.QueueDelayed, measure.QueueOldestAge, measure.DLQDepth, measure.HeartbeatAge,
	}
}

const (
	storeFresh   = 5 * time.Second // how long one look at the store is served
	storeTimeout = 3 * time.Second // how long a look may take
)

// Queues asks a store for its queues: a client's Queues method without names.
type Queues func(ctx context.Context) ([]broker.QueueInfo, error)

// Workers asks a store for what live workers last said: a client's Workers
// method.
type Workers func(ctx context.Context) ([]store.Heartbeat, error)

// Reading is the value of one series of the gauges of a store.
type Reading struct {
	Metric *measure.Metric
	Label  string // the value of the metric's one label
	Value  float64
}

// Store reads the gauges of a whole store. One process of a deployment serves
// them, or those who add them up count double. It is safe for concurrent use.
type Store struct {
	queues  Queues
	workers Workers // nil: no heartbeats

	mu       sync.Mutex // held while asking, so that readers at once share a look
	at       time.Time
	readings []Reading
	err      error
}

// NewStore makes a Store; workers may be nil. It asks nothing yet.
func NewStore(queues Queues, workers Workers) *Store { return &Store{queues: queues, workers: workers} }

// Read returns the gauges. The store is asked at most once in five seconds, and
// what that costs does not grow with the tasks it holds. Past limit series of
// a metric the rest are folded into one, Other. While the store is away there
// are no values, rather than old ones.
func (s *Store) Read(limit int) ([]Reading, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < storeFresh {
		return s.readings, s.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	s.readings, s.err = s.ask(ctx, limit)
	s.at = time.Now()
	return s.readings, s.err
}

func (s *Store) ask(ctx context.Context, limit int) ([]Reading, error) {
	infos, err := s.queues(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the store for its queues: %w", err)
	}
	var out []Reading
	for _, q := range foldQueues(infos, limit) {
		out = append(out,
			Reading{measure.QueueDepth, q.Name, float64(q.Ready)},
			Reading{measure.QueueDelayed, q.Name, float64(q.Delayed)},
			Reading{measure.QueueOldestAge, q.Name, q.Oldest.Seconds()},
			Reading{measure.DLQDepth, q.Name, float64(q.Dead)})
	}
	if s.workers == nil {
		return out, nil
	}
	beats, err := s.workers(ctx)
	if err != nil && !errors.Is(err, broker.ErrUnsupported) {
		return nil, fmt.Errorf("ask the store for its workers: %w", err)
	}
	return append(out, ages(beats, limit)...), nil
}

// ages are those of the heartbeats of workers that did not say goodbye. What is
// past the limit is folded into the oldest of them.
func ages(beats []store.Heartbeat, limit int) []Reading {
	out := make([]Reading, 0, min(len(beats), limit+1))
	now := time.Now()
	rest := Reading{Metric: measure.HeartbeatAge, Label: Other}
	for i := range beats {
		h := &beats[i]
		age := max(0, now.Sub(h.At).Seconds())
		switch {
		case h.Stopped:
		case len(out) < limit && h.Worker != Other:
			out = append(out, Reading{measure.HeartbeatAge, h.Worker, age})
		default:
			rest.Value = max(rest.Value, age)
		}
	}
	if len(beats) > limit {
		out = append(out, rest)
	}
	return out
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
