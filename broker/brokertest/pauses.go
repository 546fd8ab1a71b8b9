package brokertest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testP5: a paused queue is not handed out, and goes on as if nothing had been.
func testP5(e *env) {
	p, ok := broker.As[broker.Pauser](e.Broker)
	if !ok {
		return // P0 holds that it is not declared either
	}
	e.pausedAre(p) // none
	e.publishIDs("a", "b", "c")
	e.publish(envelope("x", onQueue("other")))
	c := e.open()
	held := c.all(2)
	began := now()
	e.pause(p, broker.Pause{Queue: "q", Note: "for the test"}, broker.Pause{Queue: "empty"})
	list := e.pausedAre(p, "empty", "q")
	if q := list[1]; q.Note != "for the test" || q.Since.Before(began.Add(-early)) || q.Since.After(now().Add(early)) {
		e.Errorf("pause: got %+v, since %s", q, began)
	}
	if b := c.exchange(nil, nil, broker.Want{Count: 5}); len(b.Deliveries) > 0 || b.More {
		e.Errorf("of a paused queue: got %v, More %v", idsOf(b.Deliveries), b.More)
	}
	e.open("*").wantIDs("by a pattern, beside a paused queue", "x")
	pausedGoesOn(e, p, c, held)
	pausedShared(e, p)

	d := e.woken("a queue that goes on", e.open(), func() { e.resume(p, map[string]bool{"q": true, "none": false}) })
	left := slices.DeleteFunc([]string{"a", "b", "c", "d", "late"}, func(id string) bool { return id == held[1].Envelope.ID })
	if !e.begins([]string{d.Envelope.ID}, left) {
		e.Errorf("after Resume: got %s first, of %v", d.Envelope.ID, left)
	}
	left = slices.DeleteFunc(left, func(id string) bool { return id == d.Envelope.ID })
	c.wantIDs("after Resume", left...)
	e.resume(p, map[string]bool{"q": false, "empty": true})
	e.pausedAre(p)
	badPauses(e, p)
}

// pausedGoesOn: what is not handing out works on, and wakes nobody for nothing.
func pausedGoesOn(e *env, p broker.Pauser, c *consumer, held []broker.Delivery) {
	e.publishIDs("d")
	if err := e.tryRenew(broker.Renewal{Receipt: held[0].Receipt, Start: true, Worker: "worker-1"}); err != nil {
		e.Errorf("renewing a task of a paused queue: %v", err)
	}
	e.settle(held[1], task.Succeeded)
	e.settle(held[0], task.Queued) // back to its place
	late := envelope("late")
	if e.has(broker.PowerDelays) {
		late.NotBefore = now().Add(e.o.Lease / 2)
	}
	e.publish(late)
	rounds := 0
	for began := time.Now(); ; rounds++ {
		over := time.Since(began) >= e.o.Lease // however long the last wait took
		b := c.exchange(nil, nil, broker.Want{Count: 5})
		if len(b.Deliveries) > 0 || b.More {
			e.Fatalf("of a paused queue: got %v, More %v", idsOf(b.Deliveries), b.More)
		}
		atMost := e.o.Lease
		if b.Next > 0 {
			atMost = min(atMost, b.Next)
		}
		if over {
			break
		}
		if err := c.Wait(e.ctx, atMost); err != nil {
			e.Fatalf("Wait: %v", err)
		}
	}
	if rounds > 50 {
		e.Errorf("Wait returned %d times in %s for a paused queue", rounds, e.o.Lease)
	}
	e.counts("q", 4, 0, 0, 0)
	e.pause(p, broker.Pause{Queue: "empty", Note: "more"}, broker.Pause{Queue: "empty"})
	since := e.pausedAre(p, "empty", "q")[0]
	time.Sleep(2 * poll)
	e.pause(p, broker.Pause{Queue: "empty"})
	if again := e.pausedAre(p, "empty", "q")[0]; again.Note != "more" || !again.Since.Equal(since.Since) {
		e.Errorf("pausing what is paused: got %+v, before it %+v", again, since)
	}
	e.publish(envelope("y", onQueue("empty")))
	if _, err := e.Broker.Purge(e.ctx, broker.Purge{Queue: "empty"}); err != nil {
		e.Errorf("Purge of a paused queue: %v", err)
	}
	e.counts("empty", 0, 0, 0, 0)
}

