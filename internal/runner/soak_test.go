package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// Everything at once: two workers on one store, connections that fail before
// and after they did their work, handlers of every temper, and workers that are
// stopped in every mode and started again. In the end each task is in the one
// terminal state that its handler leads to, nothing is lost, and the store is
// consistent.
func TestSoak(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { soak(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func soak(t *testing.T, rnd *rand.Rand) {
	inBubble(t, func(t *testing.T, g *rig) {
		roll := func(n int) int { // handlers and taps draw from it too
			g.logs.mu.Lock()
			defer g.logs.mu.Unlock()
			return rnd.IntN(n)
		}
		nap := func(ctx context.Context, most time.Duration) error {
			select {
			case <-time.After(time.Duration(roll(int(most)))):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		g.handle("good", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			return json.RawMessage(`1`), nap(ctx, 10*time.Millisecond)
		})
		g.handle("slow", func(ctx context.Context, j *runner.Job) (json.RawMessage, error) {
			j.Progress(float64(roll(100)), nil)
			return json.RawMessage(`2`), nap(ctx, 8*time.Second)
		})
		g.handle("flaky", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			if roll(3) == 0 {
				return nil, errBroken
			}
			if roll(10) == 0 {
				panic("now and then")
			}
			return json.RawMessage(`3`), nap(ctx, time.Second)
		})
		g.handle("bad", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			if err := nap(ctx, time.Second); err != nil {
				return nil, err
			}
			return nil, &runner.PermanentError{Err: errBroken}
		})
		sometimes := func(n int) func() error {
			return func() error {
				if roll(n) == 0 {
					return errAway
				}
				return nil
			}
		}
		var away box[time.Time] // until when the broker cannot be reached at all
		flicker := sometimes(20)
		g.broker.fail = func() error {
			if time.Now().Before(away.get()) {
				return errAway
			}
			return flicker()
		}
		g.broker.failAfter = sometimes(20)
		g.cfg.Lease, g.cfg.MaxDeliveries = 3*time.Second, 1000
		g.cfg.Grace, g.cfg.SoftGrace = 4*time.Second, 2*time.Second

		other := *g
		other.cfg.ID = "w2"
		workers := []*rig{g, &other}
		for _, w := range workers {
			w.start()
		}
		ids := map[string]string{}
		for range 40 {
			for range roll(20) {
				name := []string{"good", "slow", "flaky", "bad"}[roll(4)]
				ids[g.publish(name, func(e *task.Envelope) { e.MaxRetries = 100 })] = name
			}
			after(time.Duration(roll(int(2 * time.Second))))
			if roll(8) == 0 { // long enough to lose leases
				away.set(time.Now().Add(time.Duration(roll(int(8 * time.Second)))))
			}
			if roll(4) == 0 {
				w := workers[roll(2)]
				w.runner.Shutdown(runner.Mode(1 + roll(3)))
				w.wait()
				w.start()
			}
		}
		g.broker.set(func() { g.broker.fail, g.broker.failAfter = nil, nil })
		for range 100 { // retries wait up to ten minutes
			after(time.Minute)
		}
		other.stop()
		for id, name := range ids {
			want := task.Succeeded
			if name == "bad" {
				want = task.Failed
			}
			g.want(id, want)
		}
		if dead := len(g.deadLetters()); dead == 0 {
			t.Error("no dead letters")
		}
		if len(ids) < 100 {
			t.Errorf("only %d tasks", len(ids))
		}
	})
}

// Metrics and heartbeat say what happened.
func TestHeartbeatSaysWhatRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Version, g.cfg.HeartbeatInterval, g.cfg.Lease = "1.2.3", 5*time.Second, 8*time.Second
		g.sleeper("long", 20*time.Second)
		g.noop("noop")
		g.handle("bad", func(context.Context, *runner.Job) (json.RawMessage, error) {
			return nil, &runner.PermanentError{Err: errors.New("x")}
		})
		g.start()
		id := g.publish("long")
		began := time.Now()
		g.publish("noop")
		g.publish("bad")
		after(6 * time.Second)
		all, err := g.db.Heartbeats().Workers(context.Background())
		if err != nil || len(all) != 1 {
			t.Fatalf("%d heartbeats, %v", len(all), err)
		}
		h := all[0]
		if h.Worker != "w1" || h.Version != "1.2.3" || h.PID == 0 || h.Host == "" || h.Draining || h.Isolates.Active != 1 ||
			h.Isolates.Total != 4 || h.Inflight != 1 || h.Succeeded != 1 || h.Failed != 1 || h.RenewedAt.IsZero() {
			t.Errorf("heartbeat %+v", h)
		}
		if len(h.Running) != 1 || h.Running[0].ID != id || h.Running[0].Name != "long" || !h.Running[0].Since.Equal(began) {
			t.Errorf("runs %+v", h.Running)
		}
		g.runner.Shutdown(runner.Hard)
		g.wait()
		after(16 * time.Second) // three intervals without one
		if all, err = g.db.Heartbeats().Workers(context.Background()); err != nil || len(all) != 0 {
			t.Errorf("%d heartbeats of a dead worker, %v", len(all), err)
		}
	})
}
