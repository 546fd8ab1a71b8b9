package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// importDead imports dead letters and returns the answers.
func (e *env) importDead(p broker.DeadImporter, batch ...broker.DeadLetter) []error {
	e.Helper()
	errs, err := p.ImportDeadLetters(e.ctx, batch)
	if err != nil || len(errs) != len(batch) {
		e.Fatalf("ImportDeadLetters of %d: %d answers, error %v", len(batch), len(errs), err)
	}
	return errs
}

// testP4: what was exported and purged comes back as it was.
func testP4(e *env) {
	p, ok := broker.As[broker.DeadImporter](e.Broker)
	if !ok {
		return // P0 holds that it is not declared either
	}
	exported := exportThree(e)
	all := broker.DeadFilter{}
	if _, err := e.Broker.DeadLetters().PurgeDeadLetters(e.ctx, all, broker.PurgeOptions{}); err != nil {
		e.Fatalf("PurgeDeadLetters: %v", err)
	}
	young := letter("young")
	young.DeadAt = now().Add(long) // a clock that is ahead
	old := letter("old")
	old.DeadAt = now().Add(-long)
	batch := append(slices.Clone(exported), young, old)
	for i, err := range e.importDead(p, batch...) {
		if err != nil {
			e.Fatalf("the import of %s: %v", batch[i].Envelope.ID, err)
		}
	}
	want := append([]string{"young"}, deadIDs(exported)...)
	want = append(want, "old")
	list := e.dead(all)
	if got := deadIDs(list); !slices.Equal(got, want) {
		e.Fatalf("imported, newest first: got %v, want %v", got, want)
	}
	for i := range exported {
		if complaint := sameDeath(&list[i+1], &exported[i]); complaint != "" {
			e.Errorf("%s after export, purge and import: %s", exported[i].Envelope.ID, complaint)
		}
	}
	if list[0].DeadAt.After(time.Now().Add(second)) {
		e.Errorf("a death in the future was kept as such: %s", list[0].DeadAt)
	}
	e.counts("q", 0, 0, 0, 5)
	importAgain(e, p, exported)
	importBad(e, p)
	replayImported(e, exported)
}

// exportThree makes three dead letters, one of which was replayed once, and
// lists them newest first.
func exportThree(e *env) []broker.DeadLetter {
	e.publishIDs("a", "b", "c")
	c := e.open()
	die := func(n int) {
		for _, d := range c.all(n) {
			e.start(d)
			e.settle(d, task.Failed)
			time.Sleep(2 * early)
		}
	}
	die(3)
	e.replay(broker.DeadFilter{IDs: []string{"a"}}, broker.ReplayOptions{})
	die(1)
	return e.dead(broker.DeadFilter{})
}

// letter is a dead letter as somebody might have written it by hand.
func letter(id string) broker.DeadLetter {
	at := now().Add(-time.Minute)
	return broker.DeadLetter{
		Envelope: envelope(id), Queue: "q", Reason: "of-my-own", Attempt: 2, Epoch: 40, DeadAt: at,
		Error: &task.Error{Type: "demo.Error", Message: "boom " + id, Attempt: 1, At: at},
	}
}

// sameDeath says how two dead letters differ.
func sameDeath(got, want *broker.DeadLetter) string {
	if !sameEnvelope(got.Envelope, want.Envelope) {
		return fmt.Sprintf("envelope %+v, was %+v", got.Envelope, want.Envelope)
	}
	if got.Queue != want.Queue || got.Reason != want.Reason || got.Attempt != want.Attempt || got.Epoch != want.Epoch ||
		got.ReplayCount != want.ReplayCount || got.LastReplayAt.Sub(want.LastReplayAt).Abs() > early ||
		got.DeadAt.Sub(want.DeadAt).Abs() > early {
		return fmt.Sprintf("got %+v, was %+v", *got, *want)
	}
	x, err1 := json.Marshal([]any{got.Error, got.Errors})
	y, err2 := json.Marshal([]any{want.Error, want.Errors})
	if err1 != nil || err2 != nil || string(x) != string(y) {
		return fmt.Sprintf("errors %s, were %s", x, y)
	}
	return ""
}

