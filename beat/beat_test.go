package beat_test

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a deployment in memory: one store, or tasks apart from schedules.
type rig struct {
	t         *testing.T
	client    *stem.Client
	book      *beat.Book
	schedules store.Schedules
	locks     store.Locks
	began     time.Time
}

// newRig makes one; apart keeps the schedules in another store than the tasks.
func newRig(t *testing.T, apart bool) *rig {
	t.Helper()
	tasks := memory.New()
	t.Cleanup(func() { _ = tasks.Close() })
	where := tasks
	if apart {
		where = memory.New()
		t.Cleanup(func() { _ = where.Close() })
	}
	client, err := stem.NewClient(tasks, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, client: client, schedules: where.Schedules(), locks: where.Locks(), began: time.Now()}
	if r.book, err = beat.NewBook(client, r.schedules, r.locks); err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs a beat until the end of the test, or until stop is called.
func (r *rig) run(id string) (b *beat.Beat, stop func()) {
	r.t.Helper()
	b, err := beat.New(r.client, r.schedules, r.locks, beat.Options{ID: id})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("beat %s: %v", id, err)
		}
	}
	r.t.Cleanup(stop)
	return b, stop
}

// apply stores entries that are given as JSON.
func (r *rig) apply(entries ...string) {
	r.t.Helper()
	var desired []beat.Desired
	for _, text := range entries {
		var d beat.Desired
		if err := json.Unmarshal([]byte(text), &d.Entry); err != nil {
			r.t.Fatalf("%s: %v", text, err)
		}
		desired = append(desired, d)
	}
	if _, err := r.book.Apply(r.t.Context(), desired, false); err != nil {
		r.t.Fatal(err)
	}
}

// tasks are the moments that the tasks of an entry stand for, oldest first, with
// what the client has of each.
func (r *rig) tasks(id string) []stem.Status {
	r.t.Helper()
	var out []stem.Status
	q := store.Query{Limit: 1000}
	for {
		l, err := r.client.List(r.t.Context(), q)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, s := range l.Statuses {
			if string(s.Meta["user"]) == `{"schedule":"`+id+`"}` {
				out = append([]stem.Status{s}, out...)
			}
		}
		if q.Cursor = l.Cursor; q.Cursor == "" {
			return out
		}
	}
}

func (r *rig) history(id string) []store.FireRecord {
	r.t.Helper()
	h, err := r.book.History(r.t.Context(), id, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

// forms runs a test with schedules and tasks in one store, and in two.
func forms(t *testing.T, test func(t *testing.T, r *rig)) {
	for name, apart := range map[string]bool{"one store": false, "two stores": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newRig(t, apart)) })
		})
	}
}

func TestFiresOnTime(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"tick","task":"demo.tick","spec":"every:10s","args":{"n":1},"options":{"queue":"ticks","priority":7,"expiresIn":"1m"}}`)
		time.Sleep(35 * time.Second)
		synctest.Wait()
		tasks := r.tasks("tick")
		if len(tasks) != 3 {
			t.Fatalf("%d tasks in 35 s, want 3", len(tasks))
		}
		for _, s := range tasks {
			if s.Queue != "ticks" || string(s.Args) != `{"n":1}` {
				t.Errorf("task %s: queue %s, args %s", s.ID, s.Queue, s.Args)
			}
		}
		for _, h := range r.history("tick") {
			if h.Outcome != store.OutcomeFired || h.Drift < 0 || h.Drift > 20*time.Millisecond || h.Beat != "one" || h.Task != beat.TaskID("tick", h.Due) {
				t.Errorf("history: %+v", h)
			}
		}
		l, err := r.book.Get(t.Context(), "tick")
		if err != nil || l.Status != beat.StatusActive || l.Record.Fired != 3 || time.Until(l.Record.NextDue) > 10*time.Second {
			t.Errorf("entry: %+v, %v", l, err)
		}
	})
}

// TestWokenByChanges: an entry that is due sooner than all others fires on time,
// though the beat sleeps already.
func TestWokenByChanges(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"slow","task":"a","spec":"every:24h"}`)
		time.Sleep(5500 * time.Millisecond)
		due := time.Now().Add(100 * time.Millisecond).UTC()
		r.apply(`{"id":"soon","task":"a","spec":{"clocked":"` + due.Format("2006-01-02T15:04:05.000Z07:00") + `"}}`)
		time.Sleep(time.Second)
		synctest.Wait()
		h := r.history("soon")
		if len(h) != 1 || h[0].Drift > 10*time.Millisecond {
			t.Errorf("history: %+v", h)
		}
		if l, err := r.book.Get(t.Context(), "soon"); err != nil || l.Status != beat.StatusDone {
			t.Errorf("status %s, %v; want done", l.Status, err)
		}
	})
}

func TestMisfirePolicies(t *testing.T) {
	cases := map[string]struct {
		misfire       string
		fired, missed int
	}{
		"latest":       {`"latest"`, 1, 59},
		"latest grace": {`{"policy":"latest","grace":"1s"}`, 1, 59},
		"all":          {`"all"`, 60, 0},
		"all max":      {`{"policy":"all","max":7}`, 7, 53},
		"all grace":    {`{"policy":"all","grace":"30s"}`, 3, 57},
		"skip":         {`"skip"`, 1, 59},
		"skip grace":   {`{"policy":"skip","grace":"25s"}`, 3, 57},
	}
	forms(t, func(t *testing.T, r *rig) {
		for name, c := range cases {
			r.apply(`{"id":"` + key(name) + `","task":"a","spec":"every:10s","misfire":` + c.misfire + `}`)
		}
		time.Sleep(10*time.Minute + 500*time.Millisecond) // 60 moments, the newest 0.5 s ago
		r.run("one")
		time.Sleep(time.Second)
		synctest.Wait()
		for name, c := range cases {
			l, err := r.book.Get(t.Context(), key(name))
			if err != nil {
				t.Fatal(err)
			}
			if l.Record.Fired != int64(c.fired) || l.Record.Misfired != int64(c.missed) || len(r.tasks(key(name))) != c.fired {
				t.Errorf("%s: fired %d (%d tasks), misfired %d; want %d and %d", name, l.Record.Fired, len(r.tasks(key(name))), l.Record.Misfired, c.fired, c.missed)
			}
		}
	})
}

func key(name string) string {
	out := []byte(name)
	for i := range out {
		if out[i] == ' ' {
			out[i] = '-'
		}
	}
	return string(out)
}
