package beat_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/store"
)

// TestBackfill: moments that passed are enqueued, once each, those that fired are
// not, and the entry stays where it is.
func TestBackfill(t *testing.T) {
	forms(t, func(t *testing.T, r *rig) {
		r.apply(`{"id":"a","task":"t","spec":"every:1m","args":{"n":1}}`)
		r.run("one")
		time.Sleep(150 * time.Second) // two moments fire
		synctest.Wait()
		from := r.began.Add(-3 * time.Minute)
		fill := func(preview bool) (fresh, known int) {
			t.Helper()
			done, err := r.book.Backfill(t.Context(), "a", "me", from, time.Now(), preview)
			if err != nil || len(done) != 6 {
				t.Fatalf("%d moments, %v, want 6", len(done), err)
			}
			for i, d := range done {
				if want := from.Add(time.Duration(i) * time.Minute); !d.Due.Equal(want) || d.Task != beat.TaskID("a", want) || d.Err != nil {
					t.Errorf("moment %d: %+v, want %s", i, d, want)
				}
				if d.Known {
					known++
				} else {
					fresh++
				}
			}
			return fresh, known
		}
		before, _ := r.book.Get(t.Context(), "a")
		if fill(true); len(r.tasks("a")) != 2 || len(r.history("a")) != 2 {
			t.Errorf("a preview enqueued: %d tasks, history %+v", len(r.tasks("a")), r.history("a"))
		}
		for i, want := range []int{4, 0} {
			if fresh, known := fill(false); fresh != want || known != 6-want || len(r.tasks("a")) != 6 {
				t.Errorf("backfill %d: %d enqueued, %d known; %d tasks", i, fresh, known, len(r.tasks("a")))
			}
		}
		after, err := r.book.Get(t.Context(), "a")
		if a, b := &after.Record, &before.Record; err != nil || a.Fired != b.Fired || !a.NextDue.Equal(b.NextDue) || !a.LastDue.Equal(b.LastDue) {
			t.Errorf("after: %+v, before: %+v, %v", after.Record, before.Record, err)
		}
		if h := r.history("a"); len(h) != 4 || h[0].Outcome != store.OutcomeManual || h[0].Beat != "me" || h[0].Task != beat.TaskID("a", r.began.Add(2*time.Minute)) {
			t.Errorf("history: %+v", h)
		}
	})
}

// TestBackfillRefuses: what has not come, what ends before it begins, and too much.
func TestBackfillRefuses(t *testing.T) {
	r := newRig(t, false)
	r.apply(`{"id":"a","task":"t","spec":"every:1s"}`)
	now := time.Now()
	for name, span := range map[string][2]time.Time{
		"to come": {now, now.Add(time.Hour)}, "backwards": {now, now.Add(-time.Hour)}, "too many": {now.Add(-time.Hour), now},
	} {
		var field *beat.FieldError
		if _, err := r.book.Backfill(t.Context(), "a", "me", span[0], span[1], false); !errors.Is(err, stem.ErrInvalid) || !errors.As(err, &field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.book.Backfill(t.Context(), "none", "me", now, now, false); !errors.Is(err, beat.ErrNoSchedule) {
		t.Errorf("of nothing: %v", err)
	}
	if got := r.tasks("a"); len(got) > 0 {
		t.Errorf("%d tasks", len(got))
	}
}
