package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Pause stops queues from being handed out; see broker.Pauser.
func (t *tasks) Pause(ctx context.Context, batch []broker.Pause) error {
	for _, p := range batch {
		if err := checkPause(p); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	defer t.db.leave()
	for _, p := range batch {
		p.Since = now.UTC()
		if old, ok := t.db.pauses[p.Queue]; ok {
			p.Since = old.Since
			p.Note = cmp.Or(p.Note, old.Note)
		}
		t.db.pauses[p.Queue] = p
		if q := t.db.queues[p.Queue]; q != nil {
			q.setPaused(true)
		}
	}
	return nil
}

func checkPause(p broker.Pause) error {
	if err := task.ValidateQueue(p.Queue); err != nil {
		return err
	}
	if len(p.Note) > broker.MaxPauseNote {
		return fmt.Errorf("%w note of queue %s: %d bytes, more than %d", task.ErrInvalid, p.Queue, len(p.Note), broker.MaxPauseNote)
	}
	return nil
}

// Resume lets queues go on; see broker.Pauser.
func (t *tasks) Resume(ctx context.Context, queues ...string) ([]bool, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	defer t.db.leave()
	paused := make([]bool, len(queues))
	for i, name := range queues {
		_, paused[i] = t.db.pauses[name]
		delete(t.db.pauses, name)
		if q := t.db.queues[name]; q != nil {
			q.setPaused(false)
		}
	}
	return paused, nil
}

// Pauses lists the paused queues; see broker.Pauser.
func (t *tasks) Pauses(ctx context.Context) ([]broker.Pause, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, fmt.Errorf("list paused queues: %w", err)
	}
	defer t.db.leave()
	list := make([]broker.Pause, 0, len(t.db.pauses))
	for _, name := range slices.Sorted(maps.Keys(t.db.pauses)) {
		list = append(list, t.db.pauses[name])
	}
	return list, nil
}

// open reports whether the queue has something to hand out.
func (q *queue) open() bool { return q.ready > 0 && !q.paused }

// setPaused takes a queue with ready tasks from those that are served, or puts
// it there and has its consumers woken.
func (q *queue) setPaused(paused bool) {
	was := q.open()
	q.paused = paused
	is := q.open()
	if was == is {
		return
	}
	for i := range q.links {
		if is {
			q.links[i].selector.fill(q, i)
		} else {
			q.links[i].selector.drain(q, i)
		}
	}
	if is {
		q.touch()
	}
}

// touch has consumers woken for the queue at the end of the call.
func (q *queue) touch() {
	if !q.touched {
		q.touched = true
		q.db.touched = append(q.db.touched, q)
	}
}

// Revocations lists what is still to be stopped; see broker.RevocationLister.
// The cursor is the last id.
func (t *tasks) Revocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	if _, err := t.db.enter(ctx, &t.closed); err != nil {
		return nil, "", fmt.Errorf("list revocations: %w", err)
	}
	defer t.db.leave()
	var list []broker.PendingRevocation
	for _, r := range t.db.held {
		if rv := r.revocation(); rv != nil && r.id > p.Cursor {
			list = append(list, broker.PendingRevocation{
				ID: r.id, Worker: r.holder.sub.Worker, Terminate: rv.Terminate, Reason: rv.Reason,
			})
		}
	}
	slices.SortFunc(list, func(a, b broker.PendingRevocation) int { return cmp.Compare(a.ID, b.ID) })
	if size := p.Size(); len(list) > size {
		return list[:size], list[size-1].ID, nil
	}
	return list, "", nil
}
