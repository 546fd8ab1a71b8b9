package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/store"
)

// Heartbeats returns the store as the place of workers' heartbeats; it is a
// store.BeatFollower too.
func (db *DB) Heartbeats() store.Heartbeats { return &heartbeats{db} }

type heartbeats struct{ db *DB }

// Beat implements store.Heartbeats. One older than what is stored changes
// nothing.
func (s *heartbeats) Beat(ctx context.Context, h store.Heartbeat, ttl time.Duration) error {
	if err := s.db.check(ctx); err != nil {
		return err
	}
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("store a heartbeat of %s: %w", h.Worker, err)
	}
	stopped := "0"
	if h.Stopped {
		stopped = "1"
	}
	_, err = s.db.run(ctx, s.db.scripts.beat, 0, []string{
		h.Worker, strconv.FormatInt(max(h.At.UnixMicro(), 0), 10), strconv.FormatInt(max(ttl.Milliseconds(), 0), 10), string(data), stopped,
		s.db.topic("beats"),
	})
	if err != nil {
		return fmt.Errorf("store a heartbeat of %s: %w", h.Worker, err)
	}
	return nil
}

// Workers implements store.Heartbeats, by name.
func (s *heartbeats) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	m, err := s.db.run(ctx, s.db.scripts.beats, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	texts, err := m.AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	list := make([]store.Heartbeat, 0, len(texts))
	for _, text := range texts {
		_, data, _ := strings.Cut(text, " ")
		var h store.Heartbeat
		if err := json.Unmarshal([]byte(data), &h); err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b store.Heartbeat) int { return strings.Compare(a.Worker, b.Worker) })
	return list, nil
}

// Follow implements store.BeatFollower.
func (s *heartbeats) Follow(ctx context.Context) (store.Beats, error) {
	b := &beats{newStream[store.Heartbeat](s.db)}
	err := b.open(ctx, s.db.topic("beats"), func(message string) {
		var h store.Heartbeat
		if json.Unmarshal([]byte(message), &h) == nil {
			b.put(h, func(old *store.Heartbeat) bool { return old.Worker == h.Worker }, 1<<20)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("follow heartbeats: %w", err)
	}
	return b, nil
}

// beats is a stream of heartbeats, in which a newer one takes the place of one
// of the same worker that was not read yet.
type beats struct{ *stream[store.Heartbeat] }

// Next implements store.Beats.
func (b *beats) Next(ctx context.Context) (store.Heartbeat, error) {
	return b.next(ctx, "wait for a heartbeat")
}
