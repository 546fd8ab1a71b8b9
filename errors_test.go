package stem_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stemjobs/stem"
)

// TestHandlersChooseTheNextAttempt: put off, tried again at a moment of the
// handler's own, and given up for a reason of its own.
func TestHandlersChooseTheNextAttempt(t *testing.T) {
	choose := stem.NewTask[string, stem.None]("choose", stem.MaxRetries(5))
	var began time.Time
	var starts []time.Duration
	var attempts []int
	handler := choose.With(func(ctx context.Context, _ string) (stem.None, error) {
		if began.IsZero() {
			began = time.Now()
		}
		starts = append(starts, time.Since(began).Round(time.Second))
		attempts = append(attempts, stem.Current(ctx).Attempt())
		switch len(starts) {
		case 1:
			return stem.None{}, stem.Snooze(time.Hour)
		case 2:
			return stem.None{}, stem.RetryAt(began.Add(3*time.Hour), errors.New("the bank is closed"))
		case 3:
			return stem.None{}, stem.RetryAt(began, nil) // a moment that has passed: now
		case 4:
			return stem.None{}, stem.Snooze(-time.Hour) // the same
		default:
			return stem.None{}, stem.PermanentFor("no-money", errors.New("the account is empty"))
		}
	})
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		task, err := choose.Enqueue(r.Context(), r.client, "a")
		if err != nil {
			r.Fatal(err)
		}
		_, err = task.Wait(r.Context())
		var failed *stem.TaskError
		if !errors.As(err, &failed) || failed.State != stem.Failed || failed.Reason != "no-money" || failed.Message != "the account is empty" {
			r.Errorf("the outcome is %v", err)
		} else if failed.Attempt != 3 {
			r.Errorf("%d attempts were counted, want the two retries and the last", failed.Attempt)
		}
		status, err := task.Status(r.Context())
		if err != nil || len(status.Errors) != 3 || status.Errors[0].Message != "the bank is closed" {
			r.Errorf("the errors are %+v, %v", status.Errors, err)
		}
	}, handler)
	if want := []time.Duration{0, time.Hour, 3 * time.Hour, 3 * time.Hour, 3 * time.Hour}; !slices.Equal(starts, want) {
		t.Errorf("it started after %v, want %v", starts, want)
	}
	if want := []int{0, 0, 1, 2, 2}; !slices.Equal(attempts, want) {
		t.Errorf("the attempts were %v, want %v", attempts, want)
	}
	if stem.Permanent(nil) != nil || stem.PermanentFor("x", nil) != nil {
		t.Error("no error is made one")
	}
}
