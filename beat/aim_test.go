package beat_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// dozing is a store whose Wait lasts longer once, as when the process is stopped.
type dozing struct {
	store.Schedules
	next atomic.Int64   // for how much longer, in ns
	shot []store.Firing // that were asked for
}

func (d *dozing) FiresInto(b broker.Broker) bool {
	f, ok := d.Schedules.(store.FiresInto)
	return ok && f.FiresInto(b)
}

func (d *dozing) Wait(ctx context.Context, since int64, atMost time.Duration) error {
	err := d.Schedules.Wait(ctx, since, atMost)
	if now := time.Now(); now.Equal(now.Truncate(10 * time.Second)) { // the moment has come
		time.Sleep(time.Duration(d.next.Swap(0)))
	}
	return err
}

func (d *dozing) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	d.shot = append(d.shot, batch...)
	return d.Schedules.Fire(ctx, lead, batch)
}

// TestMadeReady: what is due is made ready ahead of its moment, and fires at it. A
// beat that was stopped in between decides anew: its moment is later than its grace.
func TestMadeReady(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		d := &dozing{Schedules: r.schedules}
		r.schedules = d
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:10s","misfire":{"policy":"skip","grace":"1s"}}`)
		time.Sleep(10500 * time.Millisecond)
		synctest.Wait()
		if len(d.shot) != 1 || !d.shot[0].NotBefore.Equal(d.shot[0].Due) || r.history("a")[0].Drift != 0 {
			t.Fatalf("fired %+v, history %+v", d.shot, r.history("a"))
		}
		d.next.Store(int64(1500 * time.Millisecond))
		time.Sleep(11500 * time.Millisecond)
		synctest.Wait()
		if h := r.history("a"); len(h) != 2 || h[0].Outcome != store.OutcomeMisfired {
			t.Errorf("after a stop of 1.5 s: %+v", h)
		}
	})
}

// TestChangedWhenReady: an entry that is disabled when it is made ready does not
// fire, and its neighbour does.
func TestChangedWhenReady(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:10s"}`, `{"id":"b","task":"t","spec":"every:10s"}`, `{"id":"c","task":"t","spec":"every:10s","overlap":"skip"}`)
		time.Sleep(10*time.Second - 20*time.Millisecond)
		if _, err := r.book.Disable(t.Context(), "a", beat.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if a, b, c := len(r.history("a")), r.history("b"), r.history("c"); a != 0 || len(b) != 1 || b[0].Drift != 0 || len(c) != 1 || c[0].Drift != 0 {
			t.Errorf("histories: %d lines, %+v, %+v", a, b, c)
		}
	})
}
