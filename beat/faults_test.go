package beat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// hung is a store of locks that can be cut from a beat, as by a network.
type hung struct {
	store.Locks
	cut atomic.Bool
}

func (h *hung) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lock, error) {
	if h.cut.Load() {
		return store.Lock{}, fmt.Errorf("acquire: %w", broker.ErrUnavailable)
	}
	return h.Locks.Acquire(ctx, name, holder, ttl)
}

// checkOnce checks that each moment of an "every" fired once, and none is missing.
func (r *rig) checkOnce(id string, every time.Duration) int {
	r.t.Helper()
	h := r.history(id)
	for i := range h {
		if h[i].Outcome != store.OutcomeFired {
			r.t.Errorf("%s at %v: %s %s", id, h[i].Due, h[i].Outcome, h[i].Error)
		}
		if i > 0 && h[i-1].Due.Sub(h[i].Due) != every {
			r.t.Errorf("%s: %v follows %v", id, h[i-1].Due, h[i].Due)
		}
	}
	if tasks := r.tasks(id); len(tasks) < len(h) {
		r.t.Errorf("%s: %d tasks for %d firings", id, len(tasks), len(h))
	}
	return len(h)
}

// TestTakeover: a leader that cannot renew is followed by another within five
// seconds, and no moment is lost.
func TestTakeover(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		locks := &hung{Locks: r.locks}
		whole := r.locks
		r.locks = locks
		first, _ := r.run("first")
		time.Sleep(100 * time.Millisecond)
		r.locks = whole
		second, _ := r.run("second")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","misfire":"all"}`)
		time.Sleep(10 * time.Second)
		if s := first.State(); !s.Leading || second.State().Leading || second.State().Leader != "first" || second.Ready(5*time.Second) != nil {
			t.Fatalf("before: %+v and %+v", s, second.State())
		}
		locks.cut.Store(true)
		time.Sleep(5 * time.Second)
		if !second.State().Leading || first.State().Leading || first.Ready(time.Second) == nil {
			t.Fatalf("after: %+v and %+v", first.State(), second.State())
		}
		locks.cut.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if first.State().Leading || first.Ready(5*time.Second) != nil {
			t.Errorf("at last: %+v", first.State())
		}
		if n := r.checkOnce("a", time.Second); n != 25 {
			t.Errorf("%d firings in 25 s", n)
		}
	})
}

// TestResign: a leader that stops gives the lead away, and another has it within
// a second.
func TestResign(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		_, stop := r.run("first")
		time.Sleep(100 * time.Millisecond)
		second, _ := r.run("second")
		time.Sleep(5 * time.Second)
		stop()
		time.Sleep(1100 * time.Millisecond)
		if !second.State().Leading {
			t.Errorf("second: %+v", second.State())
		}
	})
}

// stopped is a store that stops a beat in the middle of a step, as a SIGSTOP does:
// before the claim reaches the store.
type stopped struct {
	store.Schedules
	before func()
}

func (s *stopped) FiresInto(b broker.Broker) bool {
	f, ok := s.Schedules.(store.FiresInto)
	return ok && f.FiresInto(b)
}

func (s *stopped) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	if f := s.before; f != nil {
		s.before = nil
		f()
	}
	return s.Schedules.Fire(context.WithoutCancel(ctx), lead, batch)
}

// TestOldToken: a beat that was stopped past its lease, with a claim in its hand,
// cannot fire with its old token.
func TestOldToken(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		whole := r.schedules
		r.schedules = &stopped{Schedules: whole, before: func() { time.Sleep(8 * time.Second) }}
		first, _ := r.run("first")
		r.schedules = whole
		time.Sleep(100 * time.Millisecond)
		r.run("second")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","misfire":"all"}`)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := r.checkOnce("a", time.Second); n != 20 || first.State().Leading {
			t.Errorf("%d firings in 20 s; first: %+v", n, first.State())
		}
		for _, h := range r.history("a") {
			if h.Beat != "second" {
				t.Errorf("%s fired %v", h.Beat, h.Due)
			}
		}
	})
}

