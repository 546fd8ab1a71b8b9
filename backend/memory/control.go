package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// How much is kept for who does not read (rule C4).
const (
	mostCommands = 256
	mostReplies  = 4096
)

// Control returns the channel to the workers of this DB.
func (db *DB) Control() store.Control { return control{db} }

type control struct{ db *DB }

// wire is everything that is told to streams, under DB.mu.
type wire struct {
	listeners []*commands
	asked     map[string][]*stream[store.Reply] // by the command's id
	followers []*stream[store.Heartbeat]
}

// stream is what one reader is told and has not read. Its fields are guarded
// by DB.mu.
type stream[T any] struct {
	db    *DB
	items []timed[T]
	wake  chan struct{} // one token: something is new
	ended bool
}

// timed is an item that is worth reading until a moment; 0: always.
type timed[T any] struct {
	item  T
	until int64
}

func newStream[T any](db *DB) *stream[T] { return &stream[T]{db: db, wake: make(chan struct{}, 1)} }

// add is called under DB.mu.
func (s *stream[T]) add(item T, until int64, most int) {
	if len(s.items) < most {
		s.items = append(s.items, timed[T]{item, until})
	}
	s.stir()
}

func (s *stream[T]) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next waits for an item and takes it.
func (s *stream[T]) next(ctx context.Context, doing string) (item T, err error) {
	for {
		item, found, err := s.take(ctx)
		if err != nil {
			return item, fmt.Errorf("%s: %w", doing, err)
		}
		if found {
			return item, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

func (s *stream[T]) take(ctx context.Context) (item T, found bool, err error) {
	now, err := s.db.enter(ctx, &s.ended)
	if err != nil {
		return item, false, err
	}
	defer s.db.leave()
	for len(s.items) > 0 {
		t := s.items[0]
		s.items[0] = timed[T]{}
		s.items = s.items[1:]
		if t.until == 0 || now.UnixNano() < t.until {
			return t.item, true, nil
		}
	}
	return item, false, nil
}

// end ends the stream, under DB.mu.
func (s *stream[T]) end() {
	s.ended, s.items = true, nil
	s.stir()
}

// commands is what one worker hears.
type commands struct {
	*stream[store.Command]
	worker string
}

// Listen hears commands; see store.Control.
func (c control) Listen(ctx context.Context, worker string) (store.Commands, error) {
	if _, err := c.db.enter(ctx, nil); err != nil {
		return nil, fmt.Errorf("listen to commands: %w", err)
	}
	defer c.db.leave()
	l := &commands{newStream[store.Command](c.db), worker}
	c.db.wire.listeners = append(c.db.wire.listeners, l)
	return l, nil
}

// Ask sends a command; see store.Control.
func (c control) Ask(ctx context.Context, cmd store.Command) (store.Replies, error) {
	if err := cmd.Check(); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	now, err := c.db.enter(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	defer c.db.leave()
	w := &c.db.wire
	r := &replies{newStream[store.Reply](c.db), cmd.ID}
	if w.asked == nil {
		w.asked = map[string][]*stream[store.Reply]{}
	}
	w.asked[cmd.ID] = append(w.asked[cmd.ID], r.stream)
	until := after(now.UnixNano(), cmd.For)
	for _, l := range w.listeners {
		if broker.Match(cmd.To, l.worker) {
			l.add(cmd, until, mostCommands)
		}
	}
	return r, nil
}

// Next is the next command; see store.Commands.
func (l *commands) Next(ctx context.Context) (store.Command, error) {
	return l.next(ctx, "wait for a command")
}

// Reply answers a command; see store.Commands.
func (l *commands) Reply(ctx context.Context, r store.Reply) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if _, err := l.db.enter(ctx, &l.ended); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	defer l.db.leave()
	r.Worker = l.worker
	for _, s := range l.db.wire.asked[r.Command] {
		s.add(r, 0, mostReplies)
	}
	return nil
}

// Close ends the listening.
func (l *commands) Close() error {
	l.db.mu.Lock()
	defer l.db.mu.Unlock()
	l.end()
	l.db.wire.listeners = without(l.db.wire.listeners, l)
	return nil
}

// replies is the stream of replies to one command.
type replies struct {
	*stream[store.Reply]
	id string
}

// Next is the next reply; see store.Replies.
func (r *replies) Next(ctx context.Context) (store.Reply, error) {
	return r.next(ctx, "wait for a reply")
}

// Close ends the stream.
func (r *replies) Close() error {
	r.db.mu.Lock()
	defer r.db.mu.Unlock()
	r.end()
	w := &r.db.wire
	if w.asked[r.id] = without(w.asked[r.id], r.stream); len(w.asked[r.id]) == 0 {
		delete(w.asked, r.id)
	}
	return nil
}

// beats is a stream of heartbeats.
type beats struct{ *stream[store.Heartbeat] }

// Follow tells of heartbeats as they come; see store.BeatFollower.
func (s *heartbeats) Follow(ctx context.Context) (store.Beats, error) {
	if _, err := s.db.enter(ctx, nil); err != nil {
		return nil, fmt.Errorf("follow heartbeats: %w", err)
	}
	defer s.db.leave()
	b := &beats{newStream[store.Heartbeat](s.db)}
	s.db.wire.followers = append(s.db.wire.followers, b.stream)
	return b, nil
}

// Next is the next heartbeat; see store.Beats.
func (b *beats) Next(ctx context.Context) (store.Heartbeat, error) {
	return b.next(ctx, "wait for a heartbeat")
}

// Close ends the stream.
func (b *beats) Close() error {
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	b.end()
	b.db.wire.followers = without(b.db.wire.followers, b.stream)
	return nil
}

// tell passes a heartbeat to who follows, in the place of an older one of the
// same worker that was not read yet. It is called under DB.mu.
func (w *wire) tell(h store.Heartbeat) {
	for _, s := range w.followers {
		newer := false
		for i := range s.items {
			if s.items[i].item.Worker == h.Worker {
				s.items[i].item, newer = h, true
			}
		}
		if !newer {
			s.add(h, 0, 1<<30)
		}
	}
}

// stir makes every waiting Next look again: the DB was closed.
func (w *wire) stir() {
	for _, l := range w.listeners {
		l.stir()
	}
	for _, list := range w.asked {
		for _, s := range list {
			s.stir()
		}
	}
	for _, s := range w.followers {
		s.stir()
	}
}

func without[T comparable](list []T, item T) []T {
	var rest []T
	for _, x := range list {
		if x != item {
			rest = append(rest, x)
		}
	}
	return rest
}

// dropBeats forgets the heartbeats whose time has passed.
func (db *DB) dropBeats(now time.Time) {
	for w, b := range db.beats {
		if b.until <= now.UnixNano() {
			delete(db.beats, w)
		}
	}
}
