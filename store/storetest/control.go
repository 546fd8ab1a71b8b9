package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// far is this backend as another process sees it, where there is one.
func (e *env) far() *env {
	e.Helper()
	if e.o.Reopen == nil {
		return e
	}
	other := *e
	other.Backend = e.o.Reopen(e.TB, e.Backend)
	return &other
}

// listen hears the commands for a worker until the test ends.
func (e *env) listen(worker string) store.Commands {
	e.Helper()
	l, err := e.Control.Listen(e.ctx, worker)
	if err != nil {
		e.Fatalf("Listen as %s: %v", worker, err)
	}
	e.Cleanup(func() {
		if err := l.Close(); err != nil {
			e.Errorf("Close of what %s hears: %v", worker, err)
		}
	})
	return l
}

// command is one that holds for long.
func command(to, kind string) store.Command {
	return store.Command{ID: task.NewID(), To: to, Kind: kind, Args: json.RawMessage(`{"n":1}`), For: long}
}

// ask sends a command.
func (e *env) ask(c store.Command) store.Replies {
	e.Helper()
	r, err := e.Control.Ask(e.ctx, c)
	if err != nil {
		e.Fatalf("Ask: %v", err)
	}
	e.Cleanup(func() {
		if err := r.Close(); err != nil {
			e.Errorf("Close of replies: %v", err)
		}
	})
	return r
}

// hears checks which kinds of commands a listener hears next, in order.
func (e *env) hears(what string, l store.Commands, kinds ...string) []store.Command {
	e.Helper()
	var got []store.Command
	for range kinds {
		got = append(got, next(e, what, l.Next))
	}
	for i, c := range got {
		if c.Kind != kinds[i] {
			e.Fatalf("%s: hears %s as number %d, want %v", what, c.Kind, i, kinds)
		}
	}
	return got
}

// next is what a stream has within a second.
func next[T any](e *env, what string, read func(context.Context) (T, error)) T {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, second+e.o.Slack)
	defer cancel()
	item, err := read(ctx)
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
	return item
}

// silent checks that a stream has nothing for a while.
func silent[T any](e *env, what string, read func(context.Context) (T, error)) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 20*poll)
	defer cancel()
	if item, err := read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		e.Errorf("%s: got %+v, error %v, want nothing", what, item, err)
	}
}

// testC1: who is meant hears, and nobody else.
func testC1(e *env) {
	if e.Control == nil {
		return
	}
	far := e.far()
	a1, a2, b := e.listen("a1"), far.listen("a2"), far.listen("b")
	twin := e.listen("b")
	first := command("a*", "one")
	e.ask(first)
	far.ask(command("b", "two"))
	e.ask(command("*", "three"))
	far.ask(command("a", "four"))
	e.ask(command("*1", "five"))
	got := e.hears("a1", a1, "one", "three", "five")
	if c := got[0]; c.ID != first.ID || c.To != "a*" || string(c.Args) != `{"n":1}` || c.For != long {
		e.Errorf("a command came as %+v, want %+v", c, first)
	}
	e.hears("a2", a2, "one", "three")
	e.hears("b", b, "two", "three")
	e.hears("another b", twin, "two", "three")
	for what, l := range map[string]store.Commands{"a1": a1, "a2": a2, "b": b} {
		silent(e, what, l.Next)
	}
	var kinds []string
	for i := range 50 {
		kinds = append(kinds, fmt.Sprint("k", i))
		e.ask(command("b", kinds[i]))
	}
	e.hears("b, of many", b, kinds...)
}

// testC2: it is a channel, not a queue.
func testC2(e *env) {
	if e.Control == nil {
		return
	}
	e.ask(command("*", "early"))
	l, late := e.listen("w"), e.far().listen("w")
	silent(e, "who came after", l.Next)
	e.ask(command("w", "now"))
	e.hears("who listens", l, "now")
	e.hears("who listens elsewhere", late, "now")
}

