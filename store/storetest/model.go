package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// modelRecord is what the model knows of one record.
type modelRecord struct {
	state    task.State
	epoch    int64
	attempt  int
	replays  int
	recorded *store.Record // the last outcome, when nothing followed it
	outbox   bool
}

// model plays random operations on a store and on itself, and compares.
type model struct {
	*env
	r       *rand.Rand
	ids     []string
	records map[string]*modelRecord
}

const modelSteps = 300

// testModel plays modelSteps random operations, comparing after each.
func testModel(e *env) {
	seed := e.o.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	e.Logf("random operations: repeat with Options.Seed = %d", seed)
	m := &model{env: e, r: rand.New(rand.NewPCG(seed, 2)), records: make(map[string]*modelRecord)}
	for i := range 8 {
		m.ids = append(m.ids, fmt.Sprintf("m%d", i))
	}
	for step := range modelSteps {
		id := m.ids[m.r.IntN(len(m.ids))]
		what := m.step(id)
		if m.compare(id); e.Failed() {
			e.Fatalf("after step %d, %s of %s", step, what, id)
		}
	}
	m.listAll()
}

func (m *model) step(id string) string {
	switch n := m.r.IntN(100); {
	case n < 15:
		return m.createOne(id)
	case n < 45:
		return m.startOne(id)
	case n < 80:
		return m.recordOne(id)
	case n < 87:
		return m.clearOne(id)
	case n < 95:
		return m.requeueOne(id)
	default:
		return m.deleteOne(id)
	}
}

// epoch is about that of the record: an older one, the same, or a newer one.
func (m *model) epoch(id string) int64 {
	if r := m.records[id]; r != nil {
		return max(0, r.epoch+int64(m.r.IntN(4))-1)
	}
	return int64(1 + m.r.IntN(2))
}

func (m *model) createOne(id string) string {
	err := m.tryCreate([]task.Status{task.NewStatus(envelope(id))})[0]
	if m.records[id] != nil {
		m.is("Create of what is there", err, store.ErrExists)
		return "Create"
	}
	m.is("Create", err, nil)
	m.records[id] = &modelRecord{state: task.Queued}
	return "Create"
}

func (m *model) startOne(id string) string {
	u := startOf(id, m.epoch(id))
	r := m.records[id]
	if r != nil {
		u.Attempt, u.Replays = r.attempt, r.replays
		if r.outbox && r.state == task.Retried && m.r.IntN(2) == 0 {
			u.Attempt-- // the attempt that was retried, delivered again
		}
	}
	a := m.update(u)
	what := fmt.Sprintf("a start at epoch %d", u.Epoch)
	switch {
	case r == nil:
		m.records[id] = &modelRecord{state: task.Running, epoch: u.Epoch}
	case u.Epoch < r.epoch:
		m.is(what, a.Err, store.ErrStale)
		return what
	case r.state.Terminal() || u.Attempt < r.attempt:
		if a.Stored == nil || a.Stored.Outcome.State != r.state {
			m.Errorf("%s of what is %s: stored %+v", what, r.state, a.Stored)
		}
		r.epoch = u.Epoch
		r.recorded = nil
	default:
		r.state, r.epoch, r.recorded, r.outbox = task.Running, u.Epoch, nil, false
		if a.Stored != nil {
			m.Errorf("%s found %+v, and nothing was stored", what, a.Stored)
		}
	}
	m.is(what, a.Err, nil)
	return what
}

