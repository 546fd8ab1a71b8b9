package runner_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// board is where a test changes rates.
type board struct {
	mu    sync.Mutex
	all   map[string]*runner.Limit
	fail  error
	reads int
}

func (b *board) read(context.Context) (map[string]*runner.Limit, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	return maps.Clone(b.all), b.fail
}

func (b *board) set(name string, l *runner.Limit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[string]*runner.Limit{}
	}
	b.all[name] = l
}

func (b *board) failing(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func (b *board) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads
}

func perSecond(name string, n int) *runner.Limit {
	return runner.NewLimit(name, store.Rate{Count: n, Per: time.Second}, false)
}

// A worker has a rate changed from its start on, when it is told, and beside a
// heartbeat when it was not told; what it cannot read changes nothing.
func TestRateChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := &board{}
		g.cfg.Control, g.cfg.Rates, g.cfg.HeartbeatInterval = g.db.Control(), b.read, 10*time.Second
		s := g.limited("slow", store.Rate{Count: 1, Per: time.Hour}, nil)
		b.set("slow", perSecond("slow", 10))
		g.start()
		for range 11 {
			g.publish("slow")
		}
		after(1100 * time.Millisecond)
		if n := len(s.all()); n != 11 {
			t.Fatalf("%d started in a second, at 10 a second from the start on", n)
		}

		b.set("slow", perSecond("slow", 2))
		got := reads[runner.Rated](g, runner.KindRate, `{"task":"slow"}`)
		if want := (runner.Rated{Known: true, Before: "10/s", After: "2/s"}); got != want {
			t.Fatalf("replied %+v, want %+v", got, want)
		}
		for range 5 {
			g.publish("slow")
		}
		after(1100 * time.Millisecond)
		if n := len(s.all()); n != 11+3 && n != 11+2 {
			t.Errorf("%d more started in a second, at 2 a second", n-11)
		}
		after(2 * time.Second)

		b.failing(errors.New("away"))
		b.set("slow", nil)
		if r := g.asks(runner.KindRate, `{"task":"slow"}`); r.Error == "" {
			t.Errorf("a change that cannot be read is answered with %s", r.Data)
		}
		g.publish("slow")
		after(time.Second)
		b.failing(nil)
		after(11 * time.Second) // a heartbeat finds it
		before := len(s.all())
		for range 20 {
			g.publish("slow")
		}
		after(100 * time.Millisecond)
		if n := len(s.all()) - before; n != 20 {
			t.Errorf("%d of 20 started at once, without a limit", n)
		}
		if got := reads[runner.Rated](g, runner.KindRate, `{"task":"other"}`); got != (runner.Rated{}) {
			t.Errorf("of a task that it does not know: %+v", got)
		}
	})
}

// A task without a limit can be given one, and a worker without work does not ask.
func TestRateForAnUnlimitedTask(t *testing.T) {
	inBubble(t, func(t *testing.T, g *rig) {
		b := &board{}
		g.cfg.Rates, g.cfg.HeartbeatInterval = b.read, 10*time.Second
		g.cfg.Limiter = g.db.Broker().(store.Limiter)
		g.noop("free")
		b.set("free", perSecond("free", 1))
		g.start()
		first, second := g.publish("free"), g.publish("free")
		after(500 * time.Millisecond)
		g.want(first, task.Succeeded)
		g.want(second, task.Queued)
		after(time.Minute)
		g.want(second, task.Succeeded)
		idle := b.count()
		after(time.Hour)
		if n := b.count(); n != idle {
			t.Errorf("read %d times in an hour without work", n-idle)
		}
	})
}
