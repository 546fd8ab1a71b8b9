package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// heartbeats is the file as the place of workers' heartbeats.
type heartbeats struct{ db *DB }

// Beat implements store.Heartbeats. One older than what is stored changes
// nothing.
func (s *heartbeats) Beat(ctx context.Context, h store.Heartbeat, ttl time.Duration) error {
	if s.db.isClosed() {
		return broker.ErrClosed
	}
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("store a heartbeat of %s: %w", h.Worker, err)
	}
	err = s.db.write(ctx, func(t *tx) error {
		newest := int64(0)
		at := micros(h.At)
		if _, err := t.one("heartbeat", func(s *sqlite3.Stmt) { newest = s.ColumnInt64(0) }, h.Worker, t.now); err != nil {
			return err
		}
		if at < newest {
			return nil
		}
		if err := t.exec("expire-heartbeats", t.now); err != nil {
			return err
		}
		t.topics = append(t.topics, topicBeats)
		return t.exec("set-heartbeat", h.Worker, at, until(t.now, max(ttl, 0)), data)
	})
	if err != nil {
		return fmt.Errorf("store a heartbeat of %s: %w", h.Worker, err)
	}
	return nil
}

// Workers implements store.Heartbeats, by name.
func (s *heartbeats) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	if s.db.isClosed() {
		return nil, broker.ErrClosed
	}
	var list []store.Heartbeat
	var fault error
	err := s.db.read(ctx, func(c *conn) error {
		list = nil
		return c.each("heartbeats", func(s *sqlite3.Stmt) bool {
			var h store.Heartbeat
			if fault = json.Unmarshal(s.ColumnRawBlob(0), &h); fault != nil {
				return false
			}
			if !h.Stopped {
				list = append(list, h)
			}
			return true
		}, time.Now().UnixMilli())
	})
	if err == nil {
		err = fault
	}
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return list, nil
}
