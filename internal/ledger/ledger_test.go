package ledger_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/ledger"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

var (
	began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	same  = cmpopts.EquateEmpty()
)

func envelope() *task.Envelope {
	return &task.Envelope{ID: "a", Name: "n", Args: []byte(`{"x":1}`), EnqueuedAt: began, Priority: 5, MaxRetries: 3, Queue: "q"}
}

// copied is an entry as a store reads it again.
func copied(t interface {
	Helper()
	Fatal(args ...any)
}, v *ledger.Entry) *ledger.Entry {
	t.Helper()
	stored := *v
	stored.Result, stored.Status.Result = v.Status.Result, nil // as backends store it
	data, err := json.Marshal(&stored)
	if err != nil {
		t.Fatal(err)
	}
	read := new(ledger.Entry)
	if err := json.Unmarshal(data, read); err != nil {
		t.Fatal(err)
	}
	read.Status.Result, read.Result = read.Result, nil
	return read
}

func start(epoch int64, attempt, replays int) *store.Update {
	return &store.Update{
		Key: store.Key{ID: "a", Epoch: epoch}, Start: true, Attempt: attempt, Replays: replays,
		Worker: "w", At: began.Add(time.Minute), Envelope: envelope(),
	}
}

func outcome(epoch int64, state task.State, attempt int) *store.Record {
	r := &store.Record{Key: store.Key{ID: "a", Epoch: epoch}, Outcome: task.Outcome{
		State: state, Attempt: attempt, Worker: "w", EndedAt: began.Add(time.Hour), Keep: time.Hour,
	}}
	switch state {
	case task.Succeeded:
		r.Outcome.Result = []byte("1.0")
	case task.Failed, task.Retried:
		r.Outcome.Error = &task.Error{Type: "e", Message: "no luck", Attempt: attempt}
	case task.Cancelled:
		r.Outcome.Reason = "revoked"
	}
	return r
}

// moves are what may be told of a task.
type moves struct {
	*rapid.T
	v   *ledger.Entry
	now time.Time
}

// unchanged checks that a move which was refused, or had nothing to do, left all as it
// was.
func (m *moves) unchanged(what string, before *ledger.Entry) {
	m.Helper()
	if diff := cmp.Diff(before, copied(m, m.v), same); diff != "" {
		m.Fatalf("%s changed the entry:\n%s", what, diff)
	}
}

func (m *moves) epoch() int64 {
	return max(0, m.v.Status.Epoch+rapid.Int64Range(-1, 2).Draw(m.T, "epoch"))
}

func (m *moves) update() {
	before := copied(m, m.v)
	u := start(m.epoch(), rapid.IntRange(0, 3).Draw(m.T, "attempt"), rapid.IntRange(0, 3).Draw(m.T, "replays"))
	if u.Start = rapid.Bool().Draw(m.T, "start"); !u.Start {
		u.Progress = &task.Progress{Percent: 50, At: m.now}
	}
	stored, err := m.v.Update(u, m.now)
	st := &m.v.Status
	switch {
	case err != nil:
		if !errors.Is(err, store.ErrStale) || u.Epoch >= before.Status.Epoch && (u.Start || before.Status.State == task.Running) {
			m.Fatalf("an update of epoch %d after %d: %v", u.Epoch, before.Status.Epoch, err)
		}
		m.unchanged("a stale update", before)
	case stored != nil:
		if stored.Epoch > before.Status.Epoch || stored.Outcome.State != before.Status.State || !u.Start {
			m.Fatalf("a start is answered %+v in state %s", stored, before.Status.State)
		}
		before.Status.Epoch = u.Epoch
		m.unchanged("a start that was answered", before)
	case st.State != task.Running || u.Start && st.Epoch != u.Epoch:
		m.Fatalf("after an update: %s, epoch %d", st.State, st.Epoch)
	case u.Start && st.Starts != m.starts(u, &before.Status):
		m.Fatalf("a start of epoch %d made %d starts of %+v", u.Epoch, st.Starts, before.Status)
	case u.Start && (m.v.Outcome != nil || st.Progress != nil || st.Attempt < u.Attempt):
		m.Fatalf("after a start: %+v", m.v)
	}
}

// starts is how many there are with one more: it counts once for each epoch.
func (m *moves) starts(u *store.Update, before *task.Status) int {
	switch {
	case before.State == task.Failed:
		return 1 // it was replayed
	case u.Epoch > before.Epoch || before.State != task.Running:
		return before.Starts + 1
	default:
		return before.Starts
	}
}

