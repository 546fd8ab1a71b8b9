package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// What ears are told of. Commands, replies and heartbeats are rows; who waits
// for them is woken by a topic, and reads.
const (
	topicCommands = "commands"
	topicReplies  = "replies "
	topicBeats    = "beats"
)

// replyTime is how long a reply waits for who asked.
const replyTime = time.Minute

// Control returns the file as the channel to workers, of every process.
func (db *DB) Control() store.Control { return control{db} }

type control struct{ db *DB }

// stream is what all that waits for rows has in common.
type stream struct {
	db     *DB
	ear    <-chan struct{}
	deafen func()
	closed chan struct{}
	once   sync.Once
}

func (db *DB) newStream(topic string) *stream {
	s := &stream{db: db, closed: make(chan struct{})}
	s.ear, s.deafen = db.hub.hearTopic(topic)
	return s
}

// Close ends the stream.
func (s *stream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.deafen()
	})
	return nil
}

// check says whether the stream has ended.
func (s *stream) check(ctx context.Context) error {
	select {
	case <-s.closed:
		return broker.ErrClosed
	default:
	}
	if s.db.isClosed() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// until reads, and waits for the topic, until read has found something.
func (s *stream) until(ctx context.Context, read func(c *conn) (bool, error)) error {
	for {
		if err := s.check(ctx); err != nil {
			return err
		}
		found := false
		err := s.db.read(ctx, func(c *conn) (err error) {
			found, err = read(c)
			return err
		})
		if err != nil || found {
			return err
		}
		select {
		case <-s.ear:
		case <-s.closed:
		case <-s.db.closed:
		case <-ctx.Done():
		}
	}
}

// commands is what one worker hears.
type commands struct {
	*stream
	worker string
	last   int64 // that was read
	ready  []heard
}

type heard struct {
	command store.Command
	until   int64
}

// Listen implements store.Control.
func (x control) Listen(ctx context.Context, worker string) (store.Commands, error) {
	l := &commands{stream: x.db.newStream(topicCommands), worker: worker}
	err := l.check(ctx)
	if err == nil {
		err = x.db.read(ctx, func(c *conn) error {
			_, err := c.one("last-command", func(s *sqlite3.Stmt) { l.last = s.ColumnInt64(0) })
			return err
		})
	}
	if err != nil {
		_ = l.Close() // it never fails
		return nil, fmt.Errorf("listen to commands: %w", err)
	}
	return l, nil
}

// Next implements store.Commands.
func (l *commands) Next(ctx context.Context) (store.Command, error) {
	for {
		if err := l.check(ctx); err != nil {
			return store.Command{}, fmt.Errorf("wait for a command: %w", err)
		}
		for len(l.ready) > 0 {
			h := l.ready[0]
			l.ready = l.ready[1:]
			if time.Now().UnixMilli() < h.until {
				return h.command, nil
			}
		}
		err := l.until(ctx, func(c *conn) (bool, error) {
			l.ready = nil
			err := c.each("commands", func(s *sqlite3.Stmt) bool {
				l.last = s.ColumnInt64(0)
				var h heard
				h.until = s.ColumnInt64(1)
				if json.Unmarshal(s.ColumnRawBlob(2), &h.command) == nil && broker.Match(h.command.To, l.worker) {
					l.ready = append(l.ready, h)
				}
				return true
			}, l.last)
			return len(l.ready) > 0, err
		})
		if err != nil {
			return store.Command{}, fmt.Errorf("wait for a command: %w", err)
		}
	}
}

// Reply implements store.Commands.
func (l *commands) Reply(ctx context.Context, r store.Reply) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	r.Worker = l.worker
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("reply to %s: %w", r.Command, err)
	}
	err = l.db.write(ctx, func(t *tx) error {
		t.topics = append(t.topics, topicReplies+r.Command)
		return t.exec("add-reply", r.Command, t.now+replyTime.Milliseconds(), data)
	})
	if err != nil {
		return fmt.Errorf("reply to %s: %w", r.Command, err)
	}
	return nil
}

// replies is the stream of replies to one command.
type replies struct {
	*stream
	id    string
	last  int64 // that was read
	ready []store.Reply
}

// Ask implements store.Control. It also removes what has passed of others.
func (x control) Ask(ctx context.Context, cmd store.Command) (store.Replies, error) {
	if err := cmd.Check(); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	data, err := json.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	r := &replies{stream: x.db.newStream(topicReplies + cmd.ID), id: cmd.ID}
	if err = r.check(ctx); err == nil {
		err = x.db.write(ctx, func(t *tx) error {
			t.topics = append(t.topics, topicCommands)
			for _, statement := range []string{"expire-commands", "expire-replies"} {
				if err := t.exec(statement, t.now); err != nil {
					return err
				}
			}
			return t.exec("add-command", until(t.now, cmd.For), data)
		})
	}
	if err != nil {
		_ = r.Close() // it never fails
		return nil, fmt.Errorf("ask: %w", err)
	}
	return r, nil
}

// Next implements store.Replies.
func (r *replies) Next(ctx context.Context) (store.Reply, error) {
	err := r.check(ctx)
	if err == nil && len(r.ready) == 0 {
		err = r.until(ctx, func(c *conn) (bool, error) {
			r.ready = nil
			err := c.each("replies", func(s *sqlite3.Stmt) bool {
				r.last = s.ColumnInt64(0)
				var v store.Reply
				if json.Unmarshal(s.ColumnRawBlob(1), &v) == nil {
					r.ready = append(r.ready, v)
				}
				return true
			}, r.id, r.last)
			return len(r.ready) > 0, err
		})
	}
	if err != nil {
		return store.Reply{}, fmt.Errorf("wait for a reply: %w", err)
	}
	v := r.ready[0]
	r.ready = r.ready[1:]
	return v, nil
}

// beats is a stream of heartbeats.
type beats struct {
	*stream
	seen  map[string]int64 // the newest moment of each worker, µs
	ready []store.Heartbeat
}

// Follow implements store.BeatFollower.
func (s *heartbeats) Follow(ctx context.Context) (store.Beats, error) {
	b := &beats{stream: s.db.newStream(topicBeats), seen: map[string]int64{}}
	err := b.check(ctx)
	if err == nil {
		err = s.db.read(ctx, b.read)
	}
	if err != nil {
		_ = b.Close() // it never fails
		return nil, fmt.Errorf("follow heartbeats: %w", err)
	}
	b.ready = nil // they were there before
	return b, nil
}

// read notes what is new.
func (b *beats) read(c *conn) error {
	fresh := make(map[string]int64, len(b.seen))
	b.ready = nil
	err := c.each("beats", func(s *sqlite3.Stmt) bool {
		worker, at := s.ColumnText(0), s.ColumnInt64(1)
		fresh[worker] = at
		if last, known := b.seen[worker]; known && at <= last {
			return true
		}
		var h store.Heartbeat
		if json.Unmarshal(s.ColumnRawBlob(2), &h) == nil {
			b.ready = append(b.ready, h)
		}
		return true
	})
	if err == nil {
		b.seen = fresh
	}
	return err
}

// Next implements store.Beats.
func (b *beats) Next(ctx context.Context) (store.Heartbeat, error) {
	err := b.check(ctx)
	if err == nil && len(b.ready) == 0 {
		err = b.until(ctx, func(c *conn) (bool, error) {
			err := b.read(c)
			return len(b.ready) > 0, err
		})
	}
	if err != nil {
		return store.Heartbeat{}, fmt.Errorf("wait for a heartbeat: %w", err)
	}
	h := b.ready[0]
	b.ready = b.ready[1:]
	return h, nil
}
