package redis

import (
	"context"
	"sync"
	"time"
)

// sweeper says when this process looks after the journals again. Whoever
// receives does it, in passing: there is no loop for it.
type sweeper struct {
	mu sync.Mutex
	at []time.Time // by partition
}

// due lists the partitions whose journal is to be looked after, and puts them
// off for as long as that may take.
func (s *sweeper) due(partitions int) (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = make([]time.Time, partitions)
	}
	now := time.Now()
	for p := range s.at {
		if now.After(s.at[p]) {
			list = append(list, p)
			s.at[p] = now.Add(time.Second)
		}
	}
	return list
}

// sweepPause is how long a process rests between two pages of a journal, so that
// sweeping takes a small part of the server's time.
const sweepPause = 20 * time.Millisecond

// sweep looks after the journals that are due.
func (db *DB) sweep(ctx context.Context) {
	for _, p := range db.sweeper.due(len(db.tags)) {
		m, err := db.run(ctx, db.scripts.sweep, p, nil)
		if err != nil {
			continue // the exchange that follows will say so
		}
		if ms, err := m.AsInt64(); err == nil {
			db.sweeper.mu.Lock()
			db.sweeper.at[p] = time.Now().Add(max(sweepPause, time.Duration(ms)*time.Millisecond))
			db.sweeper.mu.Unlock()
		}
	}
}
