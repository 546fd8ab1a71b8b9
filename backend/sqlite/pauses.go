package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Pause implements broker.Pauser.
func (b *fileBroker) Pause(ctx context.Context, batch []broker.Pause) error {
	if err := b.check(ctx); err != nil {
		return err
	}
	for _, p := range batch {
		if err := task.ValidateQueue(p.Queue); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
		if len(p.Note) > broker.MaxPauseNote {
			return fmt.Errorf("pause: %w note of queue %s: %d bytes, more than %d", task.ErrInvalid, p.Queue, len(p.Note), broker.MaxPauseNote)
		}
	}
	err := b.db.write(ctx, func(t *tx) error {
		for _, p := range batch {
			queue, err := t.queueID(p.Queue)
			if err != nil {
				return err
			}
			if err := t.exec("set-pause", queue, p.Note, t.now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// Resume implements broker.Pauser.
func (b *fileBroker) Resume(ctx context.Context, queues ...string) ([]bool, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	paused := make([]bool, len(queues))
	err := b.db.write(ctx, func(t *tx) error {
		for i, name := range queues {
			queue, found, err := t.db.names.queueID(t.conn, name)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			if paused[i], err = t.one("delete-pause", func(*sqlite3.Stmt) {}, queue); err != nil {
				return err
			}
			if paused[i] {
				t.wake(queue, 1)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	return paused, nil
}

// Pauses implements broker.Pauser.
func (b *fileBroker) Pauses(ctx context.Context) ([]broker.Pause, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	var list []broker.Pause
	err := b.db.read(ctx, func(c *conn) error {
		list = nil
		return c.each("pauses", func(s *sqlite3.Stmt) bool {
			list = append(list, broker.Pause{
				Queue: s.ColumnText(0), Note: s.ColumnText(1), Since: time.UnixMilli(s.ColumnInt64(2)).UTC(),
			})
			return true
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list paused queues: %w", err)
	}
	return list, nil
}

// paused has the queues that are paused; mostly there are none, and it is nil.
func (c *conn) paused() (set map[int64]bool, err error) {
	err = c.each("paused", func(s *sqlite3.Stmt) bool {
		if set == nil {
			set = make(map[int64]bool)
		}
		set[s.ColumnInt64(0)] = true
		return true
	})
	return set, err
}

// wakeNobodyPaused forgets that paused queues got work: nobody is to be woken
// for it.
func (t *tx) wakeNobodyPaused() error {
	if len(t.woken) == 0 && len(t.soon) == 0 {
		return nil
	}
	paused, err := t.paused()
	for queue := range paused {
		delete(t.woken, queue)
		delete(t.soon, queue)
	}
	return err
}

// Revocations implements broker.RevocationLister. The cursor is the place in
// line of the last one.
func (b *fileBroker) Revocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	if err := b.check(ctx); err != nil {
		return nil, "", err
	}
	after := int64(0)
	if p.Cursor != "" {
		n, err := strconv.ParseInt(p.Cursor, 10, 64)
		if err != nil {
			return nil, "", fmt.Errorf("list revocations: %w cursor %.80q: use one that a page gave", task.ErrInvalid, p.Cursor)
		}
		after = n
	}
	var list []broker.PendingRevocation
	var next string
	err := b.db.read(ctx, func(c *conn) error {
		list, next = nil, ""
		var workers []int64
		last := int64(0)
		err := c.each("pending-revocations", func(s *sqlite3.Stmt) bool {
			if len(list) == p.Size() {
				next = strconv.FormatInt(last, 10)
				return false
			}
			last = s.ColumnInt64(0)
			list = append(list, broker.PendingRevocation{ID: s.ColumnText(1), Terminate: s.ColumnBool(3), Reason: s.ColumnText(4)})
			workers = append(workers, s.ColumnInt64(2))
			return true
		}, after, p.Size()+1)
		for i := 0; err == nil && i < len(list); i++ {
			list[i].Worker, err = b.db.names.worker(c, workers[i])
		}
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list revocations: %w", err)
	}
	return list, next, nil
}
