package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// listed is how many entries and ids a replay or a purge names.
const listed = 1000

// Queues implements broker.Broker.
func (b *Broker) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	infos := make(map[string]*broker.QueueInfo)
	for _, name := range names {
		infos[name] = &broker.QueueInfo{Name: name}
	}
	now := time.Now()
	b.takeBack(now)
	for _, e := range b.entries {
		q := infos[e.queue]
		if q == nil && len(names) > 0 {
			continue
		}
		if q == nil {
			q = &broker.QueueInfo{Name: e.queue}
			infos[e.queue] = q
		}
		switch {
		case e.place == dead:
			q.Dead++
		case !e.waits():
			q.Leased++
		case e.due.After(now):
			q.Delayed++
			if !e.due.After(now.Add(broker.DueSoon)) {
				q.Due++
			}
		default:
			q.Ready++
			q.Oldest = max(q.Oldest, now.Sub(e.readySince))
		}
	}
	sorted := make([]broker.QueueInfo, 0, len(infos))
	for _, name := range slices.Sorted(maps.Keys(infos)) {
		sorted = append(sorted, *infos[name])
	}
	return sorted, nil
}

// Purge implements broker.Broker.
func (b *Broker) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	limit := p.Limit
	if limit <= 0 {
		limit = listed
	}
	var ids []string
	for _, e := range b.inOrder(func(e *entry) bool { return e.waits() && e.queue == p.Queue }) {
		if len(ids) == limit {
			break
		}
		ids = append(ids, e.envelope.ID)
		delete(b.entries, e.envelope.ID)
	}
	return ids, nil
}

// DeadLetters implements broker.Broker.
func (b *Broker) DeadLetters() broker.DeadLetters { return deadLetters{b} }

type deadLetters struct{ b *Broker }

func (e *entry) deadLetter() broker.DeadLetter {
	d := broker.DeadLetter{
		Envelope: e.envelope, Queue: e.queue, Reason: e.reason, Errors: slices.Clone(e.errors),
		Attempt: e.attempt, Epoch: e.epoch, DeadAt: e.deadAt, ReplayCount: e.replays, LastReplayAt: e.lastReplay,
	}
	if n := len(d.Errors); n > 0 {
		d.Error = &d.Errors[n-1]
	}
	return d
}

// selected lists the dead letters that a filter selects, oldest first, at most
// limit of them where it is not 0.
func (l deadLetters) selected(f broker.DeadFilter, limit int) []*entry {
	found := l.b.inOrder(func(e *entry) bool {
		if e.place != dead {
			return false
		}
		d := e.deadLetter()
		return f.Match(&d)
	})
	if limit > 0 && len(found) > limit {
		found = found[:limit]
	}
	return found
}

// ListDeadLetters implements broker.DeadLetters. A cursor is the number of the
// last death on the page before.
func (l deadLetters) ListDeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	before := int64(0)
	if p.Cursor != "" {
		n, err := strconv.ParseInt(p.Cursor, 10, 64)
		if err != nil {
			return nil, "", fmt.Errorf("%w cursor %q: want one that a page before gave", task.ErrInvalid, p.Cursor)
		}
		before = n
	}
	if err := l.b.enter(ctx); err != nil {
		return nil, "", err
	}
	defer l.b.mu.Unlock()
	var page []broker.DeadLetter
	last := int64(0)
	for _, e := range slices.Backward(l.selected(f, 0)) {
		if before > 0 && e.death >= before {
			continue
		}
		if len(page) == p.Size() {
			return page, strconv.FormatInt(last, 10), nil
		}
		page, last = append(page, e.deadLetter()), e.death
	}
	return page, "", nil
}

// ReplayDeadLetters implements broker.DeadLetters.
func (l deadLetters) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	if o.Edited != nil { // it does not declare broker.PowerEdit
		return broker.Replayed{}, fmt.Errorf("edit a dead letter: %w", broker.ErrUnsupported)
	}
	if err := l.b.enter(ctx); err != nil {
		return broker.Replayed{}, err
	}
	defer l.b.mu.Unlock()
	now := time.Now()
	var r broker.Replayed
	for _, e := range l.selected(f, o.Limit) {
		if !o.DryRun {
			e.place, e.death = waiting, 0
			e.due, e.readySince = o.NotBefore, later(now, o.NotBefore)
			e.epoch, e.publication = l.b.tick(), l.b.tick()
			e.retryBase, e.starts, e.redelivered = e.attempt, 0, false
			e.replays++
			e.lastReplay = now
		}
		r.Count++
		if len(r.Entries) < listed {
			r.Entries = append(r.Entries, broker.ReplayedTask{
				ID: e.envelope.ID, Queue: e.queue, Epoch: e.epoch, ReplayCount: e.replays, ReplayedAt: now,
			})
		}
	}
	l.b.wake()
	return r, nil
}

// PurgeDeadLetters implements broker.DeadLetters.
func (l deadLetters) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	if err := l.b.enter(ctx); err != nil {
		return broker.Purged{}, err
	}
	defer l.b.mu.Unlock()
	var p broker.Purged
	for _, e := range l.selected(f, o.Limit) {
		if !o.DryRun {
			delete(l.b.entries, e.envelope.ID)
		}
		p.Count++
		if len(p.IDs) < listed {
			p.IDs = append(p.IDs, e.envelope.ID)
		}
	}
	return p, nil
}
