package memory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// results is the result store of a DB: one client's access to it.
type results struct {
	db     *DB
	closed bool
}

func (s *results) enter(ctx context.Context, doing string) (time.Time, error) {
	now, err := s.db.enter(ctx, &s.closed)
	if err != nil {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	return now, err
}

// Get returns statuses; see store.Results.
func (s *results) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	now, err := s.enter(ctx, "get statuses")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	found := make([]store.Found, len(ids))
	for i, id := range ids {
		if r := s.db.find(id, now); r == nil || r.hidden {
			found[i].Err = store.ErrNotFound
		} else {
			r.status(&found[i].Status)
		}
	}
	return found, nil
}

// listStep is how many records a listing looks at before it lets others in.
const listStep = 1000

// List returns a page of statuses; see store.Results.
func (s *results) List(ctx context.Context, q store.Query) (store.List, error) {
	after, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return store.List{}, fmt.Errorf("list statuses: %w", err)
	}
	l := listing{query: q, at: math.MaxInt64}
	switch {
	case q.Cursor != "":
		l.at, l.id = after.At.UnixMilli(), after.ID
	case !q.Until.IsZero():
		l.at = q.Until.UnixMilli() + 1
	}
	for !l.ended {
		now, err := s.enter(ctx, "list statuses")
		if err != nil {
			return store.List{}, err
		}
		l.step(&s.db.timeline, now)
		s.db.leave()
	}
	return l.List, nil
}

// listing is a List on its way, at the record (at, id).
type listing struct {
	store.List
	query store.Query
	at    int64
	id    string
	ended bool
}

func (l *listing) step(t *timeline, now time.Time) {
	steps := 0
	l.ended = true // unless the walk is cut short
	t.walk(l.at, l.id, func(r *record) bool {
		switch {
		case !l.query.Since.IsZero() && r.at < l.query.Since.UnixMilli():
			return false
		case len(l.Statuses) == l.query.Size():
			l.Cursor = l.cursor()
			return false
		case l.Looked == store.ScanLimit:
			l.Cursor, l.Truncated = l.cursor(), true
			return false
		case steps == listStep:
			l.ended = false
			return false
		}
		l.at, l.id = r.at, r.id
		steps++
		l.look(r, now)
		return true
	})
}

func (l *listing) look(r *record, now time.Time) {
	if r.hidden || r.expires != 0 && r.expires <= now.UnixNano() {
		return
	}
	l.Looked++
	var st task.Status
	if r.status(&st); l.query.Match(&st) {
		l.Statuses = append(l.Statuses, st)
	}
}

func (l *listing) cursor() string {
	return store.Cursor{At: time.UnixMilli(l.at), ID: l.id}.String()
}

// Delete removes terminal statuses; see store.Results. The status of a dead
// letter goes without the letter.
func (s *results) Delete(ctx context.Context, ids ...string) ([]error, error) {
	now, err := s.enter(ctx, "delete statuses")
	if err != nil {
		return nil, err
	}
	defer s.db.leave()
	errs := make([]error, len(ids))
	for i, id := range ids {
		errs[i] = s.db.deleteStatus(s.db.find(id, now))
	}
	return errs, nil
}

func (db *DB) deleteStatus(r *record) error {
	switch {
	case r == nil || r.hidden:
		return store.ErrNotFound
	case !r.state.terminal() || db.pending(r):
		return store.ErrNotFinished
	case r.place == dead:
		r.hidden = true
		db.notify(r)
	default:
		db.remove(r)
	}
	return nil
}

// Close ends this result store. The DB, and its other stores, go on.
func (s *results) Close() error {
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	s.closed = true
	return nil
}

// watch is one subscription to changes of a task.
type watch struct{ changed chan struct{} }

// Subscribe tells of changes of a task; see store.Watcher.
func (s *results) Subscribe(id string) (<-chan struct{}, func()) {
	db := s.db
	w := &watch{changed: make(chan struct{}, 1)}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.watches[id] = append(db.watches[id], w)
	return w.changed, func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		rest := slices.DeleteFunc(db.watches[id], func(o *watch) bool { return o == w })
		if len(rest) > 0 {
			db.watches[id] = rest
		} else {
			delete(db.watches, id)
		}
	}
}

// notify tells those who watch the task that it changed.
func (db *DB) notify(r *record) {
	if len(db.watches) == 0 {
		return
	}
	for _, w := range db.watches[r.id] {
		select {
		case w.changed <- struct{}{}:
		default: // it is told already
		}
	}
}

// heartbeats is the store of heartbeats.
type heartbeats struct{ db *DB }

type beat struct {
	store.Heartbeat
	until int64
}

// Beat keeps a worker's heartbeat for ttl; see store.Heartbeats.
func (s *heartbeats) Beat(ctx context.Context, h store.Heartbeat, ttl time.Duration) error {
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return fmt.Errorf("store a heartbeat: %w", err)
	}
	defer s.db.leave()
	s.db.dropBeats(now)
	h.Queues, h.Running = slices.Clone(h.Queues), slices.Clone(h.Running)
	old, ok := s.db.beats[h.Worker]
	switch {
	case ok && h.At.Before(old.At):
		return nil
	case h.Stopped:
		delete(s.db.beats, h.Worker)
	default:
		s.db.beats[h.Worker] = beat{h, after(now.UnixNano(), ttl)}
	}
	s.db.wire.tell(h)
	return nil
}

// Workers lists the heartbeats that are fresh, by worker.
func (s *heartbeats) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	now, err := s.db.enter(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list heartbeats: %w", err)
	}
	defer s.db.leave()
	s.db.dropBeats(now)
	list := make([]store.Heartbeat, 0, len(s.db.beats))
	for _, b := range s.db.beats {
		h := b.Heartbeat
		h.Queues, h.Running = slices.Clone(h.Queues), slices.Clone(h.Running)
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b store.Heartbeat) int { return strings.Compare(a.Worker, b.Worker) })
	return list, nil
}