// TestManyBeats: five beats that start and stop at all times fire each moment once.
func TestManyBeats(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		for i := range 20 {
			r.apply(fmt.Sprintf(`{"id":"e%d","task":"t","spec":"every:1s","misfire":"all","jitter":"%dms"}`, i, i*20))
		}
		began := time.Now()
		stops := make([]func(), 5)
		for i := range 60 {
			k := i % len(stops)
			if stops[k] != nil {
				stops[k]()
			}
			_, stops[k] = r.run(fmt.Sprintf("beat-%d", i))
			time.Sleep(time.Duration(i*37%1500) * time.Millisecond)
		}
		time.Sleep(time.Until(began.Add(50*time.Second + 500*time.Millisecond)))
		synctest.Wait()
		for i := range 20 {
			id := fmt.Sprintf("e%d", i)
			r.checkOnce(id, time.Second)
			if l, err := r.book.Get(t.Context(), id); err != nil || l.Record.Fired != 50 || len(r.tasks(id)) != 50 {
				t.Errorf("%s fired %d, %d tasks, %v", id, l.Record.Fired, len(r.tasks(id)), err)
			}
		}
	})
}

// TestJitter: the same on every beat, and less than the bound.
func TestJitter(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1m","jitter":"30s"}`)
		time.Sleep(10*time.Minute + 31*time.Second)
		synctest.Wait()
		seen := map[time.Duration]bool{}
		h := r.history("a")
		for i := range h {
			seen[h[i].Jitter] = true
			if h[i].Jitter < 0 || h[i].Jitter >= 30*time.Second || h[i].Drift < 0 || h[i].Drift > 10*time.Millisecond {
				t.Errorf("%+v", h[i])
			}
		}
		if len(h) != 10 || len(seen) < 5 {
			t.Errorf("%d firings, %d jitters", len(h), len(seen))
		}
	})
}

// TestOverlapSkip: nothing executes the tasks, so that the first one is still
// there when its successors are due.
func TestOverlapSkip(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","overlap":"skip"}`)
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		h := r.history("a")
		if len(h) != 3 || h[2].Outcome != store.OutcomeFired || h[1].Outcome != store.OutcomeOverlap || h[0].Outcome != store.OutcomeOverlap {
			t.Fatalf("history: %+v", h)
		}
		if _, err := r.client.Revoke(t.Context(), stem.RevokeOptions{}, h[2].Task); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if h := r.history("a"); h[0].Outcome != store.OutcomeFired {
			t.Errorf("after the first has ended: %+v", h[0])
		}
	})
}

// TestOverlapSkipWithoutStatus: a task that leaves no status, with its results on a
// store of their own, is seen all the same.
func TestOverlapSkipWithoutStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks, results := memory.New(), memory.New()
		t.Cleanup(func() { _ = errors.Join(tasks.Close(), results.Close()) }) // after the beat has stopped
		client, err := stem.NewClient(stem.Pair(tasks, results), stem.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, client: client, schedules: tasks.Schedules(), locks: tasks.Locks()}
		if r.book, err = beat.NewBook(client, r.schedules, r.locks); err != nil {
			t.Fatal(err)
		}
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","overlap":"skip","options":{"retention":"0s"}}`)
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		h := r.history("a")
		if len(h) != 3 || h[2].Outcome != store.OutcomeFired || h[1].Outcome != store.OutcomeOverlap || h[0].Outcome != store.OutcomeOverlap {
			t.Fatalf("history: %+v", h)
		}
	})
}

func TestRunOnceAndBounds(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		now := time.Now().UTC().Truncate(time.Second)
		at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		r.apply(`{"id":"once","task":"t","spec":"every:1s","runOnce":true}`,
			`{"id":"while","task":"t","spec":"every:2s","startAt":"`+at(3*time.Second)+`","endAt":"`+at(9*time.Second)+`"}`,
			`{"id":"off","task":"t","spec":"every:1s","enabled":false}`)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		for id, want := range map[string]int64{"once": 1, "while": 4, "off": 0} {
			l, err := r.book.Get(t.Context(), id)
			if err != nil || l.Record.Fired != want || !l.Record.NextDue.IsZero() {
				t.Errorf("%s: %+v, %v; want %d firings", id, l.Record, err, want)
			}
		}
		if l, err := r.book.Enable(t.Context(), "once", beat.ChangeOptions{}); err != nil || l.Status != beat.StatusDone {
			t.Errorf("enabled again: %s, %v; want that it is done", l.Status, err)
		}
	})
}

