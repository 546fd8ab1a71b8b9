package memory_test

import (
	"cmp"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// place is where the model has a task.
type place int

const (
	waits place = iota + 1 // until due, if that is set
	leased
	dead
	done
)

// modelTask is what the model knows of one task.
type modelTask struct {
	id, queue string
	priority  int
	line      int // its place among those of its priority
	place     place
	state     task.State
	due       time.Time // waits: not before; leased: end; done: when it goes
	held      bool      // its newest receipt is good
	started   bool
	redeliver bool
	revoked   bool
	receipt   broker.Receipt
	holder    broker.Consumer
	attempt   int
	starts    int
	replays   int
	errors    int
	claims    []string
}

// model is the store as simple as it can be thought of: a list of tasks.
type model struct {
	tasks  map[string]*modelTask
	claims map[string]modelClaim
	line   int
	epoch  int64 // the highest seen
}

type modelClaim struct {
	id    string
	until time.Time // zero: until it is released
}

func newModel() *model {
	return &model{tasks: map[string]*modelTask{}, claims: map[string]modelClaim{}}
}

// advance does what has become due.
func (m *model) advance(now time.Time) {
	for _, t := range m.tasks {
		if t.due.IsZero() || t.due.After(now) {
			continue
		}
		switch t.place {
		case waits:
			t.due = time.Time{}
		case leased:
			if t.revoked {
				m.cancel(t, retention, t.due)
				if !t.due.After(now) {
					m.forget(t)
				}
				continue
			}
			t.place, t.due = waits, time.Time{} // and still held
		case done:
			m.forget(t)
		}
	}
	for key, c := range m.claims {
		if !c.until.IsZero() && !c.until.After(now) {
			delete(m.claims, key)
		}
	}
}

// retention is how long the test keeps statuses.
const retention = 20 * time.Second

func (m *model) forget(t *modelTask) {
	m.endClaims(t)
	delete(m.tasks, t.id)
}

func (m *model) endClaims(t *modelTask) {
	for _, key := range t.claims {
		m.release(t.id, key)
	}
	t.claims = nil
}

func (m *model) release(id, key string) {
	if m.claims[key].id == id {
		delete(m.claims, key)
	}
}

func (m *model) cancel(t *modelTask, keep time.Duration, now time.Time) {
	m.endClaims(t)
	m.finish(t, task.Cancelled, keep, now)
}

func (m *model) finish(t *modelTask, s task.State, keep time.Duration, now time.Time) {
	t.state, t.place, t.held, t.due, t.revoked = s, done, false, time.Time{}, false
	switch {
	case keep == 0:
		m.forget(t)
	case keep > 0:
		t.due = now.Add(keep)
	}
}

func (m *model) publish(p *broker.Publication, now time.Time) (s broker.PublishState, existing string) {
	e := p.Envelope
	if m.tasks[e.ID] != nil {
		return broker.Exists, e.ID
	}
	for _, c := range p.Claims {
		if held, ok := m.claims[c.Key]; ok && (held.id != e.ID || !held.until.IsZero()) {
			return broker.Duplicate, held.id
		}
	}
	m.line++
	t := &modelTask{id: e.ID, queue: e.Queue, priority: e.Priority, line: m.line, place: waits, state: task.Queued}
	for _, c := range p.Claims {
		if c.For == 0 {
			t.claims = append(t.claims, c.Key)
			m.claims[c.Key] = modelClaim{id: e.ID}
		} else {
			m.claims[c.Key] = modelClaim{e.ID, now.Add(c.For)}
		}
	}
	if e.NotBefore.After(now) {
		t.due = e.NotBefore
	}
	m.tasks[e.ID] = t
	return broker.Stored, ""
}

// ready lists the ready tasks of a queue in the order of their delivery.
func (m *model) ready(queue string) []*modelTask {
	var list []*modelTask
	for _, t := range m.tasks {
		if t.queue == queue && t.place == waits && t.due.IsZero() {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b *modelTask) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.line, b.line))
	})
	return list
}

// lend leases a task by that delivery.
func (m *model) lend(t *modelTask, holder broker.Consumer, d *broker.Delivery, now time.Time) {
	t.redeliver = t.redeliver || t.held
	t.place, t.held, t.started, t.holder = leased, true, false, holder
	t.receipt, t.due = d.Receipt, now.Add(d.Lease)
	m.epoch = max(m.epoch, d.Receipt.Epoch)
}

// good returns the task that a receipt may settle, or nil.
func (m *model) good(r broker.Receipt) *modelTask {
	if t := m.tasks[r.ID]; t != nil && t.held && t.receipt == r {
		return t
	}
	return nil
}

func (m *model) settle(s *broker.Settlement, now time.Time) bool {
	t := m.good(s.Receipt)
	if t == nil {
		return false
	}
	o := &s.Outcome
	t.held = false
	if o.State != task.Queued {
		t.attempt = max(t.attempt, o.Attempt)
		if o.Error != nil {
			t.errors = min(t.errors+1, task.MaxAttemptErrors)
		}
	}
	for _, key := range s.Release {
		m.release(t.id, key)
	}
	switch {
	case t.revoked && !o.State.Terminal():
		m.cancel(t, retention, now)
	case o.State == task.Failed:
		t.place, t.state, t.due, t.revoked = dead, task.Failed, time.Time{}, false
	case o.State.Terminal():
		m.finish(t, o.State, o.Keep, now)
	default:
		t.place, t.state, t.due = waits, o.State, time.Time{}
		if o.NotBefore.After(now) {
			t.due = o.NotBefore
		}
		if o.State == task.Retried || !o.NotBefore.IsZero() {
			t.starts, t.redeliver = 0, false
		}
	}
	for i := range s.Followups {
		m.publish(&s.Followups[i], now)
	}
	return true
}

func (m *model) renew(r *broker.Renewal, lease time.Duration, now time.Time) bool {
	t := m.good(r.Receipt)
	if t == nil {
		return false
	}
	if r.Extend > 0 {
		lease = r.Extend
	}
	t.place, t.due = leased, now.Add(lease)
	if r.Start && !t.started {
		t.started, t.state = true, task.Running
		t.starts++
	}
	return true
}

func (m *model) revoke(id string, now time.Time) broker.RevokeState {
	t := m.tasks[id]
	switch {
	case t == nil:
		return broker.RevokeUnknown
	case t.place == done || t.place == dead:
		return broker.RevokeTooLate
	case t.place == leased:
		t.revoked = true
		return broker.RevokeAsked
	}
	m.cancel(t, retention, now)
	return broker.RevokeCancelled
}

func (m *model) replay(t *modelTask, epoch int64) {
	m.line++
	t.line, t.place, t.state, t.due = m.line, waits, task.Queued, time.Time{}
	t.starts, t.redeliver = 0, false
	t.replays++
	m.epoch = max(m.epoch, epoch)
}

// closeConsumer gives back what it has not started.
func (m *model) closeConsumer(holder broker.Consumer, now time.Time) {
	for _, t := range m.tasks {
		if t.place != leased || t.holder != holder || t.started {
			continue
		}
		t.held = false
		if t.revoked {
			m.cancel(t, retention, now)
		} else {
			t.place, t.due = waits, time.Time{}
		}
	}
}

// purge cancels what waits in a queue.
func (m *model) purge(queue string, now time.Time) (ids []string) {
	for _, t := range m.tasks {
		if t.queue == queue && t.place == waits {
			ids = append(ids, t.id)
			m.cancel(t, retention, now)
		}
	}
	return ids
}