// testC3: replies reach who asked.
func testC3(e *env) {
	if e.Control == nil {
		return
	}
	far := e.far()
	workers := map[string]store.Commands{"a": e.listen("a"), "b": far.listen("b"), "c": far.listen("c")}
	one, two := e.ask(command("*", "one")), far.ask(command("*", "two"))
	for name, l := range workers {
		for _, c := range e.hears(name, l, "one", "two") {
			r := store.Reply{Command: c.ID, Worker: "somebody else", Data: json.RawMessage(`"` + c.Kind + name + `"`)}
			if name == "c" {
				r.Data, r.Error = nil, c.Kind+" is beyond me"
			}
			if err := l.Reply(e.ctx, r); err != nil {
				e.Errorf("Reply of %s: %v", name, err)
			}
		}
	}
	for kind, replies := range map[string]store.Replies{"one": one, "two": two} {
		got := map[string]string{}
		for range workers {
			r := next(e, "a reply to "+kind, replies.Next)
			got[r.Worker] = string(r.Data) + r.Error
		}
		want := map[string]string{"a": `"` + kind + `a"`, "b": `"` + kind + `b"`, "c": kind + " is beyond me"}
		if !maps.Equal(got, want) {
			e.Errorf("replies to %s: got %v, want %v", kind, got, want)
		}
		silent(e, "all have replied to "+kind, replies.Next)
	}
	gone := e.ask(command("a", "three"))
	if err := gone.Close(); err != nil {
		e.Errorf("Close: %v", err)
	}
	c := e.hears("a", workers["a"], "three")[0]
	if err := workers["a"].Reply(e.ctx, store.Reply{Command: c.ID}); err != nil {
		e.Errorf("a reply that nobody waits for: %v", err)
	}
}

// testC4: what is not heard in time is not heard at all, and nothing waits for
// who does not listen.
func testC4(e *env) {
	if e.Control == nil {
		return
	}
	l := e.listen("w")
	brief := command("w", "brief")
	brief.For = e.o.Keep
	e.ask(brief)
	lasting := command("w", "lasting")
	e.ask(lasting)
	time.Sleep(e.o.Keep + e.o.Keep/10)
	e.hears("who slept", l, "lasting")
	for i := range 200 { // nobody reads meanwhile
		e.ask(command("w", fmt.Sprint("k", i)))
	}
	c := e.hears("who did not read", l, "k0")[0]
	replies := e.ask(command("nobody", "none"))
	silent(e, "nobody was asked", replies.Next)
	for range 300 { // to who asked and does not read
		if err := l.Reply(e.ctx, store.Reply{Command: c.ID}); err != nil {
			e.Fatalf("Reply: %v", err)
		}
	}
}

// testC5: what is wrong is refused.
func testC5(e *env) {
	if e.Control == nil {
		return
	}
	l := e.listen("w")
	good := command("w", "good")
	long := strings.Repeat("x", store.MaxControlSize)
	for what, bend := range map[string]func(*store.Command){
		"no id":     func(c *store.Command) { c.ID = "" },
		"nobody":    func(c *store.Command) { c.To = "" },
		"no kind":   func(c *store.Command) { c.Kind = "" },
		"no time":   func(c *store.Command) { c.For = 0 },
		"very long": func(c *store.Command) { c.Args = json.RawMessage(`"` + long + `"`) },
	} {
		c := good
		bend(&c)
		r, err := e.Control.Ask(e.ctx, c)
		e.is("Ask with "+what, err, task.ErrInvalid)
		if err == nil {
			_ = r.Close() // it is wrong to be there
		}
	}
	e.is("a reply to nothing", l.Reply(e.ctx, store.Reply{}), task.ErrInvalid)
	e.is("a long reply", l.Reply(e.ctx, store.Reply{Command: good.ID, Error: long + "x"}), task.ErrInvalid)
	e.ask(good)
	e.hears("after what was refused", l, "good")
}

