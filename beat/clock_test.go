package beat_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// skewed is a store of schedules as a beat sees it whose clock is wrong: what is
// due, and what time it is, are by that clock.
type skewed struct {
	store.Schedules
	offset atomic.Int64
}

func (s *skewed) FiresInto(b broker.Broker) bool {
	f, ok := s.Schedules.(store.FiresInto)
	return ok && f.FiresInto(b)
}

func (s *skewed) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	due, err := s.Schedules.Due(ctx, limit, ahead)
	if err != nil {
		return due, err
	}
	all, _, err := s.List(ctx, broker.Page{Limit: 1000})
	if err != nil {
		return due, err
	}
	due.Now = due.Now.Add(time.Duration(s.offset.Load()))
	due.Entries, due.Next, due.More = nil, 0, false
	for _, e := range all {
		switch {
		case e.NextAt.IsZero():
		case !e.NextAt.After(due.Now.Add(ahead)):
			due.Entries = append(due.Entries, e)
		case due.Next == 0 || e.NextAt.Sub(due.Now) < due.Next:
			due.Next = e.NextAt.Sub(due.Now)
		}
	}
	return due, nil
}

// TestWrongClocks: beats whose clocks are seconds and hours apart, and are set back
// and forth while they run, and which lose the lead all the time, fire each moment
// once; under policy all none is missing, under latest the others are passed over.
func TestWrongClocks(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		whole, locks := r.schedules, r.locks
		var clocks []*skewed
		var cuts []*hung
		for i := range 3 {
			clock, cut := &skewed{Schedules: whole}, &hung{Locks: locks}
			clocks, cuts = append(clocks, clock), append(cuts, cut)
			r.schedules, r.locks = clock, cut
			r.run(fmt.Sprintf("beat-%d", i))
		}
		r.apply(`{"id":"all","task":"t","spec":"every:10s","misfire":{"policy":"all","max":10000}}`,
			`{"id":"latest","task":"t","spec":"every:10s"}`,
			`{"id":"skip","task":"t","spec":"every:10s","misfire":"skip"}`)
		steps := []time.Duration{0, 5 * time.Second, -5 * time.Second, time.Hour, -time.Hour, 7 * time.Minute, 0, -90 * time.Minute, 3 * time.Hour}
		for i := range 60 {
			for k, c := range clocks {
				c.offset.Store(int64(steps[(i*(k+1)+k)%len(steps)]))
			}
			cuts[i%3].cut.Store(i%2 == 0) // who led must see another lead
			cuts[(i+1)%3].cut.Store(false)
			time.Sleep(time.Duration(1+i*7%9) * time.Second)
		}
		synctest.Wait()
		for _, id := range []string{"all", "latest", "skip"} {
			l, err := r.book.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			dues := r.dues(id)
			span := int64(l.Record.LastDue.Sub(r.began) / (10 * time.Second))
			if id == "all" && l.Record.Misfired > 0 {
				t.Errorf("all: %d misfired", l.Record.Misfired)
			}
			if int64(len(dues)) != l.Record.Fired || l.Record.Fired+l.Record.Misfired != span {
				t.Errorf("%s: %d tasks, %d fired, %d misfired of %d moments", id, len(dues), l.Record.Fired, l.Record.Misfired, span)
			}
			if len(slices.Compact(slices.Clone(dues))) != len(dues) {
				t.Errorf("%s: a moment fired twice", id)
			}
		}
	})
}

// dues are the moments that the tasks of an entry are for, in order.
func (r *rig) dues(id string) []string {
	r.t.Helper()
	var dues []string
	for _, s := range r.tasks(id) {
		due, ok := strings.CutPrefix(s.ID, "sch:"+id+":")
		if !ok {
			r.t.Errorf("task %s is not named for its schedule", s.ID)
		}
		dues = append(dues, due)
	}
	slices.Sort(dues)
	return dues
}

// TestTaskIDs: an id is valid however long the entry's, and differs for each entry
// and moment.
func TestTaskIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{"a", "b", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 128), "a:20260101T000000.000Z"} {
		for _, due := range []time.Time{time.UnixMilli(1), time.UnixMilli(2), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)} {
			got := beat.TaskID(id, due)
			if seen[got] || len(got) > 128 || got != beat.TaskID(id, due.Local()) {
				t.Errorf("%s at %v: %q", id, due, got)
			}
			seen[got] = true
		}
	}
}
