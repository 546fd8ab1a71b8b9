package runner

import (
	"sync"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// Tally counts executions that no runner of this process did, with the metrics
// that a runner has. It is safe for concurrent use.
type Tally struct {
	renewed measure.Counter
	lost    measure.Counter
	timed   bool

	mu  sync.Mutex
	all *registry
}

// NewTally makes a tally. worker is the label of what is counted by worker.
func NewTally(m measure.Meter, worker string) *Tally {
	return &Tally{
		renewed: m.Counter(measure.LeaseRenewed, worker), lost: m.Counter(measure.LeaseLost, worker),
		timed: m != measure.None, all: newRegistry(m),
	}
}

// on runs count with the marks of a delivery's task, alone.
func (t *Tally) on(d *broker.Delivery, count func(m *marks)) {
	name, queue := d.Envelope.Name, d.Queue
	if name == "" { // nothing is known but its receipt
		name, queue = "other", "other"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	count(t.all.of(name, queue))
}

// Received counts a delivery, if its task was delivered before.
func (t *Tally) Received(d *broker.Delivery) {
	if d.Redelivered {
		t.on(d, func(m *marks) { m.redelivered.Add(1) })
	}
}

// Started counts a delivery that somebody starts.
func (t *Tally) Started(d *broker.Delivery) {
	t.on(d, func(m *marks) { m.started.Add(1) })
}

// Ended counts an outcome that is in the store now.
func (t *Tally) Ended(d *broker.Delivery, o *task.Outcome) {
	t.on(d, func(m *marks) { m.ended(d, o, measure.TraceOf(d.Envelope.Headers), t.timed) })
}

// Renewed counts leases that were extended.
func (t *Tally) Renewed(leases int) { t.renewed.Add(float64(leases)) }

// Lost counts a delivery whose lease passed to another worker.
func (t *Tally) Lost(d *broker.Delivery) {
	t.lost.Add(1)
	t.on(d, func(m *marks) { m.leaseLost.Add(1) })
}
