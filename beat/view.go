package beat

import (
	"encoding/json"
	"time"

	"github.com/stemjobs/stem/store"
)

// View is an entry as JSON shows it, on the command line and over HTTP.
type View struct {
	ID         string          `json:"id" doc:"The entry's id."`
	Status     Status          `json:"status" enum:"active,disabled,paused,done,broken" doc:"What it does; done: it fires no more, broken: its definition cannot be read."`
	Task       string          `json:"task" doc:"The name of the task that it enqueues."`
	Spec       string          `json:"spec" doc:"When, in its short form."`
	When       string          `json:"when" doc:"When, in words."`
	Note       string          `json:"note,omitempty" doc:"Why it is paused."`
	Overlap    Overlap         `json:"overlap,omitempty" enum:"allow,skip,queue" doc:"What becomes of a moment while the task before has not ended; none: allow."`
	NextDue    time.Time       `json:"nextDue,omitzero" doc:"The next moment by its spec."`
	NextAt     time.Time       `json:"nextAt,omitzero" doc:"When it fires for that: with its jitter."`
	LastDue    time.Time       `json:"lastDue,omitzero" doc:"The newest moment that is over."`
	LastFired  time.Time       `json:"lastFired,omitzero" doc:"When that was claimed."`
	LastTask   string          `json:"lastTask,omitempty" doc:"The newest task that was enqueued."`
	LastError  string          `json:"lastError,omitempty" doc:"Why the newest task was not enqueued."`
	JitterMS   float64         `json:"jitterMs" doc:"Of the newest firing."`
	DriftMS    float64         `json:"driftMs" doc:"How late the newest firing was."`
	Fired      int64           `json:"fired" doc:"Tasks enqueued."`
	Misfired   int64           `json:"misfired" doc:"Moments passed over by the misfire policy."`
	Version    int64           `json:"version" doc:"Raised by each change."`
	UpdatedAt  time.Time       `json:"updatedAt" doc:"When it was changed."`
	Definition json.RawMessage `json:"definition" doc:"The entry as it was asked for."`
}

// View is the entry as JSON shows it.
func (l *Listed) View() View {
	r := &l.Record
	v := View{
		ID: r.ID, Status: l.Status, Task: l.Entry.Task, When: l.When, Note: l.Entry.Note, Overlap: l.Entry.Overlap,
		NextDue: r.NextDue.UTC(), NextAt: r.NextAt.UTC(), LastDue: r.LastDue.UTC(), LastFired: r.LastFired.UTC(),
		LastTask: r.LastTask, LastError: r.LastError, JitterMS: ms(r.Jitter), DriftMS: ms(r.Drift),
		Fired: r.Fired, Misfired: r.Misfired, Version: r.Version, UpdatedAt: r.UpdatedAt.UTC(), Definition: r.Definition,
	}
	if text, err := l.Entry.Spec.Text(); err == nil {
		v.Spec = text
	}
	if l.Problem != nil {
		v.LastError = l.Problem.Error()
	}
	return v
}

// Overdue is for how long the entry has been due, as of now; 0 or less: it is not, or
// its moment may be waiting for the task before it (OverlapQueue).
func (v *View) Overdue(now time.Time) time.Duration {
	if v.NextAt.IsZero() || v.Overlap == OverlapQueue && v.LastTask != "" {
		return 0
	}
	return now.Sub(v.NextAt)
}

// FiredView is one line of an entry's history as JSON shows it.
type FiredView struct {
	Due      time.Time         `json:"due" doc:"The moment by the spec; of a run by hand, when it was."`
	Fired    time.Time         `json:"fired" doc:"When it was claimed, by the store's clock."`
	Outcome  store.FireOutcome `json:"outcome" enum:"fired,pending,duplicate,misfired,overlap,failed,unknown,manual" doc:"What became of it."`
	Task     string            `json:"task,omitempty" doc:"The id of its task."`
	JitterMS float64           `json:"jitterMs"`
	DriftMS  float64           `json:"driftMs" doc:"How late it was."`
	Missed   int               `json:"missed,omitempty" doc:"Moments that were passed over with it."`
	Error    string            `json:"error,omitempty"`
	Beat     string            `json:"beat,omitempty" doc:"Who fired."`
}

// ViewRecords are firings as JSON shows them.
func ViewRecords(records []store.FireRecord) []FiredView {
	out := make([]FiredView, len(records))
	for i := range records {
		r := &records[i]
		out[i] = FiredView{
			Due: r.Due.UTC(), Fired: r.Fired.UTC(), Outcome: r.Outcome, Task: r.Task, JitterMS: ms(r.Jitter), DriftMS: ms(r.Drift),
			Missed: r.Missed, Error: r.Error, Beat: r.Beat,
		}
	}
	return out
}

// PlanView is what a plan does, as JSON shows it.
type PlanView struct {
	Created []ChangeView `json:"created"`
	Changed []ChangeView `json:"changed"`
	Deleted []ChangeView `json:"deleted"`
	Kept    int          `json:"kept" doc:"Entries that are as asked for already."`
	DryRun  bool         `json:"dryRun" doc:"Nothing was changed."`
}

// ChangeView is what a plan does to one entry.
type ChangeView struct {
	ID      string       `json:"id"`
	NextDue time.Time    `json:"nextDue,omitzero" doc:"Its next moment then; none: it does not fire."`
	Fields  []Difference `json:"fields" doc:"What differs; empty for a delete."`
}

// View is the plan as JSON shows it.
func (p *Plan) View(dryRun bool) PlanView {
	v := PlanView{Created: []ChangeView{}, Changed: []ChangeView{}, Deleted: []ChangeView{}, DryRun: dryRun}
	for i := range p.Changes {
		c := &p.Changes[i]
		x := ChangeView{ID: c.ID, NextDue: c.NextDue, Fields: c.Fields}
		if x.Fields == nil {
			x.Fields = []Difference{}
		}
		switch c.Action {
		case ActionCreate:
			v.Created = append(v.Created, x)
		case ActionChange:
			v.Changed = append(v.Changed, x)
		case ActionDelete:
			v.Deleted = append(v.Deleted, x)
		case ActionKeep:
			v.Kept++
		}
	}
	return v
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
