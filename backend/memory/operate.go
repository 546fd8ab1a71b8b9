package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Capabilities declares the broker's powers.
func (t *tasks) Capabilities() broker.Capabilities {
	return broker.Capabilities{
		Backend: "memory",
		Summary: "in the process, gone with it: for tests and programs of one process",
		Powers: []broker.Power{
			broker.PowerPush, broker.PowerPriorities, broker.PowerDelays, broker.PowerClaims,
			broker.PowerFollowups, broker.PowerRevoke, broker.PowerStatuses, broker.PowerOwner, broker.PowerImport, broker.PowerEdit,
			broker.PowerPause, broker.PowerRates,
		},
		MaxSize: task.DefaultMaxSize,
	}
}

// AtomicWith reports whether the broker keeps the statuses of that store.
func (t *tasks) AtomicWith(resultStore any) bool {
	s, ok := resultStore.(*results)
	return ok && s.db == t.db
}

// Close ends this broker and its consumers. The DB, and its other brokers, go
// on, and the leases stay until they end.
func (t *tasks) Close() error {
	db := t.db
	db.mu.Lock()
	defer db.mu.Unlock()
	t.closed = true
	var own []*consumer
	for _, s := range db.selectors {
		for _, c := range s.consumers {
			if c.tasks == t && !slices.Contains(own, c) {
				own = append(own, c)
			}
		}
	}
	for _, c := range own {
		c.end()
		c.leaveSelectors()
	}
	return nil
}

// Queues describes queues; see broker.Broker. A name may be a pattern.
func (t *tasks) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("describe queues: %w", err)
	}
	defer t.db.leave()
	found := map[string]broker.QueueInfo{}
	for _, name := range names {
		if !broker.IsPattern(name) {
			found[name] = broker.QueueInfo{Name: name}
		}
	}
	for name, q := range t.db.queues {
		i := q.info(now)
		_, named := found[name]
		switch {
		case named:
		case i.Ready+i.Delayed+i.Leased+i.Dead == 0:
			continue
		case len(names) > 0 && !slices.ContainsFunc(names, func(p string) bool { return broker.Match(p, name) }):
			continue
		}
		found[name] = i
	}
	infos := make([]broker.QueueInfo, 0, len(found))
	for _, i := range found {
		infos = append(infos, i)
	}
	slices.SortFunc(infos, func(a, b broker.QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func (q *queue) info(now time.Time) broker.QueueInfo {
	i := broker.QueueInfo{Name: q.name, Ready: q.ready, Delayed: q.due.len(), Leased: q.leases.len(), Dead: q.dead}
	i.Due = q.due.until(now.Add(broker.DueSoon).UnixNano(), broker.DueCount)
	oldest := int64(lastMoment)
	for p := range q.levels {
		l := &q.levels[p]
		if l.head != nil {
			oldest = min(oldest, l.head.since)
		}
		for _, e := range l.back.entries {
			oldest = min(oldest, e.item.since)
		}
	}
	if q.ready > 0 {
		i.Oldest = max(time.Duration(now.UnixNano()-oldest), 0)
	}
	return i
}

// Purge removes one page of a queue's waiting tasks; see broker.Broker.
func (t *tasks) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("purge queue %q: %w", p.Queue, err)
	}
	defer t.db.leave()
	q := t.db.queues[p.Queue]
	if q == nil {
		return nil, nil
	}
	limit := p.Limit
	if limit <= 0 {
		limit = 1000
	}
	var ids []string
	for len(ids) < limit {
		r := q.first()
		if n := q.due.len(); r == nil && n > 0 {
			r = q.due.entries[n-1].item
		}
		if r == nil {
			break
		}
		q.detach(r)
		t.db.cancel(r, task.ReasonPurged, p.Keep, now)
		ids = append(ids, r.id)
	}
	q.reschedule()
	return ids, nil
}

// Revoke cancels tasks; see broker.Revoker.
func (t *tasks) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("revoke in memory: %w", err)
	}
	defer t.db.leave()
	answers := make([]broker.RevokeAnswer, len(batch))
	for i, rv := range batch {
		if rv.Reason == "" {
			rv.Reason = task.ReasonRevoked
		}
		answers[i] = t.db.revoke(&rv, now)
	}
	return answers, nil
}

// RevokedOf tells which leased tasks are to stop; see broker.RevocationTeller.
func (t *tasks) RevokedOf(ctx context.Context, rs ...broker.Receipt) ([]broker.Revoked, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, fmt.Errorf("read revocations in memory: %w", err)
	}
	defer t.db.leave()
	var told []broker.Revoked
	for _, rc := range rs {
		if r := t.db.heldBy(rc); r != nil && r.revocation() != nil {
			told = append(told, broker.Revoked{Receipt: rc, Terminate: r.revocation().Terminate, Reason: r.revocation().Reason})
		}
	}
	return told, nil
}

func (db *DB) revoke(rv *broker.Revocation, now time.Time) broker.RevokeAnswer {
	r := db.find(rv.ID, now)
	switch {
	case r == nil || r.place == foreign:
		return broker.RevokeAnswer{State: broker.RevokeUnknown}
	case r.place == done || r.place == dead:
		return broker.RevokeAnswer{State: broker.RevokeTooLate}
	case r.place == leased:
		if old := r.revocation(); old != nil {
			rv.Terminate = rv.Terminate || old.Terminate
		}
		r.more().revoke = rv
		c := r.holder
		c.revoked = append(c.revoked, broker.Revoked{
			Receipt: broker.Receipt{ID: r.id, Epoch: r.epoch}, Terminate: rv.Terminate, Reason: rv.Reason,
		})
		if c.waiting {
			c.signal()
		}
		return broker.RevokeAnswer{State: broker.RevokeAsked, Worker: c.sub.Worker}
	}
	r.q.detach(r)
	r.q.reschedule()
	db.cancel(r, rv.Reason, rv.Keep, now)
	return broker.RevokeAnswer{State: broker.RevokeCancelled}
}

// Holds tells which tasks are still to be brought to an end; see broker.Owner.
func (t *tasks) Holds(ctx context.Context, ids ...string) ([]bool, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, fmt.Errorf("look for tasks: %w", err)
	}
	defer t.db.leave()
	held := make([]bool, len(ids))
	for i, id := range ids {
		if r := t.db.records[id]; r != nil {
			held[i] = r.place == ready || r.place == delayed || r.place == leased
		}
	}
	return held, nil
}