// TestRunOnceWhilePending: an entry that fires once, and is disabled and enabled
// again while nobody knows whether its task is enqueued, fires once.
func TestRunOnceWhilePending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLossyRig(t)
		r.run("one")
		l.lost.Store(true)
		r.apply(`{"id":"a","task":"t","spec":"every:10s","runOnce":true}`)
		time.Sleep(11 * time.Second)
		for _, change := range []func(context.Context, string, beat.ChangeOptions) (beat.Listed, error){r.book.Disable, r.book.Enable} {
			if _, err := change(t.Context(), "a", beat.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		l.lost.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		listed, err := r.book.Get(t.Context(), "a")
		if err != nil || len(r.tasks("a")) != 1 || listed.Record.Fired != 1 || listed.Status != beat.StatusDone {
			t.Errorf("%d tasks, the entry is %+v, %v", len(r.tasks("a")), listed.Record, err)
		}
	})
}

// TestSharedSchedules: a book that looks at the store that a beat waits for does
// not take a change from it.
func TestSharedSchedules(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		time.Sleep(500 * time.Millisecond)
		due := time.Now().Add(time.Millisecond).UTC()
		_, err := r.schedules.Apply(t.Context(), []store.ScheduleChange{{
			ID: "a", Definition: json.RawMessage(`{"task":"t","spec":"every:1h"}`), NextDue: due, NextAt: due,
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.book.Now(t.Context()); err != nil { // before the beat comes to it
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if h := r.history("a"); len(h) != 1 || h[0].Drift > 10*time.Millisecond {
			t.Errorf("history: %+v", h)
		}
	})
}

// TestPause: what passes meanwhile is not made up for.
func TestPause(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","misfire":"all"}`)
		time.Sleep(2500 * time.Millisecond)
		if l, err := r.book.Pause(t.Context(), "a", "a look", beat.ChangeOptions{}); err != nil || l.Status != beat.StatusPaused {
			t.Fatal(l.Status, err)
		}
		r.apply(`{"id":"a","task":"t","spec":"every:1s","misfire":"all","args":2}`) // a file says nothing of pauses
		time.Sleep(10 * time.Second)
		l, err := r.book.Get(t.Context(), "a")
		if err != nil || l.Record.Fired != 2 || l.Status != beat.StatusPaused || l.Entry.Note != "a look" {
			t.Errorf("paused: %+v, %v", l, err)
		}
		if _, err := r.book.Resume(t.Context(), "a", beat.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if l, err := r.book.Get(t.Context(), "a"); err != nil || l.Record.Fired != 4 || l.Record.Misfired != 0 {
			t.Errorf("resumed: %+v, %v", l.Record, err)
		}
	})
}

// TestBrokenDefinition: an entry that this version cannot read stops, says so,
// and disturbs no other.
func TestBrokenDefinition(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"good","task":"t","spec":"every:1s"}`)
		next := time.Now().Add(time.Second)
		_, err := r.schedules.Apply(t.Context(), []store.ScheduleChange{{
			ID: "bad", Definition: json.RawMessage(`{"task":"t","spec":"of the future"}`), NextDue: next, NextAt: next,
		}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		l, err := r.book.Get(t.Context(), "bad")
		if err != nil || l.Status != beat.StatusBroken || !l.Record.NextDue.IsZero() || !strings.Contains(l.Record.LastError, "cannot be read") {
			t.Errorf("bad: %+v, %v", l, err)
		}
		if n := r.checkOnce("good", time.Second); n != 3 {
			t.Errorf("good fired %d times", n)
		}
	})
}

// away is a broker that takes publications and whose answers are lost, or that is
// not there at all.
type away struct {
	stem.Backend
	b *lossy
}

func (a *away) Broker() broker.Broker { return a.b }

type lossy struct {
	broker.Broker
	gone, lost atomic.Bool
}

func (l *lossy) Unwrap() broker.Broker { return l.Broker }

func (l *lossy) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	if l.gone.Load() {
		return nil, fmt.Errorf("publish: %w", broker.ErrUnavailable)
	}
	out, err := l.Broker.Publish(ctx, batch)
	if l.lost.Load() {
		return nil, fmt.Errorf("publish: %w", broker.ErrUnavailable)
	}
	return out, err
}

// newLossyRig is a deployment of two stores whose broker can be away.
func newLossyRig(t *testing.T) (*rig, *lossy) {
	t.Helper()
	tasks, where := memory.New(), memory.New()
	t.Cleanup(func() { _, _ = tasks.Close(), where.Close() })
	l := &lossy{Broker: tasks.Broker()}
	client, err := stem.NewClient(&away{tasks, l}, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, client: client, schedules: where.Schedules(), locks: where.Locks()}
	if r.book, err = beat.NewBook(client, r.schedules, r.locks); err != nil {
		t.Fatal(err)
	}
	return r, l
}

// TestPending: where tasks are in another store than schedules, a broker that is
// away, or whose answers are lost, costs no moment and doubles none.
func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLossyRig(t)
		_, stop := r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1s","misfire":{"policy":"all","max":20}}`)
		time.Sleep(2500 * time.Millisecond)
		l.lost.Store(true) // stored, and the answer lost
		time.Sleep(3 * time.Second)
		if l, err := r.book.Get(t.Context(), "a"); err != nil || l.Record.Fired != 2 {
			t.Errorf("while answers are lost: %+v, %v", l.Record, err)
		}
		stop() // and another beat finds what is pending
		l.lost.Store(false)
		_, stop = r.run("two")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := r.checkOnce("a", time.Second); n != 9 {
			t.Errorf("%d firings in 9.5 s", n)
		}
		// For longer than the broker remembers: what was pending is not published any
		// more, what was claimed after that is.
		l.gone.Store(true)
		time.Sleep(25 * time.Hour)
		l.gone.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		stop()
		outcomes := map[store.FireOutcome]int{}
		for _, h := range r.history("a") {
			outcomes[h.Outcome]++
		}
		if outcomes[store.OutcomeUnknown] != 1 || outcomes[store.OutcomeMisfired] != 2 || outcomes[store.OutcomeDuplicate] != 0 || outcomes[store.OutcomeFailed] != 0 {
			t.Errorf("outcomes: %v", outcomes)
		}
		rec, err := r.book.Get(t.Context(), "a")
		if err != nil || len(r.tasks("a")) > int(rec.Record.Fired) {
			t.Errorf("%d tasks, %d firings, %v", len(r.tasks("a")), rec.Record.Fired, err)
		}
	})
}

