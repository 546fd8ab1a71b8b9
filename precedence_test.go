package stem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem"
)

// TestWhoChoosesTheRetries: the call, else the declaration, which the caller
// may not have, else the client's default.
func TestWhoChoosesTheRetries(t *testing.T) {
	two := 2
	once := stem.NewTask[stem.None, stem.None]("once", stem.MaxRetries(0), stem.Retry(stem.RetryPolicy{Base: 1}))
	silent := stem.NewTask[stem.None, stem.None]("silent", stem.Retry(stem.RetryPolicy{Base: 1}))
	fail := func(ctx context.Context, _ stem.None) error {
		return fmt.Errorf("at most %d retries", stem.Current(ctx).MaxRetries())
	}
	run(t, stem.ClientOptions{MaxRetries: &two}, stem.WorkerOptions{}, func(r *rig) {
		for _, c := range []struct {
			name    string
			item    stem.Item
			retries int
		}{
			{"the declaration", once.Item(stem.None{}), 0},
			{"the declaration, which only the worker has", stem.NewItem("once", nil), 0},
			{"a call", once.Item(stem.None{}, stem.MaxRetries(1)), 1},
			{"a call without a declaration", stem.NewItem("once", nil, stem.MaxRetries(1)), 1},
			{"nobody but the client", silent.Item(stem.None{}), two},
			{"nobody but the client, without a declaration", stem.NewItem("silent", nil), two},
		} {
			receipts, err := r.client.EnqueueMany(r.Context(), []stem.Item{c.item})
			if err != nil || receipts[0].Err != nil {
				r.Fatal(err, receipts)
			}
			s, err := r.client.Wait(r.Context(), receipts[0].ID)
			if err != nil || s.State != stem.Failed || s.Attempt != c.retries+1 {
				r.Errorf("%s: %s after %d attempts, %v; want %d retries", c.name, s.State, s.Attempt, err, c.retries)
			} else if want := fmt.Sprintf("at most %d retries", c.retries); s.Error.Message != want {
				r.Errorf("%s: the handler was told %q, want %q", c.name, s.Error.Message, want)
			}
		}
	}, once.Do(fail), silent.Do(fail))
}

// TestRetentionOfWhatTheClientEnds: revoked and purged tasks have no worker
// that says how long their statuses are kept.
func TestRetentionOfWhatTheClientEnds(t *testing.T) {
	run(t, stem.ClientOptions{Retention: time.Hour}, stem.WorkerOptions{}, func(r *rig) {
		kept := func(id string, want time.Duration) {
			r.Helper()
			s, err := r.client.Get(r.Context(), id)
			if err != nil || s.State != stem.Cancelled || s.ExpiresAt.Sub(s.FinishedAt) != want {
				r.Errorf("%s: %s, kept for %s, %v; want cancelled, kept for %s", id, s.State, s.ExpiresAt.Sub(s.FinishedAt), err, want)
			}
		}
		for _, id := range []string{"revoked", "revoked-short", "purged"} {
			if _, err := double.Enqueue(r.Context(), r.client, 1, stem.ID(id), stem.In(time.Hour)); err != nil {
				r.Fatal(err)
			}
		}
		if _, err := r.client.Revoke(r.Context(), stem.RevokeOptions{}, "revoked"); err != nil {
			r.Fatal(err)
		}
		if _, err := r.client.Revoke(r.Context(), stem.RevokeOptions{Keep: time.Minute}, "revoked-short"); err != nil {
			r.Fatal(err)
		}
		if n, err := r.client.PurgeQueue(r.Context(), "default"); n != 1 || err != nil {
			r.Errorf("purged %d, %v", n, err)
		}
		kept("revoked", time.Hour)
		kept("revoked-short", time.Minute)
		kept("purged", time.Hour)
	})
}

// TestWhoKeepsTheArguments: the call, else the declaration; a dead letter does in any
// case.
func TestWhoKeepsTheArguments(t *testing.T) {
	bare := stem.NewTask[int, stem.None]("bare", stem.KeepArgs(false), stem.MaxRetries(0))
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		for _, c := range []struct {
			what string
			args int
			opts []stem.Option
			want string
		}{
			{"the declaration", 1, nil, ""},
			{"the call", 1, []stem.Option{stem.KeepArgs(true)}, "1"},
			{"the declaration, of one that fails", -1, nil, "-1"},
		} {
			h, err := bare.Enqueue(r.Context(), r.client, c.args, c.opts...)
			if err != nil {
				r.Fatal(err)
			}
			s, err := r.client.Wait(r.Context(), h.ID)
			if err != nil || string(s.Args) != c.want {
				r.Errorf("%s: %s with args %s, %v; want %s", c.what, s.State, s.Args, err, c.want)
			}
		}
	}, bare.Do(func(_ context.Context, n int) error {
		if n < 0 {
			return errors.New("below zero")
		}
		return nil
	}))
}
