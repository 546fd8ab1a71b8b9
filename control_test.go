package stem_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
)

// fleet runs workers on a backend until the returned function is called.
func fleet(t *testing.T, b stem.Backend, r stem.Registration, ids ...string) (*stem.Client, func()) {
	t.Helper()
	c, err := stem.NewClient(b, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, id := range ids {
		w := stem.NewWorker(c, stem.WorkerOptions{ID: id, Concurrency: 2})
		if err := w.Handle(r); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return c, func() { cancel(); running.Wait() }
}

func workersOf(a stem.Asked) (names []string) {
	for _, r := range a.Replies {
		names = append(names, r.Worker)
	}
	return names
}

func TestAskWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, err := connect.Open(t.Context(), connect.Options{Broker: "memory:"})
		if err != nil {
			t.Fatal(err)
		}
		b := stem.Pair(memory.New(), inner) // control goes with the heartbeats, through what wraps them
		defer b.Close()
		c, stop := fleet(t, b, double.With(func(_ context.Context, n int) (int, error) { return 2 * n, nil }), "a1", "a2", "b1")
		time.Sleep(time.Second)
		began := time.Now()
		asked, err := c.Ask(t.Context(), stem.AskOptions{}, stem.CommandPing, nil)
		if err != nil || !slices.Equal(workersOf(asked), []string{"a1", "a2", "b1"}) || len(asked.Silent) > 0 {
			t.Errorf("ping: %+v, %v", asked, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("all have replied, and it took %s", took)
		}
		beat := store.Heartbeat{Worker: "a-ghost", At: time.Now()}
		if err := inner.Heartbeats().Beat(t.Context(), beat, time.Hour); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		asked, err = c.Ask(t.Context(), stem.AskOptions{To: "a*", Wait: 3 * time.Second}, stem.CommandStats, nil)
		if err != nil || !slices.Equal(workersOf(asked), []string{"a1", "a2"}) || !slices.Equal(asked.Silent, []string{"a-ghost"}) {
			t.Errorf("stats: %+v, %v", asked, err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("one is silent, and it took %s", took)
		}
		var h stem.Heartbeat
		if err := asked.Replies[1].Decode(&h); err != nil || h.Worker != "a2" {
			t.Errorf("stats of a2: %+v, %v", h, err)
		}
		if asked, err = c.Ask(t.Context(), stem.AskOptions{To: "nobody"}, stem.CommandPing, nil); err != nil || len(asked.Replies)+len(asked.Silent) > 0 {
			t.Errorf("asking nobody: %+v, %v", asked, err)
		}
		asked, err = c.Ask(t.Context(), stem.AskOptions{To: "b1"}, stem.CommandShutdown, stem.ShutdownArgs{Mode: "nice"})
		if err != nil || len(asked.Replies) != 1 || asked.Replies[0].Decode(nil) == nil {
			t.Errorf("a refusal: %+v, %v", asked, err)
		}
		stop()
		if list, err := c.Workers(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("after all have stopped: %+v, %v", list, err)
		}
	})
}

// bare is a store without a channel to workers.
type bare struct{ stem.Backend }

func TestAskWithoutAChannel(t *testing.T) {
	db := memory.New()
	defer db.Close()
	c, err := stem.NewClient(bare{db}, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), stem.AskOptions{}, stem.CommandPing, nil); !errors.Is(err, broker.ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

// A paused queue is left alone by workers that run and by workers that start
// later, within a second.
func TestPausedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := memory.New()
		defer db.Close()
		var started atomic.Int32
		handler := double.With(func(_ context.Context, n int) (int, error) {
			started.Add(1)
			time.Sleep(300 * time.Millisecond)
			return 2 * n, nil
		})
		c, stop := fleet(t, db, handler, "w1")
		var ids []string
		for i := range 20 {
			h, err := double.Enqueue(t.Context(), c, i)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, h.ID)
		}
		time.Sleep(100 * time.Millisecond)
		if err := c.PauseQueues(t.Context(), "for the test", "default"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before := started.Load()
		time.Sleep(time.Minute)
		if n := started.Load(); n != before || n == 0 || n == 20 {
			t.Errorf("%d were started, a second after the pause %d", n, before)
		}
		list, err := c.PausedQueues(t.Context())
		if err != nil || len(list) != 1 || list[0].Queue != "default" || list[0].Note != "for the test" {
			t.Errorf("paused: %+v, %v", list, err)
		}
		stop()
		_, stop = fleet(t, db, handler, "w2", "w3")
		time.Sleep(time.Minute)
		if n := started.Load(); n != before {
			t.Errorf("workers that started later have started %d", n-before)
		}
		if was, err := c.ResumeQueues(t.Context(), "default", "other"); err != nil || fmt.Sprint(was) != "[true false]" {
			t.Errorf("resume: %v, %v", was, err)
		}
		for _, id := range ids {
			if s, err := c.Wait(t.Context(), id); err != nil || s.State != stem.Succeeded || s.Attempt != 1 {
				t.Errorf("%s: %+v, %v", id, s, err)
			}
		}
		stop()
	})
}