// importAgain: what is there is left alone, whatever it is by now.
func importAgain(e *env, p broker.DeadImporter, exported []broker.DeadLetter) {
	e.publish(envelope("live", onQueue("lively")), envelope("held", onQueue("lively")), envelope("done", onQueue("lively")))
	c := e.open("lively")
	ds := c.take(3)
	e.settle(ds[0], task.Queued)
	e.settle(ds[2], task.Succeeded)
	batch := append(slices.Clone(exported), letter("live"), letter("held"))
	if e.keeps() {
		batch = append(batch, letter("done"))
	}
	for i, err := range e.importDead(p, batch...) {
		if !errors.Is(err, broker.ErrExists) {
			e.Errorf("the import of %s, which is known: got error %v, want ErrExists", batch[i].Envelope.ID, err)
		}
	}
	e.counts("q", 0, 0, 0, 5)
	e.counts("lively", 1, 0, 1, 0)
	e.seen("live", task.Queued, nil)
	e.settle(ds[1], task.Succeeded)
}

// importBad: what is wrong fails alone.
func importBad(e *env, p broker.DeadImporter) {
	bend := func(id string, change func(d *broker.DeadLetter)) broker.DeadLetter {
		d := letter(id)
		change(&d)
		return d
	}
	bad := []broker.DeadLetter{
		bend("bad 1", func(*broker.DeadLetter) {}),
		bend("bad2", func(d *broker.DeadLetter) { d.Queue = "../x" }),
		bend("bad3", func(d *broker.DeadLetter) { d.DeadAt = time.Time{} }),
		bend("bad4", func(d *broker.DeadLetter) { d.Epoch = -1 }),
		bend("bad5", func(d *broker.DeadLetter) { d.Attempt = -1 }),
		bend("bad6", func(d *broker.DeadLetter) { d.Envelope.Args = json.RawMessage(`{`) }),
		bend("bad7", func(d *broker.DeadLetter) {
			d.Envelope.Args = json.RawMessage(`"` + strings.Repeat("x", task.DefaultMaxSize) + `"`)
		}),
		{},
	}
	for i, err := range e.importDead(p, append(bad, letter("good"), letter("good"))...) {
		switch {
		case i < len(bad) && !errors.Is(err, task.ErrInvalid) && !errors.Is(err, task.ErrTooLarge):
			e.Errorf("the import of bad entry %d: got error %v, want ErrInvalid or ErrTooLarge", i+1, err)
		case i == len(bad) && err != nil:
			e.Errorf("the neighbour of bad entries: %v", err)
		case i == len(bad)+1 && !errors.Is(err, broker.ErrExists):
			e.Errorf("the same id twice in a batch: got error %v, want ErrExists", err)
		}
	}
	e.counts("q", 0, 0, 0, 6)
	raw := broker.DeadLetter{Envelope: &task.Envelope{ID: "raw"}, Raw: []byte("no envelope"), Queue: "q", Reason: task.ReasonMalformed, DeadAt: now()}
	switch err := e.importDead(p, raw)[0]; {
	case err == nil:
		if l := e.dead(broker.DeadFilter{IDs: []string{"raw"}}); len(l) != 1 || string(l[0].Raw) != "no envelope" {
			e.Errorf("an imported entry that is no envelope: got %+v", l)
		}
	case !errors.Is(err, broker.ErrUnsupported):
		e.Errorf("the import of an entry that is no envelope: got error %v, want none or ErrUnsupported", err)
	}
}

// replayImported: an imported dead letter lives again like any other.
func replayImported(e *env, exported []broker.DeadLetter) {
	for i := range exported {
		d := &exported[i]
		e.seen(d.Envelope.ID, task.Failed, func(s task.Status) string {
			if s.Reason != d.Reason || s.Attempt != d.Attempt || s.ReplayCount != d.ReplayCount || len(s.Errors) != len(d.Errors) ||
				s.Name != d.Envelope.Name || s.FinishedAt.Sub(d.DeadAt).Abs() > time.Minute {
				return fmt.Sprintf("got %+v, imported %+v", s, *d)
			}
			return ""
		})
	}
	r := e.replay(broker.DeadFilter{IDs: []string{"a"}}, broker.ReplayOptions{})
	if r.Count != 1 || r.Entries[0].Epoch <= exported[0].Epoch || r.Entries[0].ReplayCount != 2 {
		e.Fatalf("replaying an imported dead letter of epoch %d, replayed once: got %+v", exported[0].Epoch, r)
	}
	d := e.open().one()
	if d.Envelope.ID != "a" || d.Attempt != 2 || d.RetryBase != 2 || d.Replays != 2 || d.Receipt.Epoch <= r.Entries[0].Epoch {
		e.Errorf("delivered after import and replay: got %+v", d)
	}
	e.start(d)
	e.settle(d, task.Succeeded)
	e.seen("a", task.Succeeded, func(s task.Status) string {
		if s.ReplayCount != 2 || s.LastReplayAt.IsZero() {
			return fmt.Sprintf("%d replays, last at %s", s.ReplayCount, s.LastReplayAt)
		}
		return ""
	})
}
