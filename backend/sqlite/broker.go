package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// fileBroker is the file as a broker.
type fileBroker struct {
	db     *DB
	closed atomic.Bool
}

// Capabilities implements broker.Declarer.
func (b *fileBroker) Capabilities() broker.Capabilities {
	return broker.Capabilities{
		Backend: "sqlite",
		Summary: "One file, several processes of one machine at once; durable.",
		Powers: []broker.Power{
			broker.PowerDurable, broker.PowerShared, broker.PowerPush, broker.PowerPriorities, broker.PowerDelays,
			broker.PowerClaims, broker.PowerFollowups, broker.PowerRevoke, broker.PowerStatuses, broker.PowerOwner,
			broker.PowerImport, broker.PowerEdit, broker.PowerPause, broker.PowerRates,
		},
		MaxSize: task.DefaultMaxSize,
	}
}

// AtomicWith implements broker.Atomic: true for the results of the same file
// and namespace, also when they were opened apart.
func (b *fileBroker) AtomicWith(resultStore any) bool {
	r, ok := resultStore.(*results)
	return ok && r.db.path == b.db.path && r.db.config.Namespace == b.db.config.Namespace
}

// Close implements broker.Broker. The file stays open for its other roles.
func (b *fileBroker) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		b.db.hub.closeConsumers(b)
	}
	return nil
}

