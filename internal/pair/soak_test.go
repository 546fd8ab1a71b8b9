package pair_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// TestSoak lets workers work on two stores whose calls fail by chance, before
// or after they did their work, and which are away altogether now and then,
// each for itself, while workers are stopped and started. In the end each task
// and each follow-up has ended once, as its handler leads to.
func TestSoak(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { soak(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

// dice are thrown by many.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (d *dice) roll(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

func (d *dice) nap(ctx context.Context, most time.Duration) error {
	select {
	case <-time.After(time.Duration(d.roll(int(most)))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fault fails one call in twenty, loses the answer of another, and is away for
// a while now and then.
func (d *dice) fault() *fault {
	var mu sync.Mutex
	var away time.Time
	return &fault{roll: func() (fails, loses bool) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		switch n := d.roll(400); {
		case now.Before(away):
			return true, false
		case n == 0:
			away = now.Add(time.Duration(d.roll(int(2 * lease))))
			return true, false
		default:
			return n < 20, n < 40
		}
	}}
}

const soakTasks = 200

func soak(t *testing.T, rnd *rand.Rand) {
	b, r := memory.New(), memory.New()
	defer b.Close()
	defer r.Close()
	w := newWorld(t.Context(), t, b.Broker(), r.Results())
	d := &dice{rnd: rnd}
	want := map[string]task.State{}
	var batch []broker.Publication
	for i := range soakTasks {
		kind := []string{"good", "flaky", "bad", "slow"}[i%4]
		id := fmt.Sprintf("%s-%d", kind, i)
		e := envelope(id, "q")
		e.Name, e.MaxRetries = kind, 1000
		want[id] = task.Succeeded
		if kind == "bad" {
			want[id] = task.Failed
		} else {
			want["of-"+id] = task.Succeeded
		}
		batch = append(batch, broker.Publication{Envelope: e})
	}
	for {
		j := pair.Join(&faultyBroker{w.broker, d.fault()}, &faultyResults{r.Results(), d.fault(), w.results.ends}, pair.Options{})
		if _, err := j.Publish(t.Context(), batch); err == nil {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for life := 0; ctx.Err() == nil; life++ {
				w.life(ctx, d, fmt.Sprintf("w%d-%d", i, life))
			}
		})
	}
	for range 10_000 {
		time.Sleep(time.Second)
		if w.reached(want) {
			break
		}
	}
	cancel()
	wg.Wait()
	w.finish()
	for id, s := range want {
		w.ended(id, 1, s)
	}
	for _, db := range []*memory.DB{b, r} {
		if err := db.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// reached reports whether every task is in its state.
func (w *world) reached(want map[string]task.State) bool {
	for id, s := range want {
		if w.status(id).State != s {
			return false
		}
	}
	return true
}

// life is one worker's, for some while.
func (w *world) life(ctx context.Context, d *dice, id string) {
	ctx, cancel := context.WithTimeout(ctx, lease+time.Duration(d.roll(int(10*lease))))
	defer cancel()
	results := &faultyResults{w.results.Results, d.fault(), w.results.ends}
	run, err := runner.New(runner.Config{
		Broker: pair.Join(&faultyBroker{w.broker, d.fault()}, results, pair.Options{}),
		Lookup: func(name string) *runner.Task {
			return &runner.Task{Name: name, Handle: func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
				return w.handle(ctx, d, j)
			}, Retry: runner.Retry{Base: 10 * time.Millisecond}}
		},
		ID: id, Queues: []runner.Queue{{Name: "q"}}, Concurrency: 8, Lease: lease, Keep: keepFor,
		MaxDeliveries: 1000,
		Grace:         5 * time.Second, SoftGrace: time.Second,
	})
	if err != nil {
		w.Error(err)
		return
	}
	if d.roll(3) == 0 { // it stops without a word
		time.AfterFunc(lease, func() { run.Shutdown(runner.Hard) })
	}
	if err := run.Run(ctx); err != nil && !errors.Is(err, broker.ErrUnavailable) {
		w.Errorf("worker %s: %v", id, err)
	}
}

var errFlaky = errors.New("now and then")

// handle is every task's handler.
func (w *world) handle(ctx context.Context, d *dice, j *runner.Job) (json.RawMessage, error) {
	w.results.mu.Lock()
	w.execute(j.Delivery)
	w.results.mu.Unlock()
	e := j.Envelope()
	switch e.Name {
	case "flaky":
		if d.roll(3) == 0 {
			return nil, errFlaky
		}
	case "slow":
		j.Progress(float64(d.roll(100)), nil)
		if err := d.nap(ctx, 2*lease); err != nil {
			return nil, err
		}
	case "bad":
		return nil, &runner.PermanentError{Err: errFlaky}
	}
	if e.Name != "demo" {
		j.OnSuccess(broker.Publication{Envelope: envelope("of-"+e.ID, "q")})
	}
	return nil, d.nap(ctx, time.Second)
}