func (m *model) recordOne(id string) string {
	states := []task.State{task.Succeeded, task.Failed, task.Failed, task.Retried, task.Retried, task.Queued, task.Cancelled}
	r := m.records[id]
	rec := outcomeOf(id, m.epoch(id), states[m.r.IntN(len(states))])
	if r != nil {
		rec.Outcome.Attempt += r.attempt
	}
	if r != nil && r.recorded != nil && m.r.IntN(4) == 0 {
		rec = *r.recorded // the same again
	}
	to := rec.Outcome.State
	if r != nil && r.recorded == nil && rec.Epoch == r.epoch && to == r.state && to != task.Queued {
		return "nothing" // the epoch of a start that found the outcome: nobody records under it
	}
	what := fmt.Sprintf("%s at epoch %d", to, rec.Epoch)
	err := m.tryRecord(rec)
	switch {
	case r == nil && (errors.Is(err, store.ErrStale) || err == nil):
		// What an outcome of an unknown task comes to is the table's business.
		if err == nil {
			m.records[id] = &modelRecord{state: to, epoch: rec.Epoch, attempt: rec.Outcome.Attempt, recorded: &rec, outbox: to == task.Retried}
		}
	case r == nil:
		m.Errorf("%s: %v", what, err)
	case r.recorded != nil && rec.Epoch == r.recorded.Epoch && to == r.recorded.Outcome.State:
		m.is(what+" again", err, nil)
	case rec.Epoch < r.epoch || !legal(r.state, to) || r.state == task.Failed:
		m.is(what+", from "+string(r.state), err, store.ErrStale)
	default:
		m.is(what+", from "+string(r.state), err, nil)
		*r = modelRecord{state: to, epoch: rec.Epoch, attempt: rec.Outcome.Attempt, replays: r.replays, recorded: &rec, outbox: to == task.Retried}
	}
	return what
}

func (m *model) clearOne(id string) string {
	epoch := m.epoch(id)
	m.clear(id, epoch)
	if r := m.records[id]; r != nil && r.epoch == epoch {
		r.outbox = false
	}
	return "Clear"
}

func (m *model) requeueOne(id string) string {
	r := m.records[id]
	if r == nil {
		m.is("Requeue of what is not there", m.requeue(id, 1, 1, now()), store.ErrNotFound)
		return "Requeue"
	}
	epoch := r.epoch + 1
	if r.state != task.Failed {
		_ = m.requeue(id, epoch, r.replays, now()) // of a replay that was told before
		return "Requeue again"
	}
	m.is("Requeue", m.requeue(id, epoch, r.replays+1, now()), nil)
	r.state, r.epoch, r.recorded, r.outbox = task.Queued, epoch, nil, false
	r.replays++
	return "Requeue"
}

func (m *model) deleteOne(id string) string {
	errs, err := m.Results.Delete(m.ctx, id)
	if err != nil || len(errs) != 1 {
		m.Fatalf("Delete: %v, %v", errs, err)
	}
	r := m.records[id]
	switch {
	case r == nil:
		m.is("Delete of what is not there", errs[0], store.ErrNotFound)
	case !r.state.Terminal():
		m.is("Delete of what is "+string(r.state), errs[0], store.ErrNotFinished)
	default:
		m.is("Delete", errs[0], nil)
		delete(m.records, id)
	}
	return "Delete"
}

// compare checks one record against the model.
func (m *model) compare(id string) {
	s, kept := m.find(id)
	r := m.records[id]
	if kept != (r != nil) {
		m.Errorf("%s is kept: %v; the model has %+v", id, kept, r)
		return
	}
	if r == nil {
		return
	}
	if s.State != r.state || s.Epoch != r.epoch || s.Attempt != r.attempt || s.ReplayCount != r.replays {
		m.Errorf("%s is %s, epoch %d, attempt %d, %d replays; the model has %+v", id, s.State, s.Epoch, s.Attempt, s.ReplayCount, *r)
	}
}

// listAll checks that the listing has each record, in its state.
func (m *model) listAll() {
	l, err := m.Results.List(m.ctx, store.Query{})
	if err != nil || len(l.Statuses) != len(m.records) || !slices.IsSortedFunc(l.Statuses, newestFirst) {
		m.Errorf("listing at the end: %d of %d, error %v", len(l.Statuses), len(m.records), err)
	}
	for _, s := range l.Statuses {
		if r := m.records[s.ID]; r == nil || r.state != s.State {
			m.Errorf("listing at the end: %s is %s; the model has %+v", s.ID, s.State, r)
		}
	}
}
