package memory

import (
	"container/heap"
	"container/list"
	"slices"
	"strings"

	"github.com/stemjobs/stem/store"
)

// plans is what a DB keeps for the scheduler: entries, locks, and the firings
// whose tasks are not known to be enqueued. Its zero value is empty.
type plans struct {
	entries map[string]*plan
	ids     []string // of the entries, in order; nil: to be made again
	due     dueHeap  // those with a NextAt
	floor   int64    // the highest version of an entry that was deleted
	locks   map[string]*lock

	pending list.List // of store.Pending, the oldest first
	waiting map[dueMoment]*list.Element

	changes int64         // how many Apply calls have changed something
	changed chan struct{} // closed with the next of them; nil: nobody waits
}

// plan is one entry.
type plan struct {
	store.Schedule
	history []store.FireRecord // the newest last
	index   int                // in the heap; -1: it is never due
}

// dueMoment names a firing: at most one of it is pending.
type dueMoment struct {
	id string
	ms int64
}

func momentFor(r *store.FireRecord) dueMoment { return dueMoment{r.ID, r.Due.UnixMilli()} }

func (p *plans) init() {
	if p.entries == nil {
		p.entries, p.locks, p.waiting = map[string]*plan{}, map[string]*lock{}, map[dueMoment]*list.Element{}
	}
}

// stir wakes who waits for a change.
func (p *plans) stir() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// sorted returns the ids in order.
func (p *plans) sorted() []string {
	if p.ids == nil && len(p.entries) > 0 {
		p.ids = make([]string, 0, len(p.entries))
		for id := range p.entries {
			p.ids = append(p.ids, id)
		}
		slices.Sort(p.ids)
	}
	return p.ids
}

// move puts an entry where its NextAt says.
func (p *plans) move(e *plan) {
	switch {
	case e.NextAt.IsZero() && e.index >= 0:
		heap.Remove(&p.due, e.index)
	case e.NextAt.IsZero():
	case e.index >= 0:
		heap.Fix(&p.due, e.index)
	default:
		heap.Push(&p.due, e)
	}
}

func (p *plans) add(e *plan) {
	p.init()
	e.index = -1
	p.entries[e.ID] = e
	p.ids = nil
}

func (p *plans) remove(e *plan) {
	if e.index >= 0 {
		heap.Remove(&p.due, e.index)
	}
	delete(p.entries, e.ID)
	p.ids = nil
	p.floor = max(p.floor, e.Version)
}

// record puts a line into an entry's history.
func (e *plan) record(r store.FireRecord) {
	if len(e.history) >= 2*store.MaxHistory {
		e.history = append(e.history[:0], e.history[len(e.history)-store.MaxHistory+1:]...)
	}
	e.history = append(e.history, r)
}

// newest returns up to limit records, the newest first.
func (e *plan) newest(limit int) []store.FireRecord {
	limit = min(limit, store.MaxHistory, len(e.history))
	list := slices.Clone(e.history[len(e.history)-limit:])
	slices.Reverse(list)
	return list
}

// dueHeap orders entries by NextAt, then id.
type dueHeap []*plan

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return earlier(h[i], h[j]) }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueHeap) Push(x any) {
	e := x.(*plan)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}

func earlier(a, b *plan) bool {
	if c := a.NextAt.Compare(b.NextAt); c != 0 {
		return c < 0
	}
	return strings.Compare(a.ID, b.ID) < 0
}

// walk calls visit with the entries in their order until it returns false,
// without taking them out: a heap of those whose parents were visited is enough
// to find the next.
func (h dueHeap) walk(visit func(e *plan) bool) {
	if len(h) == 0 {
		return
	}
	edge := front{heap: h, at: []int{0}}
	for len(edge.at) > 0 {
		i := heap.Pop(&edge).(int)
		if !visit(h[i]) {
			return
		}
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			heap.Push(&edge, child)
		}
	}
}

// front is a heap of places in a heap.
type front struct {
	heap dueHeap
	at   []int
}

func (f *front) Len() int           { return len(f.at) }
func (f *front) Less(i, j int) bool { return earlier(f.heap[f.at[i]], f.heap[f.at[j]]) }
func (f *front) Swap(i, j int)      { f.at[i], f.at[j] = f.at[j], f.at[i] }
func (f *front) Push(x any)         { f.at = append(f.at, x.(int)) }

func (f *front) Pop() any {
	last := f.at[len(f.at)-1]
	f.at = f.at[:len(f.at)-1]
	return last
}

// plans checks what is kept for the scheduler.
func (c *checker) plans() {
	p := &c.db.plans
	timed := 0
	for id, e := range p.entries {
		if e.ID != id || e.Version < 1 || len(e.Definition) == 0 {
			c.fail("schedule %s: its id is %q, version %d, %d bytes of definition", id, e.ID, e.Version, len(e.Definition))
		}
		if e.NextDue.IsZero() != e.NextAt.IsZero() || !e.NextDue.IsZero() && !e.NextDue.After(e.LastDue) {
			c.fail("schedule %s: due at %s, looked at at %s, after %s", id, e.NextDue, e.NextAt, e.LastDue)
		}
		if e.NextAt.IsZero() != (e.index < 0) || e.index >= 0 && p.due[e.index] != e {
			c.fail("schedule %s: due at %s, at index %d", id, e.NextAt, e.index)
		}
		if e.index >= 0 {
			timed++
		}
		for _, r := range e.newest(store.MaxHistory) {
			if p.waiting[momentFor(&r)] == nil && r.Outcome == store.OutcomePending {
				c.fail("schedule %s: its firing of %s says that it is pending, and is not", id, r.Due)
			}
		}
	}
	if timed != len(p.due) {
		c.fail("%d schedules have a due moment, and %d are in line", timed, len(p.due))
	}
	for i := range p.due {
		if i > 0 && earlier(p.due[i], p.due[(i-1)/2]) {
			c.fail("schedule %s comes before its parent in the heap", p.due[i].ID)
		}
	}
	if p.pending.Len() != len(p.waiting) {
		c.fail("%d firings are pending, and %d are in line", len(p.waiting), p.pending.Len())
	}
	for name, l := range p.locks {
		if l.Name != name || l.Token < 1 {
			c.fail("lock %s: its name is %q, its token %d", name, l.Name, l.Token)
		}
	}
}