func (m *moves) apply() {
	before := copied(m, m.v)
	b := outcome(m.epoch(), rapid.SampledFrom(task.States()).Draw(m.T, "state"), rapid.IntRange(0, 3).Draw(m.T, "attempt"))
	if rapid.Bool().Draw(m.T, "release") {
		b.Release = []string{"claim"}
	}
	b.Outcome.Keep = rapid.SampledFrom([]time.Duration{0, time.Hour, task.Forever}).Draw(m.T, "keep")
	changed, err := m.v.Apply(b, m.now)
	if !changed {
		repeated := before.Outcome != nil && before.Outcome.Epoch == b.Epoch && before.Outcome.State == b.Outcome.State
		if (err == nil) != (repeated && b.Epoch >= before.Status.Epoch) || err != nil && !errors.Is(err, store.ErrStale) {
			m.Fatalf("%s of epoch %d after %s of %d: %v", b.Outcome.State, b.Epoch, before.Status.State, before.Status.Epoch, err)
		}
		m.unchanged("an outcome that was refused", before)
		return
	}
	from, st := before.Status.State, &m.v.Status
	waits := from == task.Queued || from == task.Retried
	if err != nil || from == task.Failed || !task.CanMove(from, b.Outcome.State) && (!waits || !task.CanMove(task.Running, b.Outcome.State)) {
		m.Fatalf("from %s to %s: %v", from, b.Outcome.State, err)
	}
	if st.State != b.Outcome.State || st.Epoch != b.Epoch || string(st.Result) != string(b.Outcome.Result) {
		m.Fatalf("after %+v: %+v", b, st)
	}
	if (m.v.Outbox > 0) != (len(b.Release) > 0 || st.State == task.Retried) {
		m.Fatalf("after %+v its outbox is of %d", b, m.v.Outbox)
	}
	after := copied(m, m.v)
	if again, err := m.v.Apply(b, m.now.Add(time.Minute)); again || err != nil {
		m.Fatalf("the same once more: %t, %v", again, err)
	}
	m.unchanged("the same once more", after)
}

func (m *moves) clear() {
	before, epoch := copied(m, m.v), m.epoch()
	if m.v.Clear(epoch) != (before.Outbox > 0 && epoch == before.Status.Epoch) {
		m.Fatalf("Clear of epoch %d, of %+v", epoch, before)
	}
	if before.Outbox == m.v.Outbox {
		m.unchanged("a Clear of another epoch", before)
	} else if m.v.Outbox != 0 || len(m.v.Outcome.Release)+len(m.v.Outcome.Followups) > 0 {
		m.Fatalf("after Clear: %+v", m.v)
	}
}

func (m *moves) requeue() {
	before := copied(m, m.v)
	r := &broker.ReplayedTask{ID: "a", Epoch: m.epoch(), ReplayCount: rapid.IntRange(0, 4).Draw(m.T, "replays"), ReplayedAt: m.now}
	changed, err := m.v.Requeue(r)
	if changed != (r.ReplayCount > before.Status.ReplayCount && before.Status.State == task.Failed && r.Epoch >= before.Status.Epoch) {
		m.Fatalf("a replay %+v of %+v: %t, %v", r, before.Status, changed, err)
	}
	if st := &m.v.Status; changed && (st.State != task.Queued || st.Epoch != r.Epoch || st.ReplayCount != r.ReplayCount || m.v.Outcome != nil) {
		m.Fatalf("after a replay: %+v", st)
	} else if !changed {
		m.unchanged("a replay that was refused", before)
	}
}

// Whatever is told, in whichever order: no epoch goes back, what is refused changes
// nothing, states move along the table alone, what was told twice counts once, and an
// entry is the same when it was stored and read between any two moves.
func TestMovesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &moves{T: t, v: ledger.New("a", envelope()), now: began}
		told := []func(){m.update, m.update, m.apply, m.apply, m.clear, m.requeue}
		for range rapid.IntRange(1, 30).Draw(t, "moves") {
			m.now = m.now.Add(time.Second)
			epoch, replays := m.v.Status.Epoch, m.v.Status.ReplayCount
			rapid.SampledFrom(told).Draw(t, "move")()
			if st := &m.v.Status; st.Epoch < epoch || st.ReplayCount < replays || len(st.Errors) > task.MaxAttemptErrors {
				t.Fatalf("epoch %d and %d replays became %+v", epoch, replays, st)
			}
			if m.v.Outbox > 0 && (m.v.Outcome == nil || m.v.Keep() != task.Forever) {
				t.Fatalf("an outbox that may be lost: %+v", m.v)
			}
			m.v = copied(t, m.v)
		}
	})
}

