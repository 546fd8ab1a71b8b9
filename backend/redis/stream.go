package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// topics are the channels of the deployment that streams of this process read,
// on the hub's one subscribed connection.
type topics struct {
	mu       sync.Mutex
	channels map[string]*topic
	changed  chan struct{} // one token: somebody comes or goes
}

// topic is one channel.
type topic struct {
	readers    map[*reader]struct{}
	asked      bool          // SUBSCRIBE was sent on this connection
	subscribed chan struct{} // closed when the server has confirmed it
}

// reader is told what a channel says, and when the connection is lost.
type reader struct {
	hear func(message string)
	lost func()
}

func newTopics() *topics {
	return &topics{channels: make(map[string]*topic), changed: make(chan struct{}, 1)}
}

// add adds a reader and returns what is closed when the channel is heard.
func (t *topics) add(channel string, r *reader) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.channels[channel]
	if c == nil {
		c = &topic{readers: make(map[*reader]struct{}), subscribed: make(chan struct{})}
		t.channels[channel] = c
	}
	c.readers[r] = struct{}{}
	signal(t.changed)
	return c.subscribed
}

func (t *topics) remove(channel string, r *reader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.channels[channel]; c != nil {
		delete(c.readers, r)
		signal(t.changed)
	}
}

// sync subscribes to what was added, and ends what nobody reads.
func (t *topics) sync(ctx context.Context, client rueidis.DedicatedClient) error {
	var come, gone []string
	t.mu.Lock()
	for name, c := range t.channels {
		switch {
		case len(c.readers) == 0:
			if c.asked {
				gone = append(gone, name)
			}
			delete(t.channels, name)
		case !c.asked:
			c.asked = true
			come = append(come, name)
		}
	}
	t.mu.Unlock()
	if len(gone) > 0 {
		if err := client.Do(ctx, client.B().Unsubscribe().Channel(gone...).Build()).Error(); err != nil {
			return err
		}
	}
	if len(come) > 0 {
		return client.Do(ctx, client.B().Subscribe().Channel(come...).Build()).Error()
	}
	return nil
}

// confirmed notes that the server has subscribed the connection.
func (t *topics) confirmed(channel string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.channels[channel]; c != nil && c.asked {
		select {
		case <-c.subscribed:
		default:
			close(c.subscribed)
		}
	}
}

func (t *topics) hear(channel, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.channels[channel]; c != nil {
		for r := range c.readers {
			r.hear(message)
		}
	}
}

// lost tells those who heard a channel that it is heard no more; who waits to
// hear one goes on waiting.
func (t *topics) lost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.channels {
		c.asked = false
		select {
		case <-c.subscribed:
			for r := range c.readers {
				r.lost()
			}
			c.subscribed = make(chan struct{})
		default:
		}
	}
	signal(t.changed)
}

var errLost = errors.New("the connection was lost, and what was said since was not heard")

// stream is what one reader was told and has not read.
type stream[T any] struct {
	db   *DB
	stop func() // ends the subscription

	mu    sync.Mutex
	items []T
	err   error // after the items
	wake  chan struct{}
	ended bool
}

func newStream[T any](db *DB) *stream[T] {
	return &stream[T]{db: db, wake: make(chan struct{}, 1), stop: func() {}}
}

// open begins to hear a channel, and returns when it does.
func (s *stream[T]) open(ctx context.Context, channel string, hear func(message string)) error {
	if err := s.db.check(ctx); err != nil {
		return err
	}
	if err := s.db.hub.connect(ctx); err != nil {
		return err
	}
	t := s.db.hub.topics
	r := &reader{hear: hear, lost: s.lose}
	s.stop = sync.OnceFunc(func() { t.remove(channel, r) })
	select {
	case <-t.add(channel, r):
		return nil
	case <-s.db.closed:
		s.stop()
		return broker.ErrClosed
	case <-ctx.Done():
		s.stop()
		return ctx.Err()
	}
}

// put adds an item, in the place of an older one that it stands for; what is
// too much is dropped.
func (s *stream[T]) put(item T, replaces func(old *T) bool, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.items {
		if replaces != nil && replaces(&s.items[i]) {
			s.items[i] = item
			return
		}
	}
	if len(s.items) < most {
		s.items = append(s.items, item)
	}
	signal(s.wake)
}

func (s *stream[T]) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = fmt.Errorf("%w: %w", broker.ErrUnavailable, errLost)
	signal(s.wake)
}

// next waits for an item and takes it.
func (s *stream[T]) next(ctx context.Context, doing string) (item T, err error) {
	for {
		item, found, err := s.take()
		if err == nil && !found {
			err = s.check(ctx)
		}
		if err != nil {
			return item, fmt.Errorf("%s: %w", doing, err)
		}
		if found {
			return item, nil
		}
		select {
		case <-s.wake:
		case <-s.db.closed:
		case <-ctx.Done():
		}
	}
}

func (s *stream[T]) check(ctx context.Context) error {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return broker.ErrClosed
	}
	return s.db.check(ctx)
}

func (s *stream[T]) take() (item T, found bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return item, false, broker.ErrClosed
	case len(s.items) > 0:
		item = s.items[0]
		s.items = s.items[1:]
		return item, true, nil
	default:
		return item, false, s.err
	}
}

// Close ends the stream. It may be called again.
func (s *stream[T]) Close() error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.items = true, nil
	signal(s.wake)
	return nil
}
