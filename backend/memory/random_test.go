package memory_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// TestRandomOperations plays random operations, steps of time included, on a
// DB and on a model of it, compares all that shows after each, and has the DB
// check itself.
func TestRandomOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ rapid.TB }{t}, func(rt *rapid.T) {
			m := newMachine(t, rt)
			rt.Repeat(map[string]func(*rapid.T){
				"publish":  m.publish,
				"exchange": m.exchange,
				"receive":  m.receive,
				"settle":   m.settle,
				"time":     m.time,
				"revoke":   m.revoke,
				"replay":   m.replay,
				"bury":     m.purgeDead,
				"purge":    m.purge,
				"reopen":   m.reopen,
				"delete":   m.delete,
				"":         m.compare,
			})
			if err := m.db.Close(); err != nil {
				rt.Fatal(err)
			}
		})
	})
}

var (
	queues        = []string{"a", "b", "b-2"}
	subscriptions = [][]string{{"a"}, {"b", "a"}, {"b*"}}
	claimKeys     = []string{"k1", "k2"}
)

const (
	lease  = 10 * time.Second
	maxIDs = 25
)

type machine struct {
	t         *testing.T
	db        *memory.DB
	b         broker.Broker
	results   store.Results
	model     *model
	consumers [3]broker.Consumer
	receipts  []broker.Receipt // all that were ever given
}

func newMachine(t *testing.T, rt *rapid.T) *machine {
	m := &machine{t: t, db: memory.New(), model: newModel()}
	m.b, m.results = m.db.Broker(), m.db.Results()
	for i := range m.consumers {
		m.open(rt, i)
	}
	return m
}

func (m *machine) open(rt *rapid.T, i int) {
	c, err := m.b.Open(m.t.Context(), broker.Subscription{Worker: fmt.Sprint("w", i), Queues: subscriptions[i], Lease: lease})
	if err != nil {
		rt.Fatal(err)
	}
	m.consumers[i] = c
}

// now brings the model up to now.
func (m *machine) now() time.Time {
	now := time.Now()
	m.model.advance(now)
	return now
}

func seconds(rt *rapid.T, label string, most int) time.Duration {
	return time.Duration(rapid.IntRange(0, most).Draw(rt, label)) * time.Second
}

func drawID(rt *rapid.T) string {
	return fmt.Sprintf("t%02d", rapid.IntRange(0, maxIDs-1).Draw(rt, "id"))
}

func drawPublication(rt *rapid.T) broker.Publication {
	e := &task.Envelope{
		ID: drawID(rt), Name: "demo.task", EnqueuedAt: time.Now(), MaxRetries: 3,
		Queue: rapid.SampledFrom(queues).Draw(rt, "queue"), Priority: rapid.IntRange(4, 6).Draw(rt, "priority"),
	}
	if d := seconds(rt, "delay", 15) - 10*time.Second; d > 0 {
		e.NotBefore = time.Now().Add(d)
	}
	p := broker.Publication{Envelope: e}
	if rapid.IntRange(0, 3).Draw(rt, "claims") == 0 {
		p.Claims = []broker.Claim{{Key: rapid.SampledFrom(claimKeys).Draw(rt, "key"), For: seconds(rt, "for", 5)}}
	}
	return p
}

func drawBatch(rt *rapid.T, most int) []broker.Publication {
	batch := make([]broker.Publication, rapid.IntRange(0, most).Draw(rt, "batch"))
	for i := range batch {
		batch[i] = drawPublication(rt)
	}
	return batch
}

func (m *machine) publish(rt *rapid.T) {
	batch := drawBatch(rt, 6)
	now := m.now()
	got, err := m.b.Publish(m.t.Context(), batch)
	if err != nil {
		rt.Fatal(err)
	}
	for i := range batch {
		s, existing := m.model.publish(&batch[i], now)
		if got[i].State != s || got[i].ExistingID != existing || got[i].Err != nil {
			rt.Fatalf("publish %s: got %+v, want %d %s", batch[i].Envelope.ID, got[i], s, existing)
		}
	}
}

func (m *machine) drawReceipt(rt *rapid.T) broker.Receipt {
	if len(m.receipts) == 0 {
		return broker.Receipt{ID: drawID(rt)}
	}
	recent := m.receipts[max(0, len(m.receipts)-12):]
	return rapid.SampledFrom(recent).Draw(rt, "receipt")
}

func (m *machine) drawSettlement(rt *rapid.T) broker.Settlement {
	s := broker.Settlement{Receipt: m.drawReceipt(rt), Followups: drawBatch(rt, 1)}
	o := &s.Outcome
	o.State = rapid.SampledFrom([]task.State{task.Succeeded, task.Failed, task.Cancelled, task.Retried, task.Queued}).Draw(rt, "state")
	o.EndedAt, o.Keep = time.Now(), retention
	if rapid.IntRange(0, 4).Draw(rt, "keep") == 0 && o.State != task.Failed {
		o.Keep = 0
	}
	if o.State == task.Retried || o.State == task.Failed {
		o.Error = &task.Error{Type: "demo", Message: "boom", At: time.Now()}
	}
	if o.State == task.Retried || o.State == task.Queued {
		if d := seconds(rt, "again", 4); d > 0 {
			o.NotBefore = time.Now().Add(d)
		}
	}
	o.Attempt = rapid.IntRange(0, 5).Draw(rt, "attempt")
	if rapid.IntRange(0, 1).Draw(rt, "release") == 0 {
		s.Release = claimKeys[:1]
	}
	return s
}