// A start that finds the outcome of its own execution is answered with it, and no
// other is.
func TestStartsThatAreAnswered(t *testing.T) {
	after := func(moves ...any) *ledger.Entry {
		v := ledger.New("a", envelope())
		for _, m := range moves {
			var err error
			switch m := m.(type) {
			case *store.Update:
				_, err = v.Update(m, began)
			case *store.Record:
				_, err = v.Apply(m, began)
			case int64:
				v.Clear(m)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	for name, c := range map[string]struct {
		v    *ledger.Entry
		u    *store.Update
		want task.State // "": it may start
	}{
		"a task that waits":            {after(), start(1, 0, 0), ""},
		"one that runs elsewhere":      {after(start(1, 0, 0)), start(2, 0, 0), ""},
		"one that succeeded":           {after(start(1, 0, 0), outcome(1, task.Succeeded, 0)), start(2, 0, 0), task.Succeeded},
		"one that was cancelled":       {after(outcome(1, task.Cancelled, 0)), start(2, 0, 0), task.Cancelled},
		"one that failed":              {after(start(1, 0, 0), outcome(1, task.Failed, 3)), start(2, 3, 0), task.Failed},
		"one that failed, replayed":    {after(start(1, 0, 0), outcome(1, task.Failed, 3)), start(2, 3, 1), ""},
		"one that succeeded, replayed": {after(start(1, 0, 1), outcome(1, task.Succeeded, 0)), start(2, 0, 2), task.Succeeded},
		"a retry of this attempt":      {after(start(1, 0, 0), outcome(1, task.Retried, 1)), start(2, 0, 0), task.Retried},
		"the retry itself":             {after(start(1, 0, 0), outcome(1, task.Retried, 1)), start(2, 1, 0), ""},
		"a retry that is done":         {after(start(1, 0, 0), outcome(1, task.Retried, 1), int64(1)), start(2, 0, 0), ""},
		"one that was given back":      {after(start(1, 0, 0), outcome(1, task.Queued, 0)), start(2, 0, 0), ""},
	} {
		stored, err := c.v.Update(c.u, began)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := task.State(""); stored != nil {
			if got = stored.Outcome.State; got != c.want || stored.ID != "a" {
				t.Errorf("%s: answered %+v, want %q", name, stored, c.want)
			}
		} else if c.want != "" {
			t.Errorf("%s: it starts, want the answer %s", name, c.want)
		}
		if c.v.Status.Epoch != c.u.Epoch {
			t.Errorf("%s: epoch %d afterwards, want %d", name, c.v.Status.Epoch, c.u.Epoch)
		}
	}
}

// A status that was created as one that has ended answers a start too.
func TestStartOfWhatWasCreatedEnded(t *testing.T) {
	st := task.NewStatus(envelope())
	st.State, st.Result, st.FinishedAt, st.Worker = task.Succeeded, []byte("1.50"), began, "w"
	v := &ledger.Entry{Status: st}
	stored, err := v.Update(start(4, 0, 0), began)
	if err != nil || stored == nil || string(stored.Outcome.Result) != "1.50" || !stored.Outcome.EndedAt.Equal(began) {
		t.Errorf("answered %+v, %v", stored, err)
	}
	if v.Keep() != task.Forever {
		t.Errorf("it is kept for %s", v.Keep())
	}
}

// How long an entry stays.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		state      task.State
		keep, want time.Duration
		release    bool
	}{
		{task.Succeeded, time.Hour, time.Hour, false}, {task.Succeeded, 0, 0, false}, {task.Succeeded, task.Forever, task.Forever, false},
		{task.Succeeded, time.Hour, task.Forever, true}, {task.Succeeded, 0, task.Forever, true},
		{task.Failed, time.Hour, task.Forever, false}, {task.Failed, 0, 0, false},
		{task.Cancelled, time.Hour, time.Hour, false}, {task.Retried, time.Hour, task.Forever, false}, {task.Queued, 0, task.Forever, false},
	} {
		v, b := ledger.New("a", envelope()), outcome(1, c.state, 1)
		if b.Outcome.Keep = c.keep; c.release {
			b.Release = []string{"claim"}
		}
		if _, err := v.Apply(b, began); err != nil {
			t.Fatal(err)
		}
		if got := v.Keep(); got != c.want {
			t.Errorf("%s with %s, outbox %t: kept for %s, want %s", c.state, c.keep, c.release, got, c.want)
		}
		if v.Clear(1); c.state.Terminal() && c.state != task.Failed && v.Keep() != c.keep {
			t.Errorf("%s with %s, without an outbox: kept for %s", c.state, c.keep, v.Keep())
		}
	}
}

// A replay shows what it edited of the task, with the errors of before.
func TestReplaysShowTheirEdit(t *testing.T) {
	edited := envelope()
	edited.Args, edited.MaxRetries, edited.Meta = []byte(`{"x":2}`), 9, map[string]json.RawMessage{"k": []byte(`"v"`)}
	failed := func() *ledger.Entry {
		v := ledger.New("a", envelope())
		if _, err := v.Apply(outcome(1, task.Failed, 3), began); err != nil {
			t.Fatal(err)
		}
		return v
	}
	replayed := start(2, 3, 1)
	replayed.Envelope = edited
	for name, replay := range map[string]func(v *ledger.Entry) error{
		"told": func(v *ledger.Entry) error {
			_, err := v.Requeue(&broker.ReplayedTask{ID: "a", Epoch: 2, ReplayCount: 1, ReplayedAt: began.Add(time.Hour), Envelope: edited})
			return err
		},
		"by its start": func(v *ledger.Entry) error { _, err := v.Update(replayed, began.Add(time.Hour)); return err },
	} {
		v := failed()
		if err := replay(v); err != nil {
			t.Fatal(err)
		}
		st := &v.Status
		if string(st.Args) != `{"x":2}` || st.MaxRetries != 9 || st.ReplayCount != 1 || len(st.Errors) != 1 ||
			!st.LastReplayAt.Equal(began.Add(time.Hour)) || !st.FinishedAt.IsZero() {
			t.Errorf("%s: %+v", name, st)
		}
	}
}
