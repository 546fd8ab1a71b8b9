package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A bent store without a bend passes: what the table shows is the bend.
func TestUnbent(t *testing.T) { Run(t, Options{Open: openBent(bend{}), Virtual: true}) }

// broken is a store that breaks one rule.
type broken struct {
	name string
	rule string // that must notice
	also string // rules that may notice too, besides the random test
	bend bend
	open func(t testing.TB) Backend // nil: bend, bent
}

// Every broken store is caught by the rule that it breaks, and by no rule that
// has nothing to do with it.
func TestBroken(t *testing.T) {
	for _, x := range slices.Concat(
		brokenUpdates(), brokenRecords(), brokenRetention(), brokenReads(), brokenKeeping(), brokenWatching(), brokenHeartbeats(), brokenControls(), brokenLimiters(),
	) {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			if x.open == nil {
				x.open = openBent(x.bend)
			}
			failed := conform.Failures(t, Options{Open: x.open, Virtual: true, Seed: 1}.rules())
			for name, said := range failed {
				if conform.Number(name) == x.rule {
					t.Logf("%s: %.300s", name, said)
				}
			}
			if complaint := conform.Unexpected(failed, x.rule, append(strings.Fields(x.also), "Model")...); complaint != "" {
				t.Errorf("a store that %s:\n%s", x.name, complaint)
			}
		})
	}
}

func brokenUpdates() []broken {
	return []broken{
		{name: "says that what exists was created", rule: "S1", also: "S15", bend: bend{created: func(task.Status, error) error { return nil }}},
		{name: "ignores the epoch of updates", rule: "S2", bend: bend{update: func(b *bent, u store.Update) store.Update {
			u.Epoch = b.raise(u.ID, u.Epoch)
			return u
		}}},
		{name: "drops progress", rule: "S2", also: "S12", bend: bend{update: func(_ *bent, u store.Update) store.Update {
			u.Progress = nil
			return u
		}}},
		{name: "starts no task without a record", rule: "S2", also: "S1 S5 S6 S7 S12", bend: bend{update: func(_ *bent, u store.Update) store.Update {
			u.Envelope = nil
			return u
		}}},
		{name: "counts a start again", rule: "S2", bend: bend{got: func(found []store.Found) []store.Found {
			for i := range found {
				found[i].Status.Starts *= 2
			}
			return found
		}}},
		{name: "lets a task start that has an outcome", rule: "S3", also: "S5", bend: bend{updated: func(_ store.Update, a store.Answer) store.Answer {
			a.Stored = nil
			return a
		}}},
		{name: "forgets the follow-ups of a stored outcome", rule: "S3", also: "S5", bend: bend{updated: func(_ store.Update, a store.Answer) store.Answer {
			if a.Stored != nil {
				r := *a.Stored
				r.Followups, a.Stored = nil, &r
			}
			return a
		}}},
		{name: "forgets which attempt an outcome ended", rule: "S3", also: "S2 S5", bend: bend{update: func(_ *bent, u store.Update) store.Update {
			u.Attempt = 0
			return u
		}}},
	}
}