func (m *machine) checkLost(rt *rapid.T, what string, r broker.Receipt, good bool, err error) {
	if good && err != nil || !good && !errors.Is(err, broker.ErrLeaseLost) {
		rt.Fatalf("%s %s: got error %v; the model finds it good: %v", what, r, err, good)
	}
}

func (m *machine) settle(rt *rapid.T) {
	s := m.drawSettlement(rt)
	now := m.now()
	errs, err := m.b.Settle(m.t.Context(), []broker.Settlement{s})
	if err != nil {
		rt.Fatal(err)
	}
	m.checkLost(rt, "settle", s.Receipt, m.model.settle(&s, now), errs[0])
}

// receive is an exchange that only receives.
func (m *machine) receive(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.consumers)-1).Draw(rt, "consumer")
	m.exchangeWith(rt, i, nil, nil)
}

// exchange settles, renews and receives.
func (m *machine) exchange(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.consumers)-1).Draw(rt, "consumer")
	done := []broker.Settlement{m.drawSettlement(rt)}
	live := []broker.Renewal{{
		Receipt: m.drawReceipt(rt), Start: rapid.Bool().Draw(rt, "start"), Extend: seconds(rt, "extend", 20),
	}}
	m.exchangeWith(rt, i, done, live)
}

func (m *machine) exchangeWith(rt *rapid.T, i int, done []broker.Settlement, live []broker.Renewal) {
	want := broker.Want{Count: rapid.IntRange(0, 5).Draw(rt, "want")}
	now := m.now()
	b, err := m.consumers[i].Exchange(m.t.Context(), done, live, want)
	if err != nil {
		rt.Fatal(err)
	}
	for j := range done {
		m.checkLost(rt, "settle", done[j].Receipt, m.model.settle(&done[j], now), b.Settled[j])
	}
	for j := range live {
		m.checkLost(rt, "renew", live[j].Receipt, m.model.renew(&live[j], lease, now), b.Renewed[j])
	}
	m.checkDeliveries(rt, i, want.Count, b.Deliveries, now)
	more := false
	for _, q := range m.covered(i) {
		more = more || len(m.model.ready(q)) > 0
	}
	if b.More != more {
		rt.Fatalf("More is %v, want %v", b.More, more)
	}
	if next := m.next(i, now); b.Next != next {
		rt.Fatalf("Next is %s, want %s", b.Next, next)
	}
}

// covered is the queues of a consumer, in the order of its subscription.
func (m *machine) covered(i int) []string {
	if i == 2 {
		return []string{"b", "b-2"}
	}
	return subscriptions[i]
}

// next is the time until something in a consumer's queues is due.
func (m *machine) next(i int, now time.Time) time.Duration {
	var next time.Duration
	for _, t := range m.model.tasks {
		if (t.place != waits && t.place != leased) || t.due.IsZero() || !slices.Contains(m.covered(i), t.queue) {
			continue
		}
		if d := t.due.Sub(now); next == 0 || d < next {
			next = d
		}
	}
	return next
}

func (m *machine) checkDeliveries(rt *rapid.T, i, count int, got []broker.Delivery, now time.Time) {
	var want []*modelTask
	lines := map[string][]*modelTask{} // of each queue
	for _, q := range m.covered(i) {
		lines[q] = m.model.ready(q)
		want = append(want, lines[q]...)
	}
	if len(got) != min(count, len(want)) {
		rt.Fatalf("%d deliveries; wanted %d, and %d are ready", len(got), count, len(want))
	}
	for j := range got {
		d := &got[j]
		if len(lines[d.Queue]) == 0 || lines[d.Queue][0].id != d.Receipt.ID || i < 2 && want[j].id != d.Receipt.ID {
			rt.Fatalf("delivery %d is %s of %s: out of turn", j, d.Receipt, d.Queue)
		}
		t := lines[d.Queue][0]
		lines[d.Queue] = lines[d.Queue][1:]
		if d.Receipt.Epoch <= m.model.epoch {
			rt.Fatalf("delivery %s: %d was given before", d.Receipt, m.model.epoch)
		}
		m.model.lend(t, m.consumers[i], d, now)
		if d.Attempt != t.attempt || d.Starts != t.starts || d.Redelivered != t.redeliver || d.Replays != t.replays {
			rt.Fatalf("delivery %+v; the model has %+v", d, t)
		}
		m.receipts = append(m.receipts, d.Receipt)
	}
}

func (m *machine) time(rt *rapid.T) {
	time.Sleep(seconds(rt, "step", 12))
}

