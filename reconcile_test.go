package stem_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// TestWorkersReconcileTwoStores leaves a status whose task no broker holds, as
// a lost broker does, and finds it ended.
func TestWorkersReconcileTwoStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		envelopes, results := memory.New(), memory.New()
		both := stem.Pair(envelopes, results)
		client, err := stem.NewClient(both, stem.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		orphan := task.NewStatus(&task.Envelope{ID: "orphan", Name: "double", Queue: "default", EnqueuedAt: time.Now()})
		if errs, err := results.Results().Create(t.Context(), []task.Status{orphan}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 2)
		for range 2 {
			w := stem.NewWorker(client, stem.WorkerOptions{})
			if err := w.Handle(double.With(twice)); err != nil {
				t.Fatal(err)
			}
			go func() { done <- w.Run(ctx) }()
		}
		h, err := double.Enqueue(ctx, client, 4)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := h.Wait(ctx); v != 8 || err != nil {
			t.Errorf("a task on two stores: %d, %v", v, err)
		}
		time.Sleep(5 * time.Minute)
		if s, err := client.Get(ctx, "orphan"); err != nil || s.State != stem.Failed || s.Reason != task.ReasonOrphaned {
			t.Errorf("the orphan: %+v, %v", s, err)
		}
		stop()
		if err := errors.Join(<-done, <-done, both.Close()); err != nil {
			t.Error(err)
		}
	})
}

// nothing is a backend without a result store.
type nothing struct{ *memory.DB }

func (nothing) Results() store.Results       { return nil }
func (nothing) Heartbeats() store.Heartbeats { return nil }

func TestAClientWithoutResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := memory.New()
		defer db.Close()
		client, err := stem.NewClient(nothing{db}, stem.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := double.Enqueue(t.Context(), client, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); !errors.Is(err, broker.ErrUnsupported) {
			t.Errorf("Wait: %v", err)
		}
		if r, err := client.Reconcile(t.Context(), 0); r.Looked != 0 || err != nil {
			t.Errorf("Reconcile on one store: %+v, %v", r, err)
		}
	})
}
