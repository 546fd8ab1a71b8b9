package brokertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// testB27: dead letters are listed, replayed and purged by filter.
func testB27(e *env) {
	ids := deadOnes(e, 5)
	listDead(e, ids)
	replayDead(e)
	replayFewer(e)
	purgeDead(e)
	replayEdited(e)
}

// deadOnes makes n dead letters in queue "dead", and two in others; it returns
// the ids of all, newest first.
func deadOnes(e *env, n int) (newestFirst []string) {
	var all []*task.Envelope
	for i := range n {
		all = append(all, envelope(fmt.Sprintf("d%d", i), onQueue("dead"), func(v *task.Envelope) { v.Name = "demo.dead" }))
	}
	all = append(all, envelope("x", onQueue("deaf"), func(v *task.Envelope) { v.Name = "other.task" }), envelope("y", onQueue("other")))
	e.publish(all...)
	var ids []string
	for _, v := range all {
		ids = append(ids, v.ID)
	}
	c := e.open("dead", "deaf", "other")
	for i, d := range c.wantIDs("to die", ids...) {
		if i == n/2 {
			time.Sleep(2 * poll) // for a filter by moment, and an order by it
		}
		s := settlement(d, task.Failed)
		if d.Envelope.ID == "y" {
			s.Outcome.Reason = "of-my-own"
		}
		if err := e.trySettle(s); err != nil {
			e.Fatalf("Settle as failed: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		newestFirst = append(newestFirst, d.Envelope.ID)
	}
	slices.Reverse(newestFirst)
	return newestFirst
}

func deadIDs(list []broker.DeadLetter) []string {
	ids := make([]string, 0, len(list))
	for _, l := range list {
		ids = append(ids, l.Envelope.ID)
	}
	return ids
}

func listDead(e *env, ids []string) {
	all := e.dead(broker.DeadFilter{})
	if got := deadIDs(all); !slices.Equal(got, ids) {
		e.Fatalf("dead letters, newest first: got %v, want %v", got, ids)
	}
	middle := all[len(all)-3].DeadAt // of d2
	for what, f := range map[string]broker.DeadFilter{
		"d4 d3 d2 d1 d0":     {Queue: "dead"},
		"x d4 d3 d2 d1 d0":   {Queue: "dea*"},
		"x":                  {Task: "other.*"},
		"y":                  {Reason: "of-my-own"},
		"d3 d1":              {IDs: []string{"d1", "d3", "nobody"}},
		"d1 d0":              {Before: middle},
		"d1":                 {Queue: "dead", Task: "demo.*", IDs: []string{"d1", "x"}, Reason: task.ReasonPermanent},
		"":                   {Queue: "nowhere"},
		"y x d4 d3 d2 d1 d0": {Queue: "*", Task: "*"},
	} {
		if got := strings.Join(deadIDs(e.dead(f)), " "); got != what {
			e.Errorf("filter %+v: got %q, want %q", f, got, what)
		}
	}
	for _, f := range []broker.DeadFilter{{}, {Queue: "d*"}} {
		want := deadIDs(e.dead(f))
		var got []string
		cursor := ""
		for range 10 {
			page, next, err := e.Broker.DeadLetters().ListDeadLetters(e.ctx, f, broker.Page{Limit: 2, Cursor: cursor})
			if err != nil || len(page) > 2 {
				e.Fatalf("a page of two dead letters: got %d, error %v", len(page), err)
			}
			got = append(got, deadIDs(page)...)
			if cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			e.Errorf("in pages of two: got %v, want %v", got, want)
		}
	}
}

// replayDead replays one of queue "deaf" and follows it to its second death.
func replayDead(e *env) {
	f := broker.DeadFilter{Queue: "deaf"}
	listed := e.dead(f)
	if len(listed) != 1 {
		e.Fatalf("dead letters of queue deaf: got %v, want x", deadIDs(listed))
	}
	before := listed[0]
	dry := e.replay(f, broker.ReplayOptions{DryRun: true})
	if dry.Count != 1 || len(dry.Entries) != 1 || dry.Entries[0].ID != "x" {
		e.Errorf("a dry replay of one: got %+v", dry)
	}
	e.counts("deaf", 0, 0, 0, 1)
	e.seen("x", task.Failed, nil)
	r := e.replay(f, broker.ReplayOptions{})
	if r.Count != 1 || len(r.Entries) != 1 {
		e.Fatalf("a replay of one: got %+v", r)
	}
	if x := r.Entries[0]; x.ID != "x" || x.Queue != "deaf" || x.ReplayCount != 1 || x.Epoch <= before.Epoch ||
		time.Since(x.ReplayedAt).Abs() > time.Minute {
		e.Errorf("replayed: got %+v, the dead letter had epoch %d", x, before.Epoch)
	}
	e.counts("deaf", 1, 0, 0, 0)
	if left := e.dead(f); len(left) != 0 {
		e.Errorf("after the replay %v is dead still", deadIDs(left))
	}
	if again := e.replay(f, broker.ReplayOptions{}); again.Count != 0 {
		e.Errorf("replaying what is live: got %+v", again)
	}
	e.seen("x", task.Queued, func(s task.Status) string {
		if s.ReplayCount != 1 || s.LastReplayAt.IsZero() || s.Attempt != 1 || s.Reason != "" {
			return fmt.Sprintf("%d replays, at %s, attempt %d, reason %q", s.ReplayCount, s.LastReplayAt, s.Attempt, s.Reason)
		}
		return ""
	})
	c := e.open("deaf")
	d := c.one()
	if !sameEnvelope(d.Envelope, before.Envelope) || d.Attempt != 1 || d.RetryBase != 1 || d.Replays != 1 || d.Starts != 0 || d.Redelivered {
		e.Errorf("after a replay: got %+v", d)
	}
	c.none("it was replayed once")
	e.start(d)
	e.settle(d, task.Retried)
	d, _ = c.later(second)
	if d.Attempt != 2 || d.RetryBase != 1 {
		e.Errorf("a retry after a replay: attempt %d, base %d; want 2, 1", d.Attempt, d.RetryBase)
	}
	e.settle(d, task.Failed)
	dead := e.dead(f)
	if len(dead) != 1 || dead[0].ReplayCount != 1 || dead[0].LastReplayAt.IsZero() || dead[0].Attempt != 3 || len(dead[0].Errors) != 3 {
		e.Errorf("dead for the second time: got %+v, want one replay, attempt 3, three errors", dead)
	}
}

// replayFewer replays some of queue "dead": the oldest first, and for later.
func replayFewer(e *env) {
	f := broker.DeadFilter{Queue: "dead"}
	for _, dry := range []bool{true, false} {
		r := e.replay(f, broker.ReplayOptions{Limit: 2, DryRun: dry})
		var ids []string
		for _, x := range r.Entries {
			ids = append(ids, x.ID)
		}
		slices.Sort(ids)
		if r.Count != 2 || !slices.Equal(ids, []string{"d0", "d1"}) {
			e.Errorf("a replay of at most two, dry %v: got %d, %v; want the oldest, d0 and d1", dry, r.Count, ids)
		}
	}
	due := now().Add(e.o.Lease)
	e.replay(broker.DeadFilter{IDs: []string{"d2"}}, broker.ReplayOptions{NotBefore: due})
	waits := time.Now().Before(due.Add(-early)) // replayed before its moment, however slow the machine is
	if got := deadIDs(e.dead(f)); !slices.Equal(got, []string{"d4", "d3"}) {
		e.Errorf("after replaying three of five: got %v", got)
	}
	c := e.open("dead")
	for range 3 {
		d, at := c.later(max(0, time.Until(due)))
		if d.Envelope.ID == "d2" && (at.Before(due.Add(-early)) || waits && !d.NotBefore.Equal(due)) {
			e.Errorf("replayed for %s, delivered at %s with NotBefore %s", due, at, d.NotBefore)
		}
		e.settle(d, task.Succeeded)
	}
	c.none("three were replayed")
}

func purgeDead(e *env) {
	for _, dry := range []bool{true, false} {
		p, err := e.Broker.DeadLetters().PurgeDeadLetters(e.ctx, broker.DeadFilter{Queue: "dead"}, broker.PurgeOptions{Limit: 1, DryRun: dry})
		if err != nil || p.Count != 1 || !slices.Equal(p.IDs, []string{"d3"}) {
			e.Errorf("a purge of at most one, dry %v: got %+v, error %v; want the oldest, d3", dry, p, err)
		}
		if left := len(e.dead(broker.DeadFilter{Queue: "dead"})); dry && left != 2 || !dry && left != 1 {
			e.Errorf("after a purge of one of two, dry %v: %d are left", dry, left)
		}
	}
	p, err := e.Broker.DeadLetters().PurgeDeadLetters(e.ctx, broker.DeadFilter{}, broker.PurgeOptions{})
	if err != nil || p.Count != 3 {
		e.Errorf("a purge of all: got %+v, error %v; want 3", p, err)
	}
	for _, q := range []string{"dead", "deaf", "other"} {
		e.counts(q, 0, 0, 0, 0)
	}
	if e.Results != nil && !e.eventually(second, func() bool { _, kept := e.status("d4"); return !kept }) {
		e.Errorf("the status of a failed task outlives its dead letter")
	}
	e.publish(envelope("d4", onQueue("dead"))) // the id is free again
}

// replayEdited replays a dead letter with another envelope.
func replayEdited(e *env) {
	e.publish(envelope("ed", onQueue("edit"), priority(7)), envelope("other", onQueue("edit")))
	for _, d := range e.open("edit").all(2) {
		e.settle(d, task.Failed)
	}
	if !e.has(broker.PowerEdit) {
		refuseAnyEdit(e)
		return
	}
	edited := *e.dead(broker.DeadFilter{IDs: []string{"ed"}})[0].Envelope
	edited.Args, edited.MaxRetries = json.RawMessage(`{"n":2,"big":12345678901234567890}`), 9
	edited.Meta = map[string]json.RawMessage{task.MetaEdited: json.RawMessage(`{"args":{"n":1}}`)}
	refuseEdits(e, edited)

	f := broker.DeadFilter{IDs: []string{"ed"}}
	if dry := e.replay(f, broker.ReplayOptions{Edited: &edited, DryRun: true}); dry.Count != 1 {
		e.Errorf("a dry replay with an edit: got %+v", dry)
	}
	if l := e.dead(f); len(l) != 1 || string(l[0].Envelope.Args) != `{"n":1}` {
		e.Errorf("after a dry replay with an edit: got %+v", l)
	}
	r := e.replay(f, broker.ReplayOptions{Edited: &edited})
	if r.Count != 1 || len(r.Entries) != 1 || r.Entries[0].Envelope == nil || !sameEnvelope(r.Entries[0].Envelope, &edited) {
		e.Errorf("a replay with an edit: got %+v", r)
	}
	shows := func(s task.Status) string {
		if !bytes.Contains(s.Args, []byte("12345678901234567890")) || s.Meta[task.MetaEdited] == nil || s.MaxRetries != 9 {
			return fmt.Sprintf("args %s, meta %s, %d retries", s.Args, s.Meta, s.MaxRetries)
		}
		return ""
	}
	e.seen("ed", task.Queued, shows)
	e.counts("edit", 1, 0, 0, 1)
	c := e.open("edit")
	for range 2 { // for good: also of the delivery after the next, and dead again
		d := c.one()
		if !sameEnvelope(d.Envelope, &edited) {
			e.Errorf("replayed with an edit, delivered %+v, want %+v", d.Envelope, edited)
		}
		e.start(d)
		e.settle(d, task.Queued)
	}
	e.seen("ed", task.Queued, shows)
	e.settle(c.one(), task.Failed)
	if l := e.dead(f); len(l) != 1 || !sameEnvelope(l[0].Envelope, &edited) || l[0].ReplayCount != 1 {
		e.Errorf("dead again after a replay with an edit: got %+v", l)
	}
	e.seen("ed", task.Failed, shows)
	if s, ok := e.edited("other"); ok && string(s.Args) != `{"n":1}` {
		e.Errorf("the edit of one changed another: args %s", s.Args)
	}
}

// refuseAnyEdit: an edit that is asked for is never dropped.
func refuseAnyEdit(e *env) {
	f := broker.DeadFilter{IDs: []string{"ed"}}
	o := broker.ReplayOptions{Edited: envelope("ed", onQueue("edit"), priority(7))}
	if _, err := e.Broker.DeadLetters().ReplayDeadLetters(e.ctx, f, o); !errors.Is(err, broker.ErrUnsupported) {
		e.Errorf("a replay with an edit, which the broker does not declare: got error %v, want ErrUnsupported", err)
	}
	e.counts("edit", 0, 0, 0, 2)
}

// edited is the status of id, where statuses are kept.
func (e *env) edited(id string) (task.Status, bool) {
	if e.Results == nil {
		return task.Status{}, false
	}
	return e.status(id)
}

// refuseEdits tries edits that do not fit. None of them may change anything.
func refuseEdits(e *env, good task.Envelope) {
	type edit struct {
		filter broker.DeadFilter
		change func(v *task.Envelope)
	}
	one := broker.DeadFilter{IDs: []string{"ed"}}
	for what, x := range map[string]edit{
		"another name":     {one, func(v *task.Envelope) { v.Name = "other.name" }},
		"another queue":    {one, onQueue("elsewhere")},
		"another priority": {one, priority(2)},
		"bad args":         {one, func(v *task.Envelope) { v.Args = json.RawMessage(`{`) }},
		"another id":       {one, func(v *task.Envelope) { v.ID = "other" }},
		"no ids":           {broker.DeadFilter{Queue: "edit"}, func(*task.Envelope) {}},
		"two ids":          {broker.DeadFilter{IDs: []string{"ed", "other"}}, func(*task.Envelope) {}},
		"too large": {one, func(v *task.Envelope) {
			v.Args = json.RawMessage(`"` + strings.Repeat("x", task.DefaultMaxSize) + `"`)
		}},
	} {
		v := good
		x.change(&v)
		r, err := e.Broker.DeadLetters().ReplayDeadLetters(e.ctx, x.filter, broker.ReplayOptions{Edited: &v})
		if !errors.Is(err, task.ErrInvalid) && !errors.Is(err, task.ErrTooLarge) {
			e.Errorf("a replay with an edit, %s: got %+v, error %v, want ErrInvalid or ErrTooLarge", what, r, err)
		}
		e.counts("edit", 0, 0, 0, 2)
	}
}