// pausedShared: another process obeys.
func pausedShared(e *env, p broker.Pauser) {
	if !e.has(broker.PowerShared) {
		return
	}
	other := e.again()
	far, ok := broker.As[broker.Pauser](other.Broker)
	if !ok {
		e.Fatal("another handle cannot pause")
	}
	other.pausedAre(far, "empty", "q")
	other.open().none("another process, of a paused queue")
	far2 := []broker.Pause{{Queue: "elsewhere"}}
	e.publish(envelope("z", onQueue("elsewhere")))
	if err := far.Pause(e.ctx, far2); err != nil {
		e.Fatalf("Pause: %v", err)
	}
	e.open("elsewhere").none("paused by another process")
	c := e.open("elsewhere")
	e.woken("resumed by another process", c, func() { other.resume(far, map[string]bool{"elsewhere": true}) })
	e.pausedAre(p, "empty", "q")
}

func badPauses(e *env, p broker.Pauser) {
	for _, bad := range []broker.Pause{
		{Queue: ""}, {Queue: "a*"}, {Queue: "no/name"}, {Queue: "q", Note: strings.Repeat("x", broker.MaxPauseNote+1)},
	} {
		if err := p.Pause(e.ctx, []broker.Pause{{Queue: "good"}, bad}); !errors.Is(err, task.ErrInvalid) {
			e.Errorf("Pause of %.20q with a note of %d bytes: got error %v, want ErrInvalid", bad.Queue, len(bad.Note), err)
		}
	}
	e.pausedAre(p)
}

func (e *env) pause(p broker.Pauser, batch ...broker.Pause) {
	e.Helper()
	if err := p.Pause(e.ctx, batch); err != nil {
		e.Fatalf("Pause of %+v: %v", batch, err)
	}
}

// resume resumes queues, of which want says whether they are paused.
func (e *env) resume(p broker.Pauser, want map[string]bool) {
	e.Helper()
	var names []string
	for name := range want {
		names = append(names, name)
	}
	was, err := p.Resume(e.ctx, names...)
	if err != nil || len(was) != len(names) {
		e.Fatalf("Resume of %v: %d answers, error %v", names, len(was), err)
	}
	for i, name := range names {
		if was[i] != want[name] {
			e.Errorf("Resume of %s: was paused %v, want %v", name, was[i], want[name])
		}
	}
}

// paused checks which queues are, by name.
func (e *env) pausedAre(p broker.Pauser, want ...string) []broker.Pause {
	e.Helper()
	list, err := p.Pauses(e.ctx)
	var got []string
	for _, x := range list {
		got = append(got, x.Queue)
	}
	if err != nil || !slices.Equal(got, want) {
		e.Fatalf("Pauses: got %v, error %v, want %v", got, err, want)
	}
	return list
}

// pending checks what a broker that can tell says is still to be stopped.
func (e *env) pending(what string, want ...broker.PendingRevocation) {
	e.Helper()
	l, ok := broker.As[broker.RevocationLister](e.Broker)
	if !ok {
		return
	}
	var got []broker.PendingRevocation
	cursor := ""
	for range 10 {
		page, next, err := l.Revocations(e.ctx, broker.Page{Limit: 1, Cursor: cursor})
		if err != nil || len(page) > 1 {
			e.Fatalf("Revocations: %d in a page of one, error %v", len(page), err)
		}
		got = append(got, page...)
		if cursor = next; next == "" {
			break
		}
	}
	slices.SortFunc(got, func(a, b broker.PendingRevocation) int { return strings.Compare(a.ID, b.ID) })
	got = slices.DeleteFunc(got, func(v broker.PendingRevocation) bool { return v.ID == "orphan" })
	if !slices.Equal(got, want) {
		e.Errorf("%s: pending revocations: got %+v, want %+v", what, got, want)
	}
}

// pauseOne pauses a queue that is not paused, or resumes one that is.
func (m *model) pauseOne() string {
	queue := fmt.Sprintf("q%d", m.r.IntN(2))
	if m.pauser == nil {
		return "nothing: it cannot pause"
	}
	if m.paused[queue] {
		m.resume(m.pauser, map[string]bool{queue: true})
		m.paused[queue] = false
		return "resuming " + queue
	}
	m.pause(m.pauser, broker.Pause{Queue: queue})
	m.paused[queue] = true
	return "pausing " + queue
}

func (m *model) resumeAll() {
	for queue, is := range m.paused {
		if is {
			m.resume(m.pauser, map[string]bool{queue: true})
		}
	}
	clear(m.paused)
}