func brokenRecords() []broken {
	return []broken{
		{name: "ignores the epoch of outcomes", rule: "S4", also: "S3 S6 S15", bend: bend{record: func(b *bent, r store.Record) store.Record {
			r.Epoch = b.raise(r.ID, r.Epoch)
			return r
		}}},
		{name: "says that a stale outcome was stored", rule: "S4", also: "S3 S6 S15", bend: bend{recorded: func(_ *bent, _ store.Record, err error) error {
			if errors.Is(err, store.ErrStale) {
				return nil
			}
			return err
		}}},
		{name: "rejects the same outcome again", rule: "S4", bend: bend{recorded: func(b *bent, r store.Record, err error) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s, known := b.last[r.ID]; known && s.Epoch == r.Epoch && s.State == r.Outcome.State {
				return store.ErrStale
			}
			b.last[r.ID] = task.Status{Epoch: r.Epoch, State: r.Outcome.State}
			return err
		}}},
		{name: "keeps no outbox", rule: "S5", also: "S3", bend: bend{record: func(_ *bent, r store.Record) store.Record {
			r.Followups, r.Release = nil, nil
			return r
		}}},
		{name: "clears an outbox whatever the epoch", rule: "S5", bend: bend{clear: func(b *bent, k store.Key) store.Key {
			k.Epoch = b.raise(k.ID, k.Epoch)
			return k
		}}},
		{name: "never clears an outbox", rule: "S5", also: "S7", bend: bend{clear: func(_ *bent, k store.Key) store.Key {
			k.ID = "nobody"
			return k
		}}},
		{name: "counts each Requeue as another", rule: "S6", also: "S3", bend: bend{requeue: func(b *bent, t broker.ReplayedTask) broker.ReplayedTask {
			s, _ := b.status(t.ID)
			t.ReplayCount, t.Epoch = s.ReplayCount+1, s.Epoch+1
			return t
		}}},
		{name: "forgets what a replay has edited", rule: "S6", bend: bend{requeue: func(_ *bent, t broker.ReplayedTask) broker.ReplayedTask {
			t.Envelope = nil
			return t
		}}},
		{name: "requeues under the old epoch", rule: "S6", bend: bend{requeue: func(b *bent, t broker.ReplayedTask) broker.ReplayedTask {
			s, _ := b.status(t.ID)
			t.Epoch = s.Epoch
			return t
		}}},
	}
}

func brokenRetention() []broken {
	return []broken{
		{name: "keeps everything for ever", rule: "S7", also: "S5", bend: bend{record: func(_ *bent, r store.Record) store.Record {
			r.Outcome.Keep = task.Forever
			return r
		}}},
		{name: "keeps everything too long", rule: "S7", also: "S5", bend: bend{record: func(_ *bent, r store.Record) store.Record {
			if r.Outcome.Keep > 0 {
				r.Outcome.Keep *= 20
			}
			return r
		}}},
		{name: "removes everything too soon", rule: "S7", bend: bend{record: func(_ *bent, r store.Record) store.Record {
			if r.Outcome.Keep > 0 {
				r.Outcome.Keep /= 2
			}
			return r
		}}},
		{name: "lets a failed task expire", rule: "S7", bend: bend{got: func(found []store.Found) []store.Found {
			for i, f := range found {
				if f.Err == nil && f.Status.ID == "brief-failed" && f.Status.State == task.Failed && time.Since(f.Status.FinishedAt) > 300*time.Millisecond {
					found[i] = store.Found{Err: store.ErrNotFound}
				}
			}
			return found
		}}},
		{name: "deletes what runs", rule: "S10", bend: bend{deletes: func(b *bent, ids []string) {
			for _, id := range ids {
				if s, known := b.status(id); known && !s.State.Terminal() {
					_, _ = b.Results.Record(context.Background(), []store.Record{{
						Key: store.Key{ID: id, Epoch: s.Epoch + 1}, Outcome: task.Outcome{State: task.Cancelled, Keep: task.Forever},
					}})
				}
			}
		}}},
	}
}

func brokenReads() []broken {
	return []broken{
		{name: "answers in an order of its own", rule: "S8", bend: bend{got: func(found []store.Found) []store.Found {
			slices.SortStableFunc(found, func(a, b store.Found) int { return strings.Compare(a.Status.ID, b.Status.ID) })
			return found
		}}},
		{name: "leaves out what it does not find", rule: "S8", also: "S1 S2 S3 S4 S5 S6 S7 S10 S12 S15", bend: bend{got: func(found []store.Found) []store.Found {
			return slices.DeleteFunc(found, func(f store.Found) bool { return f.Err != nil })
		}}},
		{name: "lists the oldest first", rule: "S9", bend: bend{listed: func(l store.List) store.List {
			slices.Reverse(l.Statuses)
			return l
		}}},
		{name: "ignores a filter", rule: "S9", bend: bend{query: func(q store.Query) store.Query { q.Worker = ""; return q }}},
		{name: "repeats the end of a page", rule: "S9", bend: bend{listed: func(l store.List) store.List {
			if n := len(l.Statuses); n > 1 && l.Cursor != "" {
				s := l.Statuses[n-2]
				l.Cursor = store.Cursor{At: s.EnqueuedAt, ID: s.ID}.String()
			}
			return l
		}}},
		{name: "skips what was enqueued in one millisecond", rule: "S9", bend: bend{listed: func(l store.List) store.List {
			if n := len(l.Statuses); l.Cursor != "" {
				l.Cursor = store.Cursor{At: l.Statuses[n-1].EnqueuedAt, ID: "0"}.String()
			}
			return l
		}}},
	}
}

