package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// told waits for a change to be told.
func (e *env) told(what string, changed <-chan struct{}) {
	e.Helper()
	timer := time.NewTimer(second + e.o.Slack)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
		e.Errorf("%s: nothing was told of it", what)
	}
}

// empty takes what is told of earlier changes.
func empty(changed <-chan struct{}) {
	for {
		select {
		case <-changed:
		case <-time.After(2 * poll):
			return
		}
	}
}

// testS12: subscribers are told of each change that follows.
func testS12(e *env) {
	if e.Watcher == nil {
		if w, ok := e.Results.(store.Watcher); ok {
			e.Errorf("%T is a Watcher, and Backend.Watcher is not set", w)
		}
		return
	}
	changed, cancel := e.Watcher.Subscribe("a")
	defer cancel()
	mute, cancelMute := e.Watcher.Subscribe("a") // never read: it must block nobody
	defer cancelMute()
	other := e
	if e.o.Reopen != nil {
		copied := *e
		copied.Backend = e.o.Reopen(e.TB, e.Backend)
		other = &copied
	}
	for _, by := range []*env{e, other} {
		for _, step := range []struct {
			what string
			act  func()
		}{
			{"Create", func() { by.create("a") }},
			{"a start", func() { by.start(startOf("a", 1)) }},
			{"progress", func() {
				by.update(store.Update{Key: store.Key{ID: "a", Epoch: 1}, Progress: &task.Progress{Percent: 5, At: now()}})
			}},
			{"an outcome", func() { by.record(outcomeOf("a", 1, task.Failed)) }},
			{"Requeue", func() { by.is("Requeue", by.requeue("a", 2, 1, now()), nil) }},
			{"another outcome", func() { by.record(outcomeOf("a", 2, task.Succeeded)); by.clear("a", 2) }},
			{"Delete", func() {
				if errs, err := by.Results.Delete(by.ctx, "a"); err != nil || errs[0] != nil {
					by.Fatalf("Delete: %v, %v", errs, err)
				}
			}},
		} {
			empty(changed)
			step.act()
			e.told(step.what, changed)
		}
	}
	lastIsTold(e, other)

	select {
	case _, open := <-mute:
		if !open {
			e.Errorf("the channel of a subscriber is closed")
		}
	default:
		e.Errorf("a subscriber that was slow was told nothing")
	}
	cancelMute()
	cancelMute() // twice is no harm
	again, cancelAgain := e.Watcher.Subscribe("a")
	defer cancelAgain()
	e.start(startOf("a", 1))
	e.told("a change after other subscribers went", again)
}

// lastIsTold: of many quick changes the last one is seen by who looks whenever
// it is told.
func lastIsTold(e, by *env) {
	const last = 60
	e.create("p")
	e.start(startOf("p", 1))
	changed, cancel := e.Watcher.Subscribe("p")
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range last + 1 {
			u := store.Update{Key: store.Key{ID: "p", Epoch: 1}, Progress: &task.Progress{Percent: float64(i), At: now()}}
			if _, err := by.Results.Update(by.ctx, []store.Update{u}); err != nil {
				by.Errorf("Update: %v", err)
			}
		}
	})
	over := time.NewTimer(10*second + e.o.Slack)
	defer over.Stop()
	for {
		if p := e.get("p").Progress; p != nil && p.Percent == last {
			return
		}
		select {
		case <-changed:
		case <-over.C:
			e.Errorf("progress %d was stored, and nothing told of it", last)
			return
		}
	}
}

// testS13: heartbeats live as long as their TTL.
func testS13(e *env) {
	if e.Heartbeats == nil {
		return
	}
	beat := func(worker string, inflight int, ttl time.Duration) store.Heartbeat {
		e.Helper()
		h := store.Heartbeat{
			Worker: worker, Host: "host", PID: 42, Version: "1.0", StartedAt: now().Add(-time.Hour), At: now(),
			Queues: []string{"default", "m*"}, Isolates: store.Isolates{Active: 3, Total: 8}, Inflight: inflight,
			Running:   []store.RunningJob{{ID: "t1", Name: "demo.task", Since: now()}},
			Succeeded: 7, Failed: 2, Retried: 1, RenewedAt: now(), Draining: inflight == 0,
		}
		if err := e.Heartbeats.Beat(e.ctx, h, ttl); err != nil {
			e.Fatalf("Beat: %v", err)
		}
		return h
	}
	workers := func() map[string]store.Heartbeat {
		e.Helper()
		list, err := e.Heartbeats.Workers(e.ctx)
		if err != nil {
			e.Fatalf("Workers: %v", err)
		}
		found := make(map[string]store.Heartbeat)
		for _, h := range list {
			if _, twice := found[h.Worker]; twice {
				e.Errorf("%s is listed twice", h.Worker)
			}
			found[h.Worker] = h
		}
		return found
	}
	if got := workers(); len(got) != 0 {
		e.Errorf("nobody beat, and %v is listed", got)
	}
	began := time.Now()
	beat("brief", 1, e.o.Keep)
	beat("a", 5, long)
	newest := beat("a", 6, long)
	b := beat("b", 0, long)
	got := workers()
	if !reflect.DeepEqual(got["a"], newest) || !reflect.DeepEqual(got["b"], b) {
		e.Errorf("heartbeats: got %+v\nwant %+v and %+v", got, newest, b)
	}
	for {
		_, listed := workers()["brief"]
		passed := time.Since(began)
		if !listed && passed < e.o.Keep-early {
			e.Errorf("a heartbeat of %s is gone after %s", e.o.Keep, passed)
		}
		if !listed {
			break
		}
		if passed > e.o.Keep+2*second+e.o.Slack {
			e.Fatalf("a heartbeat of %s is listed after %s", e.o.Keep, passed)
		}
		time.Sleep(poll)
	}
	if got := workers(); len(got) != 2 {
		e.Errorf("after one TTL passed: got %v, want a and b", got)
	}
}

