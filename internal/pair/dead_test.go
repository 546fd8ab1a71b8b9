package pair_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// An import between whose two steps somebody died is shown by the same import
// once more, and answers the truth: what is live by then stays as it is.
func TestImportBetween(t *testing.T) {
	within(t, func(p *process) {
		i, ok := broker.As[broker.DeadImporter](p.join)
		if !ok {
			t.Fatal("the join hides a power of its broker")
		}
		letter := broker.DeadLetter{
			Envelope: envelope("dead", "q"), Queue: "q", Reason: "mine", Attempt: 2, Epoch: 7, DeadAt: time.Now().Add(-time.Hour),
		}
		p.fault.fail("results.Create", 1)
		p.must(p.publish(broker.Publication{Envelope: envelope("live", "q")}))
		live := letter
		live.Envelope = envelope("live", "q")

		p.fault.fail("results.Create", 1)
		errs, err := i.ImportDeadLetters(p.ctx, []broker.DeadLetter{letter, live})
		if err != nil || errs[0] != nil || !errors.Is(errs[1], broker.ErrExists) {
			t.Fatalf("the first import: %v, %v", errs, err)
		}
		if s := p.status("dead"); s.State != "" {
			t.Fatalf("the status came nevertheless: %+v", s)
		}
		errs, err = i.ImportDeadLetters(p.ctx, []broker.DeadLetter{letter, live})
		if err != nil || !errors.Is(errs[0], broker.ErrExists) || !errors.Is(errs[1], broker.ErrExists) {
			t.Fatalf("the second import: %v, %v", errs, err)
		}
		p.is("dead", task.Failed)
		if s := p.status("live"); s.State != "" {
			t.Errorf("a live task without a status got one of a dead letter: %+v", s)
		}
		if s := p.status("dead"); s.Reason != "mine" || s.Attempt != 2 || s.Epoch != 7 || s.FinishedAt.IsZero() {
			t.Errorf("the status of what came back: %+v", s)
		}
		p.fault.fail("broker.Import", 1)
		if _, err := i.ImportDeadLetters(p.ctx, []broker.DeadLetter{{Envelope: envelope("away", "q")}}); err == nil {
			t.Error("an import while the broker is away is none")
		}
	})
}

// An edited replay of which the result store did not hear is shown by its start.
func TestEditedReplayBetween(t *testing.T) {
	within(t, func(p *process) {
		p.must(p.publish(parent()))
		p.must(p.settle(p.take1(), task.Failed, true))
		p.is("parent", task.Failed)
		f := broker.DeadFilter{IDs: []string{"parent"}}
		list, _, err := p.join.DeadLetters().ListDeadLetters(p.ctx, f, broker.Page{})
		p.must(err)
		edited := *list[0].Envelope
		edited.Args = json.RawMessage(`"edited"`)
		p.fault.fail("results.Requeue", 1000)
		r, err := p.join.DeadLetters().ReplayDeadLetters(p.ctx, f, broker.ReplayOptions{Edited: &edited})
		if err != nil || r.Count != 1 {
			t.Fatalf("the replay: %+v, %v", r, err)
		}
		p.is("parent", task.Failed) // nobody was told
		child, ok, err := p.take()  // it was enqueued with the first end
		if err != nil || !ok || child.Envelope.ID != "child" {
			t.Fatalf("taking the child: %+v, %v", child, err)
		}
		d := p.take1()
		p.must(p.startOf(d))
		p.is("parent", task.Running)
		if s := p.status("parent"); string(s.Args) != `"edited"` || s.ReplayCount != 1 {
			t.Errorf("after the start: args %s, %d replays", s.Args, s.ReplayCount)
		}
		p.must(p.settle(d, task.Succeeded, true))
		p.is("parent", task.Succeeded)
	})
}
