package stem_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// A limited task starts at its rate, under its old names too, also where the
// results are in another store; others do not wait.
func TestRate(t *testing.T) {
	limited := stem.NewTask[int, int]("limited", stem.Rate("10/s"), stem.Aliases("bounded"))
	old := stem.NewTask[int, int]("bounded")
	test := func(r *rig) {
		began := time.Now()
		var last *stem.Handle[int]
		for i := range 50 {
			declared := limited
			if i%2 == 1 {
				declared = old
			}
			h, err := declared.Enqueue(r.Context(), r.client, i)
			if err != nil {
				r.Fatal(err)
			}
			last = h
		}
		free, err := double.Enqueue(r.Context(), r.client, 4)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := free.Wait(r.Context()); err != nil || time.Since(began) > time.Second {
			r.Errorf("a task without a limit waited %s, %v", time.Since(began), err)
		}
		synctest.Wait() // until what goes back is stored too
		s, err := last.Status(r.Context())
		if err != nil || s.State != stem.Queued || s.Meta[task.MetaRateLimited] == nil || s.NotBefore.Sub(began) < 4*time.Second {
			r.Errorf("while it waits for its slot: %+v, %v", s, err)
		}
		if _, err := last.Wait(r.Context()); err != nil {
			r.Fatal(err)
		}
		if took := time.Since(began); took < 4900*time.Millisecond || took > 5100*time.Millisecond {
			r.Errorf("50 tasks at 10/s took %s", took)
		}
		if s, err = last.Status(r.Context()); err != nil || s.Meta[task.MetaRateLimited] != nil || s.Attempt != 1 {
			r.Errorf("after its run: %+v, %v", s, err)
		}
	}
	run(t, stem.ClientOptions{}, stem.WorkerOptions{Concurrency: 4}, test, limited.With(twice), double.With(twice))
	t.Run("two stores", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := stem.Pair(memory.New(), memory.New())
			c, err := stem.NewClient(b, stem.ClientOptions{})
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{T: t, client: c, worker: stem.NewWorker(c, stem.WorkerOptions{Concurrency: 4})}
			if err := r.worker.Handle(limited.With(twice), double.With(twice)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- r.worker.Run(context.Background()) }()
			test(r)
			r.worker.Shutdown(stem.Warm)
			if err := errors.Join(<-done, b.Close()); err != nil {
				t.Error(err)
			}
		})
	})
}

// plainBroker is a backend without any power.
type plainBroker struct{ broker.Broker }

type plainBackend struct{ stem.Backend }

func (p plainBackend) Broker() broker.Broker { return plainBroker{p.Backend.Broker()} }

// A worker whose backend keeps no limits does not start; without limited tasks
// it does.
func TestRateNeedsABackend(t *testing.T) {
	db := memory.New()
	defer db.Close()
	c, err := stem.NewClient(plainBackend{db}, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := stem.NewWorker(c, stem.WorkerOptions{})
	if err := w.Handle(double.With(twice), stem.NewTask[int, int]("mail.send", stem.Rate("5/m")).With(twice)); err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	if !errors.Is(err, broker.ErrUnsupported) || !strings.Contains(err.Error(), "task mail.send has a rate limit of 5/m, and the backend custom keeps none") {
		t.Errorf("Run: %v", err)
	}
	w = stem.NewWorker(c, stem.WorkerOptions{})
	if err := w.Handle(double.With(twice)); err != nil {
		t.Fatal(err)
	}
	w.Shutdown(stem.Warm)
	if err := w.Run(t.Context()); err != nil {
		t.Errorf("Run without limited tasks: %v", err)
	}
}

func TestRateIsChecked(t *testing.T) {
	for _, bad := range []stem.TaskOption{
		stem.Rate(""), stem.Rate("10"), stem.Rate("10/w"), stem.Rate("-1/s"), stem.Rate("1.5/s"), stem.Rate("1/s/s"),
		stem.RateLimit{}, stem.RateLimit{Count: 1}, stem.RateLimit{Count: 1, Per: time.Second, Burst: -1},
	} {
		func() {
			defer func() {
				if v := recover(); v == nil || !strings.Contains(v.(string), "stem.NewTask: task odd: invalid rate") {
					t.Errorf("NewTask with %+v: %v", bad, v)
				}
			}()
			stem.NewTask[int, int]("odd", bad)
		}()
	}
	info := stem.NewTask[int, int]("even", stem.RateLimit{Count: 3, Per: time.Minute, Burst: 2}).With(twice).Info()
	if info.RateLimit == nil || info.RateLimit.String() != "3/m" || info.RateLimit.Burst != 2 {
		t.Errorf("Info says %+v", info.RateLimit)
	}
}
