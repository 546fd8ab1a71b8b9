package beat_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// counted counts the looks at a store.
type counted struct {
	store.Schedules
	dues atomic.Int64
}

func (c *counted) FiresInto(b broker.Broker) bool {
	f, ok := c.Schedules.(store.FiresInto)
	return ok && f.FiresInto(b)
}

func (c *counted) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	c.dues.Add(1)
	return c.Schedules.Due(ctx, limit, ahead)
}

// end ends the newest task of an entry.
func (r *rig) end(id string) {
	r.t.Helper()
	l, err := r.book.Get(r.t.Context(), id)
	if err == nil {
		_, err = r.client.Revoke(r.t.Context(), stem.RevokeOptions{}, l.Record.LastTask)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// fired are the seconds since the test began of the moments that were fired, the
// oldest first, and how many were passed over.
func (r *rig) fired(id string) (seconds []int, missed int) {
	r.t.Helper()
	for _, h := range slices.Backward(r.history(id)) {
		missed += h.Missed
		if h.Outcome == store.OutcomeFired {
			seconds = append(seconds, int(h.Due.Sub(r.began)/time.Second))
		}
	}
	return seconds, missed
}

// TestOverlapQueue: a moment waits for the task before it, and the misfire policy
// decides on those that wait together. Others fire on time meanwhile.
func TestOverlapQueue(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		_, stop := r.run("one")
		r.apply(`{"id":"latest","task":"t","spec":"every:10s","overlap":"queue"}`,
			`{"id":"all","task":"t","spec":"every:10s","overlap":"queue","misfire":"all"}`,
			`{"id":"grace","task":"t","spec":"every:10s","overlap":"queue","misfire":{"policy":"all","grace":"12s"}}`,
			`{"id":"tick","task":"t","spec":"every:1s"}`)
		ids := []string{"latest", "all", "grace"}
		want := func(when string, seconds map[string][]int, missed map[string]int) {
			t.Helper()
			synctest.Wait()
			for _, id := range ids {
				if got, n := r.fired(id); !slices.Equal(got, seconds[id]) || n != missed[id] {
					t.Errorf("%s: %s fired for second %v and passed over %d; want %v and %d", when, id, got, n, seconds[id], missed[id])
				}
			}
		}
		time.Sleep(35 * time.Second)
		want("after 35 s", map[string][]int{"latest": {10}, "all": {10}, "grace": {10}}, nil)
		for _, id := range ids {
			r.end(id)
		}
		time.Sleep(time.Second)
		// At 35 s and a half at most, of the moments at 20 and 30 s.
		first := map[string][]int{"latest": {10, 30}, "all": {10, 20}, "grace": {10, 30}}
		want("when the first has ended", first, map[string]int{"latest": 1, "grace": 1})
		stop()
		r.run("two") // another knows who waits
		time.Sleep(2 * time.Second)
		want("with another beat", first, map[string]int{"latest": 1, "grace": 1})
		r.end("all")
		time.Sleep(time.Second)
		want("when its second has ended", map[string][]int{"latest": {10, 30}, "all": {10, 20, 30}, "grace": {10, 30}}, map[string]int{"latest": 1, "grace": 1})
		for _, h := range r.history("tick") {
			if h.Outcome != store.OutcomeFired || h.Drift > time.Second {
				t.Errorf("beside those that wait: %+v", h)
			}
		}
	})
}

// TestOverlapQueueIdle: while a moment waits, it is looked twice a second whether
// it still has to, and an entry that is disabled waits no longer.
func TestOverlapQueueIdle(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		c := &counted{Schedules: r.schedules}
		r.schedules = c
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:10s","overlap":"queue"}`)
		time.Sleep(25 * time.Second)
		before := c.dues.Load()
		time.Sleep(20 * time.Second)
		if n := c.dues.Load() - before; n < 30 || n > 50 {
			t.Errorf("%d looks in 20 s, want about 40", n)
		}
		if l, err := r.book.Get(t.Context(), "a"); err != nil || l.Record.LastDue.Sub(r.began) != 10*time.Second {
			t.Errorf("it moved on while its moment waits: %+v, %v", l.Record, err)
		} else if v := l.View(); v.Overdue(time.Now()) > 0 {
			t.Errorf("it counts as overdue: %+v", v)
		}
		if _, err := r.book.Disable(t.Context(), "a", beat.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		r.end("a")
		before = c.dues.Load()
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if n := c.dues.Load() - before; n > 20 {
			t.Errorf("%d looks in 100 s though nothing waits", n)
		}
		if seconds, _ := r.fired("a"); !slices.Equal(seconds, []int{10}) {
			t.Errorf("disabled, it fired for second %v", seconds)
		}
	})
}

// TestManyWait: more entries than are read at once wait, and one behind them fires
// on time.
func TestManyWait(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		const n = 1100
		entries := make([]string, n)
		for i := range entries {
			entries[i] = fmt.Sprintf(`{"id":"w%04d","task":"t","spec":"every:10s","overlap":"queue"}`, i)
		}
		r.apply(entries...)
		r.apply(`{"id":"z","task":"t","spec":"every:7s"}`)
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if seconds, _ := r.fired("z"); len(seconds) != 7 {
			t.Errorf("behind %d that wait, one fired for seconds %v", n, seconds)
		}
		for _, h := range r.history("z") {
			if h.Drift > time.Second {
				t.Errorf("behind %d that wait: %+v", n, h)
			}
		}
		for _, id := range []string{"w0000", "w1099"} {
			if seconds, _ := r.fired(id); !slices.Equal(seconds, []int{10}) {
				t.Errorf("%s fired for second %v", id, seconds)
			}
		}
	})
}

// TestOverlapQueueOnce: an entry that fires once does not wait for itself.
func TestOverlapQueueOnce(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"once","task":"t","spec":"every:1s","overlap":"queue","runOnce":true}`)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if l, err := r.book.Get(t.Context(), "once"); err != nil || l.Status != beat.StatusDone || l.Record.Fired != 1 {
			t.Errorf("once: %+v, %v", l, err)
		}
	})
}
