package brokertest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// place is where the model holds a task.
type place int

const (
	absent place = iota
	ready
	delayed // for longer than the test
	lapsed  // its lease has ended; it is ready as soon as the broker sees that
	leased
	dead
	ended // with a kept status, where statuses are kept
)

// modelTask is what the model knows of one task.
type modelTask struct {
	id       string
	queue    string
	priority int
	place    place
	attempt  int
	starts   int
	replays  int
	epoch    int64 // the highest seen
	delivery broker.Delivery
	holder   *consumer         // of the delivery
	started  bool              // under the present lease
	marked   bool              // it may be marked as redelivered
	old      []broker.Delivery // earlier ones, which must have no effect
}

// model plays random operations on a broker and on itself, and compares.
type model struct {
	*env
	r         *rand.Rand
	tasks     map[string]*modelTask
	ids       []string
	consumers []*consumer
	revoker   broker.Revoker
	pauser    broker.Pauser
	paused    map[string]bool
}

const modelSteps = 250

// testModel plays modelSteps random operations, compares after each, and at
// last drains the broker.
func testModel(e *env) {
	seed := e.o.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	e.Logf("random operations: repeat with Options.Seed = %d", seed)
	m := &model{env: e, r: rand.New(rand.NewPCG(seed, 1)), tasks: make(map[string]*modelTask), paused: make(map[string]bool)}
	for i := range 30 {
		m.ids = append(m.ids, fmt.Sprintf("m%02d", i))
	}
	m.consumers = []*consumer{e.open("q0", "q1"), e.open("q1"), e.open("q*")}
	m.revoker, _ = broker.As[broker.Revoker](e.Broker)
	m.pauser, _ = broker.As[broker.Pauser](e.Broker)
	for step := range modelSteps {
		what := m.step()
		if step%100 == 99 {
			what = m.expire()
		}
		if m.compare(); e.Failed() {
			e.Fatalf("after step %d, %s", step, what)
		}
	}
	m.drain()
}

// step does one random operation and says which.
func (m *model) step() string {
	switch n := m.r.IntN(100); {
	case n < 30:
		return m.publishSome()
	case n < 55:
		return m.exchangeSome()
	case n < 70:
		return m.settleByReceipt()
	case n < 76:
		return m.stale()
	case n < 82:
		return m.reopen()
	case n < 88:
		return m.replayOne()
	case n < 92:
		return m.purgeDeadOne()
	case n < 93:
		return m.purgeQueue()
	case n < 96:
		return m.pauseOne()
	default:
		return m.revokeOne()
	}
}

// in lists the tasks in one place, by id.
func (m *model) in(p place) (found []*modelTask) {
	for _, id := range m.ids {
		if t := m.tasks[id]; t != nil && t.place == p {
			found = append(found, t)
		}
	}
	return found
}

// pick returns a random task in that place, or nil.
func (m *model) pick(p place) *modelTask {
	all := m.in(p)
	if len(all) == 0 {
		return nil
	}
	return all[m.r.IntN(len(all))]
}

func (m *model) publishSome() string {
	var batch []broker.Publication
	for range 1 + m.r.IntN(4) {
		id := m.ids[m.r.IntN(len(m.ids))]
		v := envelope(id, onQueue(fmt.Sprintf("q%d", m.r.IntN(2))), priority(m.r.IntN(10)))
		if m.has(broker.PowerDelays) && m.r.IntN(6) == 0 {
			v.NotBefore = now().Add(long)
		}
		batch = append(batch, broker.Publication{Envelope: v})
	}
	for i, o := range m.offer(batch...) {
		v := batch[i].Envelope
		t := m.tasks[v.ID]
		want := broker.Exists
		if t == nil || t.place == absent || t.place == ended && !m.keeps() {
			want = broker.Stored
			t = &modelTask{id: v.ID, queue: v.Queue, priority: v.Priority, place: ready}
			if !v.NotBefore.IsZero() {
				t.place = delayed
			}
			m.tasks[v.ID] = t
		}
		if o.State != want {
			m.Errorf("publishing %s, which is in place %d: got %+v, want state %d", v.ID, t.place, o, want)
		}
	}
	return fmt.Sprintf("publishing %d", len(batch))
}

// exchangeSome settles some, renews some and receives some, all in one call.
func (m *model) exchangeSome() string {
	c := m.consumers[m.r.IntN(len(m.consumers))]
	var done []broker.Settlement
	var live []broker.Renewal
	var started []*modelTask
	for _, t := range m.in(leased) {
		switch m.r.IntN(5) {
		case 0:
			done = append(done, m.randomEnd(t))
		case 1:
			start := m.r.IntN(2) == 0
			live = append(live, broker.Renewal{Receipt: t.delivery.Receipt, Start: start, Extend: long})
			if start {
				started = append(started, t)
			}
		}
	}
	want := m.r.IntN(6)
	b := c.exchange(done, live, broker.Want{Count: want})
	for i, err := range append(slices.Clone(b.Settled), b.Renewed...) {
		if err != nil {
			m.Errorf("item %d of an exchange: %v", i, err)
		}
	}
	for _, t := range started {
		if !t.started { // counted once for each lease
			t.starts++
		}
		t.started = true
	}
	for _, s := range done {
		m.end(s)
	}
	for _, d := range b.Deliveries {
		m.delivered(c, d)
	}
	return fmt.Sprintf("an exchange of %d settlements and %d renewals, wanting %d", len(done), len(live), want)
}