// testC6: streams end.
func testC6(e *env) {
	if e.Control == nil {
		return
	}
	l, r := e.listen("w"), e.ask(command("w", "x"))
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err := e.Control.Listen(cancelled, "w")
	e.is("Listen with a cancelled context", err, context.Canceled)
	_, err = e.Control.Ask(cancelled, command("w", "y"))
	e.is("Ask with a cancelled context", err, context.Canceled)
	_, err = r.Next(cancelled)
	e.is("Next with a cancelled context", err, context.Canceled)
	e.is("Reply with a cancelled context", l.Reply(cancelled, store.Reply{Command: task.NewID()}), context.Canceled)
	e.hears("it goes on", l, "x")
	ends(e, "commands", l.Next, l.Close)
	ends(e, "replies", r.Next, r.Close)
	e.is("Reply after Close", l.Reply(e.ctx, store.Reply{Command: task.NewID()}), broker.ErrClosed)
}

// ends checks that a waiting Next ends with Close.
func ends[T any](e *env, what string, read func(context.Context) (T, error), end func() error) {
	e.Helper()
	waiting := make(chan error, 1)
	go func() { _, err := read(e.ctx); waiting <- err }()
	time.Sleep(4 * poll)
	if err := end(); err != nil {
		e.Errorf("%s: Close: %v", what, err)
	}
	select {
	case err := <-waiting:
		e.is(what+": a Next during Close", err, broker.ErrClosed)
	case <-time.After(second + e.o.Slack):
		e.Fatalf("%s: Next goes on after Close", what)
	}
	if err := end(); err != nil {
		e.Errorf("%s: Close again: %v", what, err)
	}
	_, err := read(e.ctx)
	e.is(what+": Next after Close", err, broker.ErrClosed)
}

// testH1: heartbeats are told as they come.
func testH1(e *env) {
	f, ok := e.Heartbeats.(store.BeatFollower)
	if !ok {
		return
	}
	beat := func(by *env, h store.Heartbeat) {
		e.Helper()
		if err := by.Heartbeats.Beat(e.ctx, h, long); err != nil {
			e.Fatalf("Beat: %v", err)
		}
	}
	at := now()
	h := func(worker string, n int) store.Heartbeat {
		return store.Heartbeat{Worker: worker, At: at.Add(time.Duration(n) * second), Inflight: n, Queues: []string{"q"}, Running: []store.RunningJob{}}
	}
	far := e.far()
	beat(e, h("a", 1))
	s, err := f.Follow(e.ctx)
	if err != nil {
		e.Fatalf("Follow: %v", err)
	}
	silent(e, "what was there before", s.Next)
	beat(e, h("a", 2))
	told(e, s, h("a", 2))
	beat(far, h("b", 1))
	told(e, s, h("b", 1))
	for i := range 5 {
		beat(far, h("b", 2+i))
	}
	for n := 0; n < 6; { // merged, but in order, and the last one comes
		got := next(e, "one of many", s.Next)
		if got.Worker != "b" || got.Inflight <= n {
			e.Fatalf("of many heartbeats: got %s %d after %d", got.Worker, got.Inflight, n)
		}
		n = got.Inflight
	}
	last := h("b", 9)
	last.Stopped = true
	beat(far, last)
	told(e, s, last)
	list, err := e.Heartbeats.Workers(e.ctx)
	if err != nil || len(list) != 1 || list[0].Worker != "a" {
		e.Errorf("after b has stopped: got %+v, error %v, want a", list, err)
	}
	beat(far, h("b", 10)) // a worker of the same name
	told(e, s, h("b", 10))
	ends(e, "heartbeats", s.Next, s.Close)
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err = f.Follow(cancelled)
	e.is("Follow with a cancelled context", err, context.Canceled)
}

func told(e *env, s store.Beats, want store.Heartbeat) {
	e.Helper()
	got := next(e, "a heartbeat", s.Next)
	if got.Worker != want.Worker || got.Inflight != want.Inflight || got.Stopped != want.Stopped || !slices.Equal(got.Queues, want.Queues) || !got.At.Equal(want.At) {
		e.Errorf("heartbeat: got %+v, want %+v", got, want)
	}
}