// TestEdgeOfAFiring: entries are changed, disabled and deleted in the millisecond
// before they fire. What happens is one of the two legal outcomes, and the history
// says which.
func TestEdgeOfAFiring(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		for i := range 40 {
			id := fmt.Sprintf("e%d", i)
			r.apply(fmt.Sprintf(`{"id":%q,"task":"t","spec":"every:1s","args":"old"}`, id))
			due := time.Now().Truncate(time.Second).Add(time.Second)
			time.Sleep(time.Until(due) - time.Millisecond + time.Duration(i%5)*500*time.Microsecond)
			var err error
			switch i % 4 {
			case 0:
				r.apply(fmt.Sprintf(`{"id":%q,"task":"t","spec":"every:1s","args":"new"}`, id))
			case 1:
				_, err = r.book.Disable(t.Context(), id, beat.ChangeOptions{})
			case 2:
				err = r.book.Delete(t.Context(), id, beat.ChangeOptions{})
			case 3:
				r.apply(fmt.Sprintf(`{"id":%q,"task":"t","spec":"every:1h"}`, id))
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			tasks := r.tasks(id)
			if len(tasks) > 1 {
				t.Errorf("%s: %d tasks for one moment", id, len(tasks))
			}
			h, err := r.book.History(t.Context(), id, 0)
			switch {
			case errors.Is(err, store.ErrNoSchedule) && i%4 == 2: // with its history
			case err != nil:
				t.Fatal(err)
			case len(h) != len(tasks):
				t.Errorf("%s: %d tasks, and the history has %+v", id, len(tasks), h)
			case i%4 == 0 && len(tasks) != 1:
				t.Errorf("%s: changed, and it did not fire", id)
			}
			_ = r.book.Delete(t.Context(), id, beat.ChangeOptions{}) // it may be gone
		}
	})
}