// delivered checks a delivery against the model, and moves its task.
func (m *model) delivered(c *consumer, d broker.Delivery) {
	t := m.tasks[d.Receipt.ID]
	if t == nil || t.place != ready && t.place != lapsed {
		m.Errorf("%s was delivered; the model has %+v", d.Receipt, t)
		return
	}
	if m.paused[t.queue] {
		m.Errorf("%s was delivered, of a paused queue", d.Receipt)
	}
	if m.has(broker.PowerPriorities) {
		for _, other := range m.in(ready) {
			if other.queue == t.queue && other.priority > t.priority && len(m.lines([]string{t.id, other.id})) == 1 {
				m.Errorf("%s of priority %d came before %s of %d", t.id, t.priority, other.id, other.priority)
			}
		}
	}
	if d.Receipt.Epoch <= t.epoch || d.Attempt != t.attempt || d.Starts != t.starts || d.Replays != t.replays || d.Queue != t.queue {
		m.Errorf("delivery %+v; the model has %+v", d, t)
	}
	if t.place == lapsed && !d.Redelivered || !t.marked && d.Redelivered {
		m.Errorf("delivery of %s is marked as redelivered: %v; the model has %+v", t.id, d.Redelivered, t)
	}
	t.place, t.epoch, t.delivery = leased, d.Receipt.Epoch, d
	t.holder, t.started = c, false
}

// randomEnd is a random settlement of a leased task.
func (m *model) randomEnd(t *modelTask) broker.Settlement {
	states := []task.State{task.Succeeded, task.Succeeded, task.Failed, task.Cancelled, task.Queued, task.Retried}
	s := settlement(t.delivery, states[m.r.IntN(len(states))])
	if (s.Outcome.State == task.Retried || s.Outcome.State == task.Queued) && m.r.IntN(2) == 0 {
		s.Outcome.NotBefore = now().Add(long)
	}
	return s
}

// end moves a task as its settlement says.
func (m *model) end(s broker.Settlement) {
	t := m.tasks[s.Receipt.ID]
	t.old = append(t.old, t.delivery)
	o := s.Outcome
	later := !o.NotBefore.IsZero()
	if o.State != task.Queued {
		t.attempt = o.Attempt
	}
	if o.State != task.Queued || later {
		t.starts, t.marked = 0, false
	}
	switch {
	case o.State == task.Failed:
		t.place = dead
	case o.State.Terminal():
		t.place = ended
	case later:
		t.place = delayed
	default:
		t.place = ready
	}
}

// expire lets a few short leases end, with and without a start, and waits until
// the tasks are delivered again.
func (m *model) expire() string {
	c, all := m.openShort("q*"), m.consumers[2]
	var gone []*modelTask
	for i, d := range c.take(3) {
		m.delivered(c, d)
		t := m.tasks[d.Receipt.ID]
		if gone = append(gone, t); i == 1 {
			m.start(d)
			t.starts++
		}
	}
	time.Sleep(m.o.Lease + early)
	for _, t := range gone {
		t.place, t.marked = lapsed, true
		t.old = append(t.old, t.delivery)
	}
	if !m.eventually(second, func() bool {
		for _, d := range all.take(5) {
			m.delivered(all, d)
		}
		return len(m.in(lapsed)) == 0
	}) {
		m.Errorf("leases of %s ended, and %d tasks are not delivered again", m.o.Lease, len(m.in(lapsed)))
	}
	return fmt.Sprintf("the end of %d leases", len(gone))
}

func (m *model) settleByReceipt() string {
	t := m.pick(leased)
	if t == nil {
		return "nothing"
	}
	s := m.randomEnd(t)
	if err := m.trySettle(s); err != nil {
		m.Errorf("settling %s as %s: %v", t.id, s.Outcome.State, err)
	}
	m.end(s)
	return "settling " + t.id + " as " + string(s.Outcome.State)
}

// stale tries an old receipt, which must change nothing.
func (m *model) stale() string {
	t := m.tasks[m.ids[m.r.IntN(len(m.ids))]]
	if t == nil || len(t.old) == 0 {
		return "nothing"
	}
	d := t.old[m.r.IntN(len(t.old))]
	if !m.atomic && m.Results != nil {
		// A joined broker whose newest lease was not started takes an older
		// outcome as that task's; see B22.
		m.lost("an old receipt", m.tryRenew(broker.Renewal{Receipt: d.Receipt}))
		return "renewing an old lease of " + t.id
	}
	states := []task.State{task.Succeeded, task.Failed, task.Queued, task.Retried}
	m.lost("an old receipt", m.trySettle(settlement(d, states[m.r.IntN(len(states))])))
	return "settling an old lease of " + t.id
}

