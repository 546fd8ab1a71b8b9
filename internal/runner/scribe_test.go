package runner_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// gate is a writer that holds every write until it is opened.
type gate struct {
	logs *logs
	open chan struct{}
}

func (w *gate) Write(p []byte) (int, error) {
	<-w.open
	return w.logs.Write(p)
}

// TestLogThatNobodyReads: work goes on, leases are renewed, and the stop comes
// to its end when what the log goes to takes nothing.
func TestLogThatNobodyReads(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		w := &gate{g.logs, make(chan struct{})}
		g.cfg.Logger = slog.New(slog.NewJSONHandler(w, nil))
		executed := 0
		g.noop("noop")
		g.handle("long", func(ctx context.Context, _ *runner.Job) (json.RawMessage, error) {
			executed++
			select {
			case <-time.After(5 * time.Minute): // ten leases
				return nil, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		})
		g.start()
		long := g.publish("long")
		ids := make([]string, 5000)
		for i := range ids {
			ids[i] = g.publish("noop")
		}
		after(10 * time.Minute)
		for _, id := range ids {
			g.want(id, task.Succeeded)
		}
		if g.want(long, task.Succeeded); executed != 1 {
			t.Errorf("the long task was executed %d times, want once", executed)
		}
		g.cancel()
		stopped := time.Now()
		g.wait()
		if took := time.Since(stopped); took > 5*time.Second {
			t.Errorf("the stop took %s", took)
		}
		close(w.open)
		synctest.Wait()
	})
}

// TestSlowLogSaysWhatItLost: lines that found no room are counted, and what
// comes after them is written.
func TestSlowLogSaysWhatItLost(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		w := &gate{g.logs, make(chan struct{})}
		g.cfg.Logger = slog.New(slog.NewJSONHandler(w, nil))
		g.noop("noop")
		g.start()
		const tasks = 3000
		for range tasks {
			g.publish("noop")
		}
		after(time.Minute)
		close(w.open)
		settle()
		written := len(g.logs.lines("task succeeded"))
		lost := 0.0
		for _, l := range g.logs.lines("the log is written too slowly; lines were dropped") {
			lost += l["lines"].(float64)
			if l["worker"] != "w1" {
				t.Errorf("the count is logged without the worker: %v", l)
			}
		}
		if lost == 0 || written+int(lost) != tasks {
			t.Errorf("%d lines written and %v said to be lost, of %d", written, lost, tasks)
		}
		g.stop()
		if len(g.logs.lines("worker stopped")) != 1 {
			t.Error("the last line is missing")
		}
	})
}
