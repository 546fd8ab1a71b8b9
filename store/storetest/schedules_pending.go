package storetest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// testT7: elsewhere the publication is pending until it is finished.
func testT7(p *planner) {
	lead := p.lead()
	at := p.now().Add(-time.Hour)
	s := p.create("a", at)
	var batch []store.Firing
	for i := range 5 {
		f := firing(s, time.Minute)
		e := f.Publication.Envelope
		e.Args, e.Headers = json.RawMessage(`{ "n" : 12345678901234567890, "e":[] }`), map[string]string{"tenant": "t"}
		e.NotBefore, e.ExpiresAt, e.Priority = at, at.Add(time.Hour), i
		f.Publication.Claims = []broker.Claim{{Key: fmt.Sprintf("k%d", i), For: 24 * time.Hour}}
		batch = append(batch, f)
		s = later(s, f)
	}
	records := p.fired(lead, batch...)
	q := p.other()
	d := q.due(10)
	if len(d.Pending) != 5 {
		p.Fatalf("five firings: %d are pending", len(d.Pending))
	}
	for i, w := range d.Pending {
		if !reflect.DeepEqual(w.Record, records[i]) || w.Record.Outcome != store.OutcomePending {
			p.Errorf("pending firing %d: got %+v, want %+v", i, w.Record, records[i])
		}
		if !equalJSON(w.Publication, *batch[i].Publication) || string(w.Publication.Envelope.Args) != string(batch[i].Publication.Envelope.Args) {
			p.Errorf("its publication: got %+v %+v, want %+v %+v", w.Publication, w.Publication.Envelope, batch[i].Publication, batch[i].Publication.Envelope)
		}
	}
	if p.Broker != nil {
		if got := p.tasks(p.Broker); len(got) > 0 {
			p.Errorf("firings that are pending enqueued %v", got)
		}
	}
	if d := p.due(2); len(d.Pending) != 2 || !reflect.DeepEqual(d.Pending[0].Record, records[0]) {
		p.Errorf("pending, two at most: got %+v", d.Pending)
	}
	finishes(p, lead, records)
	showsClaimed(p, lead, at)

	empty := firing(p.create("empty", at), time.Minute)
	empty.Publication.Envelope = nil
	if r := p.fired(lead, empty)[0]; r.Outcome != store.OutcomeFailed || r.Error == "" || len(p.due(10).Pending) != 0 {
		p.Errorf("a publication without an envelope: got %+v, pending %+v", r, p.due(10).Pending)
	}
}

func equalJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// showsClaimed: from the claim on, the entry shows the task that is enqueued or
// may be.
func showsClaimed(p *planner, lead store.Lock, at time.Time) {
	s := p.create("claimed", at)
	for _, c := range []struct {
		outcome store.FireOutcome
		task    string
		want    string // "=": the claim's
	}{
		{store.OutcomeFired, "", "="}, {store.OutcomeDuplicate, "other", "other"},
		{store.OutcomeUnknown, "", "="}, {store.OutcomeFailed, "", ""},
	} {
		f := firing(s, time.Minute)
		r := p.fired(lead, f)[0]
		if got := p.get("claimed").LastTask; got != r.Task {
			p.Errorf("an entry whose firing is pending shows the task %q, want %q", got, r.Task)
		}
		if c.want == "=" {
			c.want = r.Task
		}
		end := store.FireRecord{ID: "claimed", Due: f.Due, Outcome: c.outcome, Task: c.task, Error: "why"}
		if c.outcome == store.OutcomeFired {
			end.Task = r.Task
		}
		p.finish(lead, end)
		if got := p.get("claimed").LastTask; got != c.want {
			p.Errorf("an entry whose firing is %s shows the task %q, want %q", c.outcome, got, c.want)
		}
		s = later(s, f)
	}
}

func finishes(p *planner, lead store.Lock, records []store.FireRecord) {
	end := func(i int, o store.FireOutcome, id, problem string) store.FireRecord {
		return store.FireRecord{ID: "a", Due: records[i].Due, Outcome: o, Task: id, Error: problem}
	}
	before, newest := p.get("a"), records[4].Task
	older := lead
	older.Token--
	p.is("Finish under an older token", p.Schedules.Finish(p.ctx, older, []store.FireRecord{end(0, store.OutcomeFired, "x", "")}), broker.ErrLeaseLost)
	p.is("Finish as pending", p.Schedules.Finish(p.ctx, lead, []store.FireRecord{end(0, store.OutcomePending, "", "")}), task.ErrInvalid)
	if got := p.get("a"); !reflect.DeepEqual(got, before) || len(p.due(10).Pending) != 5 {
		p.Errorf("a Finish that was refused changed %+v to %+v", before, got)
	}
	expect := func(what string, pending int, fired int64, lastTask, lastError string) {
		p.Helper()
		s := p.get("a")
		if d := p.due(10); len(d.Pending) != pending || s.Fired != fired || s.LastTask != lastTask || s.LastError != lastError {
			p.Errorf("%s: %d are pending, the entry is %+v; want %d, fired %d, task %q, error %q", what, len(d.Pending), s, pending, fired, lastTask, lastError)
		}
		s.Fired, s.LastTask, s.LastError = before.Fired, before.LastTask, before.LastError
		if !reflect.DeepEqual(s, before) {
			p.Errorf("%s: it changed more: %+v, before %+v", what, s, before)
		}
	}
	p.finish(lead, end(0, store.OutcomeFired, "t0", ""))
	expect("the first was enqueued", 4, 1, newest, "")
	p.finish(lead, end(0, store.OutcomeFailed, "", "no"), store.FireRecord{ID: "none", Due: records[0].Due, Outcome: store.OutcomeFired})
	expect("finished twice, and of what is not there", 4, 1, newest, "")
	p.finish(lead, end(1, store.OutcomeFailed, "", "refused"))
	expect("the second was refused", 3, 1, newest, "refused")
	p.finish(lead, end(2, store.OutcomeDuplicate, "t2", ""), end(3, store.OutcomeUnknown, "", "too old"))
	expect("one was a duplicate, one is unknown", 1, 1, newest, "too old")
	p.finish(lead, end(4, store.OutcomeFired, "t4", ""))
	expect("all are finished", 0, 2, "t4", "")
	want := []store.FireRecord{
		end(4, store.OutcomeFired, "t4", ""), end(3, store.OutcomeUnknown, "", "too old"), end(2, store.OutcomeDuplicate, "t2", ""),
		end(1, store.OutcomeFailed, "", "refused"), end(0, store.OutcomeFired, "t0", ""),
	}
	for i, r := range p.history("a") {
		w := records[len(records)-1-i]
		w.Outcome, w.Task, w.Error = want[i].Outcome, want[i].Task, want[i].Error
		if !reflect.DeepEqual(r, w) {
			p.Errorf("line %d of the history: got %+v, want %+v", i, r, w)
		}
	}
}