// reopen closes a consumer: what it has not started goes back.
func (m *model) reopen() string {
	i := m.r.IntN(len(m.consumers))
	if err := m.consumers[i].Close(m.ctx); err != nil {
		m.Errorf("Consumer.Close: %v", err)
	}
	for _, t := range m.in(leased) {
		if t.holder == m.consumers[i] && !t.started {
			t.place = ready
			t.old = append(t.old, t.delivery)
		}
	}
	queues := [][]string{{"q0", "q1"}, {"q1"}, {"q*"}}[i]
	m.consumers[i] = m.open(queues...)
	return fmt.Sprintf("closing consumer %d", i)
}

func (m *model) replayOne() string {
	t := m.pick(dead)
	if t == nil {
		return "nothing"
	}
	r := m.replay(broker.DeadFilter{IDs: []string{t.id}}, broker.ReplayOptions{})
	if r.Count != 1 || len(r.Entries) != 1 || r.Entries[0].Epoch <= t.epoch || r.Entries[0].ReplayCount != t.replays+1 {
		m.Errorf("replay of %+v: got %+v", t, r)
		return "a replay"
	}
	t.place, t.epoch, t.marked = ready, r.Entries[0].Epoch, false
	t.replays++
	return "replaying " + t.id
}

func (m *model) purgeDeadOne() string {
	t := m.pick(dead)
	if t == nil {
		return "nothing"
	}
	p, err := m.Broker.DeadLetters().PurgeDeadLetters(m.ctx, broker.DeadFilter{IDs: []string{t.id}}, broker.PurgeOptions{})
	if err != nil || p.Count != 1 {
		m.Errorf("purging the dead %s: got %+v, error %v", t.id, p, err)
	}
	t.place, t.old = absent, nil
	return "purging the dead " + t.id
}

func (m *model) purgeQueue() string {
	q := fmt.Sprintf("q%d", m.r.IntN(2))
	got, err := m.Broker.Purge(m.ctx, broker.Purge{Queue: q, Keep: long})
	if err != nil {
		m.Errorf("Purge: %v", err)
	}
	for _, id := range got {
		t := m.tasks[id]
		if t == nil || t.queue != q || t.place != ready && t.place != delayed {
			m.Errorf("purged %s; the model has %+v", id, t)
			continue
		}
		t.place = ended
	}
	return "purging " + q
}

func (m *model) revokeOne() string {
	if m.revoker == nil {
		return "nothing"
	}
	t := m.tasks[m.ids[m.r.IntN(len(m.ids))]]
	if t == nil || t.place == leased || t.place == absent || t.place == ended && !m.keeps() {
		return "nothing"
	}
	want := broker.RevokeTooLate
	if t.place == ready || t.place == delayed {
		want = broker.RevokeCancelled
		defer func() { t.place = ended }()
	}
	if a := m.revoke(m.revoker, t.id, false); a.State != want {
		m.Errorf("revoking %s, which is in place %d: got %+v, want %d", t.id, t.place, a, want)
	}
	return "revoking " + t.id
}

// compare checks the counts of each queue, and that each status agrees.
func (m *model) compare() {
	var want [2][ended]int
	for _, t := range m.tasks {
		if t.place != absent && t.place != ended {
			want[t.queue[1]-'0'][t.place]++
		}
	}
	for q, n := range want {
		m.counts(fmt.Sprintf("q%d", q), n[ready], n[delayed], n[leased], n[dead])
	}
	if m.Results == nil {
		return
	}
	ids := slices.Sorted(maps.Keys(m.tasks))
	found, err := m.Results.Get(m.ctx, ids...)
	if err != nil || len(found) != len(ids) {
		m.Fatalf("Get of %v: %d answers, error %v", ids, len(found), err)
	}
	for i, f := range found {
		t, ok := m.tasks[ids[i]], f.Err == nil
		terminal := t.place == dead || t.place == ended
		if !ok && !errors.Is(f.Err, store.ErrNotFound) || ok != (t.place != absent) || ok && f.Status.State.Terminal() != terminal {
			m.Errorf("status of %s: kept %v, %s (error %v); the model has place %d", t.id, ok, f.Status.State, f.Err, t.place)
		}
	}
}

// drain takes all that is ready, once each, and compares the dead.
func (m *model) drain() {
	m.resumeAll()
	for _, c := range m.consumers {
		for len(m.in(ready)) > 0 && !m.Failed() {
			ds := c.take(5)
			for _, d := range ds {
				m.delivered(c, d)
			}
			if len(ds) == 0 {
				break
			}
		}
	}
	if left := m.in(ready); len(left) > 0 {
		m.Errorf("%d ready tasks are never delivered, %s is one", len(left), left[0].id)
	}
	var want []string
	for _, t := range m.in(dead) {
		want = append(want, t.id)
	}
	got := deadIDs(m.dead(broker.DeadFilter{}))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		m.Errorf("dead letters: got %v, want %v", got, want)
	}
	m.compare()
}