func (m *machine) revoke(rt *rapid.T) {
	id := drawID(rt)
	now := m.now()
	got, err := m.b.(broker.Revoker).Revoke(m.t.Context(), []broker.Revocation{{ID: id, Keep: retention}})
	if err != nil {
		rt.Fatal(err)
	}
	if want := m.model.revoke(id, now); got[0].State != want {
		rt.Fatalf("revoke %s: got %+v, want %d", id, got[0], want)
	}
}

func (m *machine) deadFilter(rt *rapid.T) (f broker.DeadFilter, chosen []*modelTask) {
	f.Queue = rapid.SampledFrom([]string{"", "a", "b*"}).Draw(rt, "dead of")
	for _, t := range m.model.tasks {
		if t.place == dead && (f.Queue == "" || broker.Match(f.Queue, t.queue)) {
			chosen = append(chosen, t)
		}
	}
	return f, chosen
}

func (m *machine) replay(rt *rapid.T) {
	m.now()
	f, chosen := m.deadFilter(rt)
	got, err := m.b.DeadLetters().ReplayDeadLetters(m.t.Context(), f, broker.ReplayOptions{})
	if err != nil || got.Count != len(chosen) || len(got.Entries) != len(chosen) {
		rt.Fatalf("replay: got %+v, error %v, want %d", got, err, len(chosen))
	}
	for _, e := range got.Entries {
		t := m.model.tasks[e.ID]
		if !slices.Contains(chosen, t) || e.Epoch <= m.model.epoch || e.ReplayCount != t.replays+1 {
			rt.Fatalf("replayed %+v, the model has %+v", e, t)
		}
		m.model.replay(t, e.Epoch)
	}
}

func (m *machine) purgeDead(rt *rapid.T) {
	m.now()
	f, chosen := m.deadFilter(rt)
	got, err := m.b.DeadLetters().PurgeDeadLetters(m.t.Context(), f, broker.PurgeOptions{})
	if err != nil || got.Count != len(chosen) {
		rt.Fatalf("purge of dead letters: got %+v, error %v, want %d", got, err, len(chosen))
	}
	for _, t := range chosen {
		m.model.forget(t)
	}
}

func (m *machine) purge(rt *rapid.T) {
	q := rapid.SampledFrom(queues).Draw(rt, "queue")
	now := m.now()
	got, err := m.b.Purge(m.t.Context(), broker.Purge{Queue: q, Keep: retention})
	if err != nil {
		rt.Fatal(err)
	}
	want := m.model.purge(q, now)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		rt.Fatalf("purged %v, want %v", got, want)
	}
}

func (m *machine) reopen(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.consumers)-1).Draw(rt, "consumer")
	now := m.now()
	if err := m.consumers[i].Close(m.t.Context()); err != nil {
		rt.Fatal(err)
	}
	m.model.closeConsumer(m.consumers[i], now)
	m.open(rt, i)
}

func (m *machine) delete(rt *rapid.T) {
	id := drawID(rt)
	m.now()
	t := m.model.tasks[id]
	if t != nil && t.place == dead {
		return // its status alone would go, which the model does not have
	}
	errs, err := m.results.Delete(m.t.Context(), id)
	if err != nil {
		rt.Fatal(err)
	}
	want := error(nil)
	switch {
	case t == nil:
		want = store.ErrNotFound
	case t.place != done:
		want = store.ErrNotFinished
	default:
		m.model.forget(t)
	}
	if !errors.Is(errs[0], want) {
		rt.Fatalf("delete %s: got %v, want %v", id, errs[0], want)
	}
}

// compare compares all that shows.
func (m *machine) compare(rt *rapid.T) {
	m.now()
	if err := m.db.Check(m.t.Context()); err != nil {
		rt.Fatal(err)
	}
	infos, err := m.b.Queues(m.t.Context(), queues...)
	if err != nil {
		rt.Fatal(err)
	}
	if diff := cmp.Diff(m.counts(), infos, cmpopts.IgnoreFields(broker.QueueInfo{}, "Oldest", "Due")); diff != "" {
		rt.Fatalf("queues (-model +got):\n%s", diff)
	}
	list, err := m.results.List(m.t.Context(), store.Query{Limit: 1000})
	if err != nil || len(list.Statuses) != len(m.model.tasks) {
		rt.Fatalf("%d statuses, error %v; the model has %d", len(list.Statuses), err, len(m.model.tasks))
	}
	for _, s := range list.Statuses {
		t := m.model.tasks[s.ID]
		if t == nil || s.State != t.state || s.Attempt != t.attempt || s.ReplayCount != t.replays || len(s.Errors) != t.errors ||
			s.Queue != t.queue || t.place != done && s.Starts != t.starts {
			rt.Fatalf("status %+v, the model has %+v", s, t)
		}
	}
}

func (m *machine) counts() []broker.QueueInfo {
	infos := make([]broker.QueueInfo, len(queues))
	for i, q := range queues {
		infos[i].Name = q
		for _, t := range m.model.tasks {
			switch {
			case t.queue != q:
			case t.place == waits && t.due.IsZero():
				infos[i].Ready++
			case t.place == waits:
				infos[i].Delayed++
			case t.place == leased:
				infos[i].Leased++
			case t.place == dead:
				infos[i].Dead++
			}
		}
	}
	return infos
}