func brokenKeeping() []broken {
	return []broken{
		{name: "formats results anew", rule: "S11", also: "S4", bend: bend{got: func(found []store.Found) []store.Found {
			for i, f := range found {
				var b bytes.Buffer
				if len(f.Status.Result) > 0 && json.Compact(&b, f.Status.Result) == nil {
					found[i].Status.Result = b.Bytes()
				}
			}
			return found
		}}},
		{name: "keeps the oldest errors", rule: "S11", bend: bend{got: func(found []store.Found) []store.Found {
			for i, f := range found {
				if len(f.Status.Errors) == task.MaxAttemptErrors {
					found[i].Status.Errors = append([]task.Error{{Message: "boom 0"}}, f.Status.Errors[:9]...)
				}
			}
			return found
		}}},
		{name: "keeps all the args", rule: "S11", bend: bend{got: func(found []store.Found) []store.Found {
			for i, f := range found {
				if len(f.Status.Args) > 1000 {
					found[i].Status.Args = json.RawMessage(`"` + strings.Repeat("ä", 900) + `"`)
				}
			}
			return found
		}}},
	}
}

func brokenWatching() []broken {
	return []broken{
		{name: "tells of the first change only", rule: "S12", bend: bend{subscribe: func(w store.Watcher, id string) (<-chan struct{}, func()) {
			in, cancel := w.Subscribe(id)
			out, done := make(chan struct{}, 1), make(chan struct{})
			go func() {
				select {
				case <-in:
					out <- struct{}{}
				case <-done:
				}
			}()
			return out, sync.OnceFunc(func() { close(done); cancel() })
		}}},
		{name: "tells only who listens just then", rule: "S12", bend: bend{subscribe: func(w store.Watcher, id string) (<-chan struct{}, func()) {
			in, cancel := w.Subscribe(id)
			out, done := make(chan struct{}), make(chan struct{})
			go func() {
				for {
					select {
					case <-in:
						select {
						case out <- struct{}{}:
						default:
						}
					case <-done:
						return
					}
				}
			}()
			return out, sync.OnceFunc(func() { close(done); cancel() })
		}}},
		{name: "hides that it can be watched", rule: "S12", open: func(t testing.TB) Backend {
			b := openMemory(t)
			b.Watcher = nil
			return b
		}},
		{name: "works on after Close", rule: "S14", bend: bend{end: func() error { return nil }}},
		{name: "ignores the context", rule: "S15", bend: bend{ctx: context.WithoutCancel}},
	}
}

// beats bends heartbeats.
type beats struct {
	store.Heartbeats
	ttl  func(time.Duration) time.Duration
	bend func([]store.Heartbeat) []store.Heartbeat
}

func (b beats) Beat(ctx context.Context, h store.Heartbeat, ttl time.Duration) error {
	if b.ttl != nil {
		ttl = b.ttl(ttl)
	}
	return b.Heartbeats.Beat(ctx, h, ttl)
}

func (b beats) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	list, err := b.Heartbeats.Workers(ctx)
	if b.bend != nil {
		list = b.bend(list)
	}
	return list, err
}

func brokenHeartbeats() []broken {
	with := func(x beats) func(t testing.TB) Backend {
		return func(t testing.TB) Backend {
			b := openMemory(t)
			x.Heartbeats = b.Heartbeats
			b.Heartbeats = x
			return b
		}
	}
	return []broken{
		{name: "lists a dead worker", rule: "S13", open: with(beats{ttl: func(d time.Duration) time.Duration { return d * 20 }})},
		{name: "forgets a living worker", rule: "S13", open: with(beats{ttl: func(d time.Duration) time.Duration { return d / 2 }})},
		{name: "forgets what a worker runs", rule: "S13", open: with(beats{bend: func(list []store.Heartbeat) []store.Heartbeat {
			for i := range list {
				list[i].Running = nil
			}
			return list
		}})},
	}
}
