package pair_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

const many = 2345

// manyTasks publishes many tasks on a queue.
func (p *process) manyTasks(queue string) {
	p.Helper()
	batch := make([]broker.Publication, many)
	for i := range batch {
		batch[i].Envelope = envelope(fmt.Sprintf("%s-%d", queue, i), queue)
	}
	p.must(p.publish(batch...))
}

// settleAll settles everything that is ready.
func (p *process) settleAll(s task.State) (n int) {
	p.Helper()
	var done []broker.Settlement
	for {
		b, err := p.c.Exchange(p.ctx, done, nil, broker.Want{Count: 500})
		p.must(err)
		for i, err := range b.Settled {
			if err != nil {
				p.Fatalf("settling %s: %v", done[i].Receipt, err)
			}
		}
		done = nil
		for _, d := range b.Deliveries {
			done = append(done, settlement(d, s))
		}
		if n += len(done); len(done) == 0 {
			return n
		}
	}
}

// count counts the statuses of a state.
func (w *world) count(s task.State) (n int) {
	w.Helper()
	q := store.Query{States: []task.State{s}, Limit: 1000}
	for {
		l, err := w.results.Results.List(w.ctx, q)
		if err != nil {
			w.Fatal(err)
		}
		n += len(l.Statuses)
		if q.Cursor = l.Cursor; q.Cursor == "" {
			return n
		}
	}
}

func TestDeadLettersInPages(t *testing.T) {
	within(t, func(p *process) {
		p.manyTasks("q")
		if n := p.settleAll(task.Failed); n != many {
			p.Fatalf("%d were settled", n)
		}
		dead := p.join.DeadLetters()
		for _, limit := range []int{0, 1500} {
			want := many
			if limit > 0 {
				want = limit
			}
			dry, err := dead.ReplayDeadLetters(p.ctx, broker.DeadFilter{}, broker.ReplayOptions{Limit: limit, DryRun: true})
			p.must(err)
			r, err := dead.ReplayDeadLetters(p.ctx, broker.DeadFilter{}, broker.ReplayOptions{Limit: limit})
			p.must(err)
			if dry.Count != want || r.Count != want || len(r.Entries) != 1000 {
				p.Errorf("limit %d: a dry replay of %d, one of %d with %d entries; want %d and 1000",
					limit, dry.Count, r.Count, len(r.Entries), want)
			}
			if n := p.count(task.Queued); n != want {
				p.Errorf("limit %d: %d are shown as queued, want %d", limit, n, want)
			}
			p.settleAll(task.Failed)
		}
		for _, limit := range []int{1200, 0} {
			want := many - 1200
			if limit > 0 {
				want = limit
			}
			r, err := dead.PurgeDeadLetters(p.ctx, broker.DeadFilter{}, broker.PurgeOptions{Limit: limit})
			p.must(err)
			if r.Count != want || len(r.IDs) != 1000 {
				p.Errorf("limit %d: purged %d with %d ids, want %d and 1000", limit, r.Count, len(r.IDs), want)
			}
		}
		if n := p.count(task.Failed); n != 0 {
			p.Errorf("%d statuses outlive their dead letters", n)
		}
	})
}

// The reconciler ends what nobody owns, and touches nothing else.
func TestReconcile(t *testing.T) {
	within(t, func(p *process) {
		p.manyTasks("lost")
		if _, err := p.broker.Purge(p.ctx, broker.Purge{Queue: "lost", Limit: many}); err != nil {
			p.Fatal(err)
		}
		p.manyTasks("kept")
		late := envelope("late", "kept")
		late.NotBefore = time.Now().Add(time.Hour)
		p.must(p.publish(broker.Publication{Envelope: late}))
		r, err := p.join.Reconcile(p.ctx, lease)
		if err != nil || r.Orphans != 0 {
			p.Errorf("too soon: %+v, %v", r, err)
		}
		time.Sleep(3 * lease)
		began := time.Now()
		r, err = p.join.Reconcile(p.ctx, lease)
		if err != nil || r.Orphans != many || r.Looked != 2*many+1 {
			p.Errorf("reconciled %+v, error %v; want %d orphans", r, err, many)
		}
		if took := time.Since(began); took < 2*time.Second {
			p.Errorf("it looked at %d in %s, want at most 2000 a second", r.Looked, took)
		}
		if n := p.count(task.Queued); n != many+1 {
			p.Errorf("%d are queued, want %d", n, many+1)
		}
		s := p.status("lost-7")
		if s.State != task.Failed || s.Reason != task.ReasonOrphaned || s.Error == nil {
			p.Errorf("an orphan is %+v", s)
		}
		if r, err = p.join.Reconcile(p.ctx, lease); err != nil || r.Orphans != 0 {
			p.Errorf("again: %+v, %v", r, err)
		}
	})
}

// What is dead in the broker and running elsewhere becomes failed for the
// reason that the dead letter has.
func TestReconcileDead(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		d := p.take1()
		p.must(p.startOf(d))
		inner, _, _ := pair.Unmark(d.Receipt)
		s := settlement(d, task.Failed)
		s.Receipt, s.Followups, s.Outcome.Reason = inner, nil, "mine"
		errs, err := p.broker.Settle(p.ctx, []broker.Settlement{s})
		if err != nil || errs[0] != nil {
			p.Fatal(errs, err)
		}
		time.Sleep(3 * lease)
		if r, err := p.join.Reconcile(p.ctx, lease); err != nil || r.Orphans != 1 {
			p.Errorf("reconciled %+v, %v", r, err)
		}
		if st := p.status("parent"); st.State != task.Failed || st.Reason != "mine" || st.Error == nil || st.Error.Message != "boom" {
			p.Errorf("the status is %+v", st)
		}
	})
}

func TestReceiptsCarryTheirAttempt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := broker.Receipt{
			ID:    rapid.StringMatching(`[A-Za-z0-9._:-]{1,20}`).Draw(t, "id"),
			Epoch: rapid.Int64Min(0).Draw(t, "epoch"),
			Token: rapid.StringMatching(`[A-Za-z0-9._-]{0,12}`).Draw(t, "token"),
		}
		attempt, replays := rapid.IntRange(0, 1e6).Draw(t, "attempt"), rapid.IntRange(0, 1e3).Draw(t, "replays")
		marked, err := broker.ParseReceipt(pair.Mark(in, attempt, replays).String())
		if err != nil {
			t.Fatal(err)
		}
		out, a, r := pair.Unmark(marked)
		if out != in || a != attempt || r != replays {
			t.Fatalf("%+v, %d, %d became %+v, %d, %d", in, attempt, replays, out, a, r)
		}
	})
}

// What a process was handed and never settled is forgotten in time.
func TestHeldIsBounded(t *testing.T) {
	within(t, func(p *process) {
		const rounds = 8
		for round := range rounds {
			p.manyTasks(fmt.Sprintf("r%d", round))
			for {
				b, err := p.c.Exchange(p.ctx, nil, nil, broker.Want{Count: 1000})
				p.must(err)
				if len(b.Deliveries) == 0 {
					break
				}
			}
			time.Sleep(2 * time.Minute)
		}
		if n := p.join.Held(); n > 2*rounds*many+10_000 {
			p.Errorf("%d deliveries are remembered", n)
		}
	})
}