// everyCall has one call of each method that takes a context.
func everyCall(b Backend) map[string]func(context.Context) error {
	calls := map[string]func(context.Context) error{
		"Create": func(ctx context.Context) error {
			_, err := b.Results.Create(ctx, []task.Status{task.NewStatus(envelope("n1")), task.NewStatus(envelope("n2"))})
			return err
		},
		"Update": func(ctx context.Context) error {
			_, err := b.Results.Update(ctx, []store.Update{startOf("a", 1)})
			return err
		},
		"Record": func(ctx context.Context) error {
			_, err := b.Results.Record(ctx, []store.Record{outcomeOf("a", 1, task.Succeeded)})
			return err
		},
		"Clear": func(ctx context.Context) error { return b.Results.Clear(ctx, []store.Key{{ID: "a", Epoch: 1}}) },
		"Requeue": func(ctx context.Context) error {
			_, err := b.Results.Requeue(ctx, []broker.ReplayedTask{{ID: "a", Epoch: 2, ReplayCount: 1}})
			return err
		},
		"Get":    func(ctx context.Context) error { _, err := b.Results.Get(ctx, "a"); return err },
		"List":   func(ctx context.Context) error { _, err := b.Results.List(ctx, store.Query{}); return err },
		"Delete": func(ctx context.Context) error { _, err := b.Results.Delete(ctx, "a"); return err },
	}
	if b.Outboxes != nil {
		calls["ListOutboxes"] = func(ctx context.Context) error {
			_, _, err := b.Outboxes.ListOutboxes(ctx, time.Now(), broker.Page{})
			return err
		}
	}
	return calls
}

// testS14: a closed store says so.
func testS14(e *env) {
	e.create("a")
	if err := e.Results.Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	for what, call := range everyCall(e.Backend) {
		e.is(what+" after Close", call(e.ctx), broker.ErrClosed)
	}
	if err := e.Results.Close(); err != nil && !errors.Is(err, broker.ErrClosed) {
		e.Errorf("Close after Close: %v", err)
	}
}

// testS15: many at once, and contexts that end.
func testS15(e *env) {
	e.create("a")
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	for what, call := range everyCall(e.Backend) {
		e.is(what+" with a cancelled context", call(cancelled), context.Canceled)
	}
	_, first := e.find("n1")
	if _, second := e.find("n2"); first != second {
		e.Errorf("of a batch whose context was cancelled one is stored and one is not")
	}

	const writers, each = 6, 20
	var shared []string
	for i := range each {
		shared = append(shared, fmt.Sprintf("shared-%d", i))
	}
	var mu sync.Mutex
	created, recorded := make(map[string]int), make(map[string]int)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i, id := range shared {
				errs, err := e.Results.Create(e.ctx, []task.Status{task.NewStatus(envelope(id))})
				if err != nil {
					e.Errorf("Create beside others: %v", err)
					return
				}
				epoch := int64(1 + w)
				if _, err := e.Results.Update(e.ctx, []store.Update{startOf(id, epoch)}); err != nil {
					e.Errorf("Update beside others: %v", err)
				}
				r := outcomeOf(id, epoch, task.Succeeded)
				r.Outcome.Result = json.RawMessage(fmt.Sprint(epoch))
				rerrs, err := e.Results.Record(e.ctx, []store.Record{r})
				if err != nil {
					e.Errorf("Record beside others: %v", err)
					return
				}
				mu.Lock()
				if errs[0] == nil {
					created[id]++
				}
				if rerrs[0] == nil {
					recorded[id]++
				}
				mu.Unlock()
				if _, err := e.Results.List(e.ctx, store.Query{Limit: 1 + i}); err != nil {
					e.Errorf("List beside others: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, id := range shared {
		if created[id] != 1 && created[id] != 0 || recorded[id] != 1 { // a start may have come before every Create
			e.Errorf("%s was created %d times and ended %d times, by %d writers", id, created[id], recorded[id], writers)
		}
		e.state("after all", id, task.Succeeded)
	}
	l, err := e.Results.List(e.ctx, store.Query{Limit: 1000})
	ids := statusIDs(l.Statuses)
	slices.Sort(ids)
	if err != nil || len(slices.Compact(ids)) != len(l.Statuses) || len(ids) < each {
		e.Errorf("listing after all: %d, error %v", len(ids), err)
	}
}