func (b *fileBroker) check(ctx context.Context) error {
	if b.closed.Load() || b.db.isClosed() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// Publish implements broker.Broker.
func (b *fileBroker) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	items := encodeAll(batch)
	out := make([]broker.Outcome, len(batch))
	err := b.db.write(ctx, func(t *tx) error {
		for i := range items {
			var err error
			if out[i], err = t.publish(&items[i]); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Settle implements broker.Broker.
func (b *fileBroker) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	settled, err := b.db.exchange(ctx, prepareSettlements(batch), nil, nil)
	if err != nil {
		return nil, err
	}
	b.db.hub.forget(batch)
	return settled.settled, nil
}

// Renew implements broker.Broker.
func (b *fileBroker) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	renewed, err := b.db.exchange(ctx, nil, prepareRenewals(batch), nil)
	if err != nil {
		return nil, err
	}
	return renewed.renewed, nil
}

// Queues implements broker.Broker. It reads counters, never rows, but for the
// age, which is that of the oldest among the first few of each priority.
func (b *fileBroker) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	var list []broker.QueueInfo
	err := b.db.read(ctx, func(c *conn) error {
		list = nil
		now := time.Now().UnixMilli()
		var ids []int64
		add := func(s *sqlite3.Stmt) bool {
			ids = append(ids, s.ColumnInt64(0))
			list = append(list, broker.QueueInfo{
				Name: s.ColumnText(1), Ready: s.ColumnInt(2), Delayed: s.ColumnInt(3), Leased: s.ColumnInt(4), Dead: s.ColumnInt(5),
			})
			return true
		}
		if err := eachQueue(c, names, add); err != nil {
			return err
		}
		if err := c.countDue(list, ids, len(names) > 0, now); err != nil {
			return err
		}
		few := min(max(2000/max(len(ids), 1), 2), 16) // each may be a page of the file
		for i, id := range ids {
			if list[i].Ready == 0 {
				continue
			}
			oldest, err := c.oldest(id, few)
			if err != nil {
				return err
			}
			list[i].Oldest = max(time.Duration(now-oldest)*time.Millisecond, 0)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe queues: %w", err)
	}
	return fill(list, names), nil
}

// countDue counts of the delayed tasks those that are due soon: of each queue
// on its own if they were asked for by name.
func (c *conn) countDue(list []broker.QueueInfo, ids []int64, named bool, now int64) error {
	until := now + broker.DueSoon.Milliseconds()
	index := make(map[int64]int, len(ids))
	for i, id := range ids {
		if list[i].Delayed == 0 {
			continue
		}
		index[id] = i
		if !named {
			continue
		}
		due := func(s *sqlite3.Stmt) { list[i].Due = s.ColumnInt(0) }
		if _, err := c.one("due-soon-of", due, until, id, broker.DueCount); err != nil {
			return err
		}
	}
	if named || len(index) == 0 {
		return nil
	}
	return c.each("due-soon", func(s *sqlite3.Stmt) bool {
		if i, ok := index[s.ColumnInt64(0)]; ok {
			list[i].Due = s.ColumnInt(1)
		}
		return true
	}, until, broker.DueCount)
}

func eachQueue(c *conn, names []string, add func(s *sqlite3.Stmt) bool) error {
	if len(names) == 0 {
		return c.each("queues", add)
	}
	for _, name := range names {
		if err := c.each("queue", add, name); err != nil {
			return err
		}
	}
	return nil
}

// fill adds the named queues that the file does not know, and sorts by name.
func fill(list []broker.QueueInfo, names []string) []broker.QueueInfo {
	for _, name := range names {
		if !slices.ContainsFunc(list, func(q broker.QueueInfo) bool { return q.Name == name }) {
			list = append(list, broker.QueueInfo{Name: name})
		}
	}
	slices.SortFunc(list, func(a, b broker.QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(list, func(a, b broker.QueueInfo) bool { return a.Name == b.Name })
}

// oldest is since when the oldest ready task of a queue has been ready, of the first
// few of each of its priorities.
func (c *conn) oldest(queue int64, few int) (int64, error) {
	oldest := int64(forever)
	for rank := 0; ; rank++ {
		found, err := c.one("next-rank", func(s *sqlite3.Stmt) { rank = s.ColumnInt(0) }, queue, rank)
		if err != nil || !found {
			return oldest, err
		}
		err = c.each("oldest", func(s *sqlite3.Stmt) bool {
			oldest = min(oldest, s.ColumnInt64(0))
			return true
		}, queue, rank, few)
		if err != nil {
			return 0, err
		}
	}
}

// Purge implements broker.Broker.
func (b *fileBroker) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	limit := p.Limit
	if limit <= 0 {
		limit = 1000
	}
	var waiting, ids []string
	err := b.db.scan(ctx, func(c *conn) (err error) {
		queue, found, err := b.db.names.queueID(c, p.Queue)
		if err == nil && found {
			waiting, err = c.waiting(queue, limit)
		}
		return err
	})
	if err == nil && len(waiting) > 0 {
		err = b.db.write(ctx, func(t *tx) (err error) {
			ids, err = t.purge(waiting, p.Keep)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("purge queue %s: %w", p.Queue, err)
	}
	if len(ids) == 0 && len(waiting) > 0 {
		return b.Purge(ctx, p) // all of this page were taken meanwhile: there may be more
	}
	return ids, nil
}

// waiting returns the ids of the first ready and then delayed tasks of a queue.
func (c *conn) waiting(queue int64, limit int) (ids []string, err error) {
	add := func(s *sqlite3.Stmt) bool {
		ids = append(ids, s.ColumnText(1))
		return true
	}
	if err := c.each("ready", add, queue, limit); err != nil {
		return nil, err
	}
	if left := limit - len(ids); left > 0 {
		if err := c.each("delayed-of", add, queue, left); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// purge cancels those of the tasks that wait still.
func (t *tx) purge(waiting []string, keep time.Duration) (ids []string, err error) {
	for _, id := range waiting {
		var r row
		found, err := t.byID(id, &r)
		if err != nil {
			return nil, err
		}
		if !found || r.place != ready && r.place != delayed {
			continue
		}
		if err := t.cancel(&r, task.ReasonPurged, keep); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Revoke implements broker.Revoker.
func (b *fileBroker) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	out := make([]broker.RevokeAnswer, len(batch))
	err := b.db.write(ctx, func(t *tx) error {
		for i := range batch {
			var err error
			if out[i], err = t.revoke(&batch[i]); err != nil {
				return fmt.Errorf("revoke %s: %w", batch[i].ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RevokedOf implements broker.RevocationTeller.
func (b *fileBroker) RevokedOf(ctx context.Context, rs ...broker.Receipt) ([]broker.Revoked, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	var told []broker.Revoked
	err := b.db.read(ctx, func(c *conn) error {
		told = nil
		all := map[int64]broker.Revoked{} // by place in line
		err := c.each("revocations", func(s *sqlite3.Stmt) bool {
			all[s.ColumnInt64(0)] = broker.Revoked{Terminate: s.ColumnBool(1), Reason: s.ColumnText(2)}
			return true
		})
		if err != nil || len(all) == 0 {
			return err
		}
		for _, rc := range rs {
			seq, _, err := parseToken(rc.Token)
			v, asked := all[seq]
			if err != nil || !asked {
				continue
			}
			var r row
			found, err := c.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, &r) }, rc.ID)
			if err != nil {
				return err
			}
			if found && r.seq == seq && r.epoch == rc.Epoch && r.place == leased {
				v.Receipt = rc
				told = append(told, v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return told, nil
}

func (t *tx) revoke(v *broker.Revocation) (a broker.RevokeAnswer, err error) {
	reason := v.Reason
	if reason == "" {
		reason = task.ReasonRevoked
	}
	var r row
	found, err := t.byID(v.ID, &r)
	switch {
	case err != nil:
		return a, err
	case !found:
		return broker.RevokeAnswer{State: broker.RevokeUnknown}, nil
	case r.terminal():
		return broker.RevokeAnswer{State: broker.RevokeTooLate}, nil
	case r.place != leased:
		return broker.RevokeAnswer{State: broker.RevokeCancelled}, t.cancel(&r, reason, v.Keep)
	}
	worker, err := t.db.names.worker(t.conn, r.worker)
	if err != nil {
		return a, err
	}
	if err := t.exec("set-revocation", r.seq, v.Terminate, reason, int64(v.Keep)); err != nil {
		return a, err
	}
	t.revoked = true
	r.flags |= flagRevoked
	return broker.RevokeAnswer{State: broker.RevokeAsked, Worker: worker}, t.save(&r)
}

// Holds implements broker.Owner.
func (b *fileBroker) Holds(ctx context.Context, ids ...string) ([]bool, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	holds := make([]bool, len(ids))
	err := b.db.read(ctx, func(c *conn) error {
		for i, id := range ids {
			var r row
			found, err := c.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, &r) }, id)
			if err != nil {
				return err
			}
			holds[i] = found && !r.terminal()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tasks: %w", err)
	}
	return holds, nil
}
