package runner_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// asks sends a command to the runner and returns its reply.
func (g *rig) asks(kind, args string) store.Reply {
	g.t.Helper()
	c := store.Command{ID: task.NewID(), To: "w*", Kind: kind, Args: json.RawMessage(args), For: time.Second}
	replies, err := g.db.Control().Ask(context.Background(), c)
	if err != nil {
		g.t.Fatal(err)
	}
	defer replies.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := replies.Next(ctx)
	if err != nil {
		g.t.Fatalf("%s is not answered: %v", kind, err)
	}
	if r.Worker != "w1" || r.Command != c.ID {
		g.t.Errorf("%s is answered by %q, of %s", kind, r.Worker, r.Command)
	}
	return r
}

// reads decodes what a command replied.
func reads[T any](g *rig, kind, args string) (out T) {
	g.t.Helper()
	r := g.asks(kind, args)
	if r.Error != "" {
		g.t.Fatalf("%s: %s", kind, r.Error)
	}
	if err := json.Unmarshal(r.Data, &out); err != nil {
		g.t.Fatalf("%s replied %s: %v", kind, r.Data, err)
	}
	return out
}

func TestCommandsThatAsk(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Control = g.db.Control()
		g.cfg.Concurrency, g.cfg.Prefetch = 2, 2
		g.sleeper("ten", 10*time.Second)
		g.start()
		ids := g.held("ten", 4)
		if r := g.asks(runner.KindPing, ""); r.Error != "" || r.Data != nil {
			t.Errorf("ping: %+v", r)
		}
		in := reads[runner.Inspection](g, runner.KindInspect, "")
		if len(in.Active) != 2 || len(in.Prefetched) != 2 || in.Active[0].ID != ids[0] || in.Prefetched[1].ID != ids[3] || in.Truncated {
			t.Errorf("inspection: %+v, want %v", in, ids)
		}
		if a := in.Active[0]; a.Name != "ten" || a.Queue != "default" || a.Since.IsZero() || a.Revoked {
			t.Errorf("what is active: %+v", a)
		}
		h := reads[store.Heartbeat](g, runner.KindStats, "")
		if h.Worker != "w1" || h.Isolates.Active != 2 || h.Isolates.Total != 2 || h.Inflight != 4 {
			t.Errorf("stats: %+v", h)
		}
		if r := g.asks("dance", ""); !strings.Contains(r.Error, `"dance"`) {
			t.Errorf("an unknown command: %+v", r)
		}
	})
}

func TestScale(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Control, g.cfg.Concurrency, g.cfg.Prefetch = g.db.Control(), 2, 1
		g.sleeper("ten", 10*time.Second)
		g.start()
		ids := g.held("ten", 6)
		active := func(want, total int) {
			t.Helper()
			settle()
			if h := g.runner.Snapshot(); h.Isolates != (store.Isolates{Active: want, Total: total}) {
				t.Errorf("isolates %+v, want %d of %d active", h.Isolates, want, total)
			}
		}
		active(2, 2)
		if s := reads[runner.Scaled](g, runner.KindScale, `{"concurrency":5}`); s != (runner.Scaled{Before: 2, After: 5}) {
			t.Errorf("scaled: %+v", s)
		}
		active(5, 5)
		reads[runner.Scaled](g, runner.KindScale, `{"concurrency":1}`)
		active(5, 5) // what runs goes on
		time.Sleep(10 * time.Second)
		active(1, 1)
		time.Sleep(10 * time.Second)
		active(0, 1)
		for _, id := range ids {
			g.want(id, task.Succeeded)
		}
		for _, bad := range []string{`{"concurrency":0}`, `{"concurrency":-1}`, `{"concurrency":1000000}`, `{"concurrency":"x"}`, `nonsense`} {
			if r := g.asks(runner.KindScale, bad); r.Error == "" {
				t.Errorf("scale %s is obeyed: %+v", bad, r)
			}
		}
		active(0, 1)
		late := g.publish("ten")
		time.Sleep(11 * time.Second)
		g.want(late, task.Succeeded)
	})
}

func TestShutdownByCommand(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Control = g.db.Control()
		g.sleeper("ten", 10*time.Second)
		g.start()
		ids := g.held("ten", 1)
		if r := g.asks(runner.KindShutdown, `{"mode":"now"}`); !strings.Contains(r.Error, "warm, soft or hard") {
			t.Errorf("a mode that there is not: %+v", r)
		}
		if r := g.asks(runner.KindShutdown, `{"mode":"warm"}`); r.Error != "" {
			t.Errorf("shutdown: %+v", r)
		}
		settle()
		if h := g.runner.Snapshot(); !h.Draining {
			t.Error("it does not drain")
		}
		if r := g.asks(runner.KindScale, `{"concurrency":9}`); !strings.Contains(r.Error, "stopping") {
			t.Errorf("scaling while stopping: %+v", r)
		}
		g.wait()
		g.want(ids[0], task.Succeeded)
	})
}

func TestLogLevelByCommand(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Control = g.db.Control()
		g.start()
		if r := g.asks(runner.KindLogLevel, `{"level":"debug"}`); r.Error == "" {
			t.Errorf("a level that cannot be changed: %+v", r)
		}
		g.stop()
		g.cfg.LogLevel = new(slog.LevelVar)
		g.start()
		if before := reads[runner.LogLevelArgs](g, runner.KindLogLevel, `{"level":"debug"}`); before.Level != "INFO" || g.cfg.LogLevel.Level() != slog.LevelDebug {
			t.Errorf("before %+v, now %s", before, g.cfg.LogLevel)
		}
		if r := g.asks(runner.KindLogLevel, `{"level":"loud"}`); !strings.Contains(r.Error, "loud") {
			t.Errorf("a level that there is not: %+v", r)
		}
	})
}

// deaf is a channel that cannot be listened to for a while.
type deaf struct {
	store.Control
	failures int
}

func (d *deaf) Listen(ctx context.Context, worker string) (store.Commands, error) {
	if d.failures--; d.failures >= 0 {
		return nil, context.DeadlineExceeded
	}
	return d.Control.Listen(ctx, worker)
}

func TestListensAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		g.cfg.Control = &deaf{g.db.Control(), 5}
		g.start()
		time.Sleep(time.Minute)
		if r := g.asks(runner.KindPing, ""); r.Error != "" {
			t.Errorf("ping: %+v", r)
		}
	})
}
