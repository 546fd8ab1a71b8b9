package beat_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

func ticks(id string, every time.Duration) beat.Desired {
	return beat.Desired{Entry: beat.Entry{ID: id, Task: "t", Spec: schedule.Definition{Every: every}}}
}

// TestConflicts: of two plans that were made from the same state the second changes
// nothing, whatever it creates, changes or deletes.
func TestConflicts(t *testing.T) {
	r := newRig(t, false)
	ctx := t.Context()
	if _, err := r.book.Apply(ctx, []beat.Desired{ticks("a", time.Minute), ticks("b", time.Minute)}, false); err != nil {
		t.Fatal(err)
	}
	for name, desired := range map[string][]beat.Desired{
		"change": {ticks("a", time.Hour), ticks("z", time.Hour)}, "create": {ticks("new", time.Hour), ticks("z", time.Hour)},
		"delete": {ticks("b", time.Minute), ticks("z", time.Hour)},
	} {
		plan, err := r.book.Plan(ctx, desired, true)
		if err != nil {
			t.Fatal(err)
		}
		// Somebody else was faster.
		if _, err := r.book.Apply(ctx, []beat.Desired{ticks("a", 2*time.Minute), ticks("new", 3*time.Minute)}, false); err != nil {
			t.Fatal(err)
		}
		if err := r.book.Commit(ctx, plan); !errors.Is(err, beat.ErrConflict) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
		if _, err := r.book.Get(ctx, "z"); !errors.Is(err, beat.ErrNoSchedule) {
			t.Errorf("%s: a part of it was done: %v", name, err)
		}
		if err := r.book.Delete(ctx, "new", beat.ChangeOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := r.book.Apply(ctx, []beat.Desired{ticks("a", time.Minute)}, false); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCommitOfWhatIsGone: a plan that changes or deletes an entry that somebody else
// has deleted since is a conflict.
func TestCommitOfWhatIsGone(t *testing.T) {
	r := newRig(t, false)
	for name, desired := range map[string][]beat.Desired{"change": {ticks("a", time.Hour)}, "delete": nil} {
		if _, err := r.book.Apply(t.Context(), []beat.Desired{ticks("a", time.Minute)}, false); err != nil {
			t.Fatal(err)
		}
		plan, err := r.book.Plan(t.Context(), desired, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.book.Delete(t.Context(), "a", beat.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		var conflict *store.ConflictError
		if err := r.book.Commit(t.Context(), plan); !errors.As(err, &conflict) || conflict.ID != "a" || conflict.Have != 0 {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
	}
}

// TestConcurrentApply: many at once; each is done whole or is a conflict.
func TestConcurrentApply(t *testing.T) {
	r := newRig(t, false)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			d := time.Duration(i+1) * time.Minute
			for range 20 {
				_, err := r.book.Apply(t.Context(), []beat.Desired{ticks("a", d), ticks("b", d), ticks(fmt.Sprintf("own-%d", i), d)}, false)
				if err != nil && !errors.Is(err, beat.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	a, errA := r.book.Get(t.Context(), "a")
	b, errB := r.book.Get(t.Context(), "b")
	if errA != nil || errB != nil || a.Entry.Spec != b.Entry.Spec {
		t.Errorf("%v and %v; %v, %v", a.Entry.Spec, b.Entry.Spec, errA, errB)
	}
}

// TestPlanOfWhatFires: an entry that fires between plan and commit is no hindrance.
func TestPlanOfWhatFires(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.run("one")
		r.apply(`{"id":"a","task":"t","spec":"every:1s"}`)
		changed := ticks("a", time.Second)
		changed.Args = []byte(`1`)
		plan, err := r.book.Plan(t.Context(), []beat.Desired{changed}, false)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3500 * time.Millisecond)
		if err := r.book.Commit(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := r.checkOnce("a", time.Second); n != 5 {
			t.Errorf("%d firings in 5.5 s", n)
		}
		if tasks := r.tasks("a"); string(tasks[2].Args) == `1` || string(tasks[3].Args) != `1` {
			t.Errorf("arguments %s before and %s after", tasks[2].Args, tasks[3].Args)
		}
	})
}
