package stem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	double = stem.NewTask[int, int]("double")
	echo   = stem.NewTask[any, any]("echo")
	fail   = stem.NewTask[string, stem.None]("fail", stem.MaxRetries(1), stem.Retry(stem.RetryPolicy{Base: time.Second, Jitter: -1}))
)

// rig is a client on memory with a worker, inside a synctest bubble.
type rig struct {
	*testing.T
	client *stem.Client
	worker *stem.Worker
}

func newClient(t *testing.T, o stem.ClientOptions) *stem.Client {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := stem.NewClient(db, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run executes handlers while f runs.
func run(t *testing.T, o stem.ClientOptions, wo stem.WorkerOptions, f func(r *rig), handlers ...stem.Registration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, client: newClient(t, o)}
		r.worker = stem.NewWorker(r.client, wo)
		if err := r.worker.Handle(handlers...); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.worker.Run(context.Background()) }()
		f(r)
		r.worker.Shutdown(stem.Warm)
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func twice(_ context.Context, n int) (int, error) { return 2 * n, nil }

func TestEnqueueAndWait(t *testing.T) {
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		h, err := double.Enqueue(r.Context(), r.client, 21, stem.Meta("tenant", "acme"))
		if err != nil {
			r.Fatal(err)
		}
		if got, err := h.Wait(r.Context()); got != 42 || err != nil {
			r.Errorf("Wait = %d, %v", got, err)
		}
		if got, err := double.Handle(r.client, h.ID).Wait(r.Context()); got != 42 || err != nil {
			r.Errorf("Wait of a second handle = %d, %v", got, err)
		}
		s, err := h.Status(r.Context())
		if err != nil || s.State != stem.Succeeded || s.Attempt != 1 || s.Name != "double" || string(s.Args) != "21" {
			r.Errorf("status %+v, %v", s, err)
		}
		if !strings.Contains(string(s.Meta[task.MetaUser]), `"tenant":"acme"`) {
			r.Errorf("meta %s", s.Meta)
		}
	}, double.With(twice))
}

func TestDelayAndExpiry(t *testing.T) {
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		began := time.Now()
		h, err := double.Enqueue(r.Context(), r.client, 1, stem.In(time.Hour))
		if err != nil {
			r.Fatal(err)
		}
		if _, err := h.Wait(r.Context()); err != nil {
			r.Fatal(err)
		}
		if took := time.Since(began); took < time.Hour || took > time.Hour+time.Second {
			r.Errorf("a task due in an hour ran after %s", took)
		}
		late, err := double.Enqueue(r.Context(), r.client, 1, stem.In(time.Hour), stem.ExpiresIn(time.Minute))
		if err != nil {
			r.Fatal(err)
		}
		var failure *stem.TaskError
		if _, err = late.Wait(r.Context()); !errors.As(err, &failure) || failure.State != stem.Cancelled || failure.Reason != task.ReasonExpired {
			r.Errorf("an expired task: %v", err)
		}
		past, err := double.Enqueue(r.Context(), r.client, 1, stem.At(time.Now().Add(-24*time.Hour)))
		if err != nil {
			r.Fatal(err)
		}
		if _, err := past.Wait(r.Context()); err != nil {
			r.Errorf("a task due yesterday: %v", err)
		}
	}, double.With(twice))
}

func TestFailureIsTyped(t *testing.T) {
	calls := 0
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		h, err := fail.Enqueue(r.Context(), r.client, "no luck")
		if err != nil {
			r.Fatal(err)
		}
		var failure *stem.TaskError
		if _, err = h.Wait(r.Context()); !errors.As(err, &failure) {
			r.Fatalf("Wait: %v", err)
		}
		if failure.State != stem.Failed || failure.Reason != task.ReasonRetriesExhausted || failure.Message != "no luck" || failure.Attempt != 2 || calls != 2 {
			r.Errorf("after %d calls: %+v", calls, failure)
		}
		dead, _, err := r.client.DeadLetters(r.Context(), broker.DeadFilter{Task: "fail"}, broker.Page{})
		if err != nil || len(dead) != 1 || len(dead[0].Errors) != 2 {
			r.Fatalf("dead letters %+v, %v", dead, err)
		}
		replayed, err := r.client.ReplayDeadLetters(r.Context(), broker.DeadFilter{IDs: []string{h.ID}}, broker.ReplayOptions{})
		if err != nil || replayed.Count != 1 {
			r.Fatalf("replay: %+v, %v", replayed, err)
		}
		if _, err = h.Wait(r.Context()); !errors.As(err, &failure) || failure.Attempt != 4 {
			r.Errorf("after the replay, with fresh retries and the old count: %+v", failure)
		}
		if s, err := h.Status(r.Context()); err != nil || s.ReplayCount != 1 || s.LastReplayAt.IsZero() {
			r.Errorf("replay marks: %+v, %v", s, err)
		}
	}, fail.Do(func(_ context.Context, why string) error { calls++; return errors.New(why) }))
}

func TestExplicitIDsAndIdempotency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ctx := newClient(t, stem.ClientOptions{}), t.Context()
		if h, err := double.Enqueue(ctx, c, 1, stem.ID("mine")); err != nil || h.ID != "mine" {
			t.Fatalf("%+v, %v", h, err)
		}
		h, err := double.Enqueue(ctx, c, 1, stem.ID("mine"))
		var exists *stem.TaskExistsError
		if !errors.Is(err, stem.ErrTaskExists) || !errors.As(err, &exists) || exists.Status == nil || exists.Status.State != stem.Queued || h.ID != "mine" {
			t.Errorf("a second one: %+v, %v", h, err)
		}
		first, err := double.Enqueue(ctx, c, 1, stem.Idempotency("order-7", time.Hour))
		if err != nil || first.Duplicate {
			t.Fatal(first, err)
		}
		again, err := double.Enqueue(ctx, c, 1, stem.Idempotency("order-7", time.Hour))
		if err != nil || !again.Duplicate || again.ID != first.ID {
			t.Errorf("a duplicate: %+v, %v; want %s", again, err, first.ID)
		}
		time.Sleep(time.Hour + time.Second)
		if later, err := double.Enqueue(ctx, c, 1, stem.Idempotency("order-7", time.Hour)); err != nil || later.Duplicate {
			t.Errorf("after its time: %+v, %v", later, err)
		}
	})
}

func TestEnqueueManyHasAnOutcomeForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, stem.ClientOptions{})
		items := []stem.Item{
			double.Item(1),
			double.Item(2, stem.Priority(12)),
			double.Item(3, stem.Queue("../x")),
			echo.Item(make(chan int)),
			echo.Item(strings.Repeat("x", 2<<20)),
			double.Item(4, stem.In(-time.Second)),
			double.Item(5, stem.At(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))),
			double.Item(6, stem.ID("a b")),
			double.Item(7, stem.MaxRetries(-1)),
			double.Item(8, stem.Header("stem-x", "y")),
			double.Item(9, stem.Encoder("rot13")),
			echo.Item(json.RawMessage(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))),
		}
		receipts, err := c.EnqueueMany(t.Context(), items)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range receipts {
			if (r.Err == nil) != (i == 0) || r.ID == "" && i != 7 {
				t.Errorf("item %d: %+v", i, r)
			}
			t.Log(r.Err)
		}
		if !errors.Is(receipts[4].Err, stem.ErrTooLarge) {
			t.Errorf("2 MiB: %v", receipts[4].Err)
		}
		if q, err := c.Queues(t.Context()); err != nil || len(q) != 1 || q[0].Ready != 1 {
			t.Errorf("queues %+v, %v", q, err)
		}
	})
}

func TestLinksAndOnSuccess(t *testing.T) {
	var mu sync.Mutex
	got := map[string]any{}
	record := func(ctx context.Context, v any) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		e := stem.Current(ctx)
		name := e.Header("as")
		got[name] = v
		got[name+" root"] = e.Root()
		return nil, nil
	}
	parent := stem.NewTask[int, int]("parent")
	run(t, stem.ClientOptions{}, stem.WorkerOptions{Concurrency: 1}, func(r *rig) {
		h, err := parent.Enqueue(r.Context(), r.client, 4,
			stem.Link(echo.Linked(stem.Header("as", "linked")), echo.Item("own", stem.Header("as", "own"))),
			stem.LinkError(echo.Linked(stem.Header("as", "never"))))
		if err != nil {
			r.Fatal(err)
		}
		if v, err := h.Wait(r.Context()); v != 8 || err != nil {
			r.Fatal(v, err)
		}
		if _, err := fail.Enqueue(r.Context(), r.client, "oh", stem.LinkError(echo.Linked(stem.Header("as", "error")))); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if got["linked"] != 8.0 || got["own"] != "own" || got["success"] != "done" || got["never"] != nil || got["linked root"] != h.ID {
			r.Errorf("linked tasks got %v", got)
		}
		if e, ok := got["error"].(map[string]any); !ok || e["message"] != "oh" {
			r.Errorf("the error link got %v", got["error"])
		}
	}, echo.With(record), parent.With(func(ctx context.Context, n int) (int, error) {
		if err := stem.OnSuccess(ctx, echo.Item("done", stem.Header("as", "success"))); err != nil {
			return 0, err
		}
		return 2 * n, nil
	}), fail.Do(func(ctx context.Context, why string) error {
		return errors.Join(errors.New(why), stem.OnSuccess(ctx, echo.Item("done", stem.Header("as", "never"))))
	}))
}

func TestEncodersCarryArgumentsAndResult(t *testing.T) {
	long := strings.Repeat("compress me ", 1000)
	o := stem.ClientOptions{Encoders: []encode.Encoder{gzip.New(0)}, Encoding: []string{"gzip"}}
	run(t, o, stem.WorkerOptions{}, func(r *rig) {
		h, e := echo.Enqueue(r.Context(), r.client, long)
		if e != nil {
			r.Fatal(e)
		}
		v, e := h.Wait(r.Context())
		if v != long || e != nil {
			r.Errorf("%.20v…, %v", v, e)
		}
		s, e := h.Status(r.Context())
		if e != nil || len(s.Args) > 1000 {
			r.Errorf("kept args of %d bytes, %v: they were not compressed", len(s.Args), e)
		}
		child := echo.Linked(stem.ID("child"))
		if h, e = echo.Enqueue(r.Context(), r.client, long, stem.Link(child)); e != nil {
			r.Fatal(e)
		}
		if _, e = h.Wait(r.Context()); e != nil {
			r.Fatal(e)
		}
		if v, e := echo.Handle(r.client, "child").Wait(r.Context()); v != long || e != nil {
			r.Errorf("the linked task got %.20v…, %v", v, e)
		}
	}, echo.With(func(_ context.Context, v any) (any, error) { return v, nil }))
}

func TestWatchListDeleteRevoke(t *testing.T) {
	slow := stem.NewTask[int, int]("slow")
	run(t, stem.ClientOptions{}, stem.WorkerOptions{Concurrency: 1}, func(r *rig) {
		ctx := r.Context()
		h, err := slow.Enqueue(ctx, r.client, 3)
		if err != nil {
			r.Fatal(err)
		}
		waiting, err := slow.Enqueue(ctx, r.client, 3, stem.In(time.Hour))
		if err != nil {
			r.Fatal(err)
		}
		var seen []string
		for s, err := range r.client.Watch(ctx, h.ID) {
			if err != nil {
				r.Fatal(err)
			}
			p := 0.0
			if s.Progress != nil {
				p = s.Progress.Percent
			}
			seen = append(seen, fmt.Sprintf("%s %.0f%%", s.State, p))
		}
		text := strings.Join(seen, ", ")
		if !strings.HasSuffix(text, "succeeded 100%") && !strings.HasSuffix(text, "succeeded 66%") || !strings.Contains(text, "running 33%") {
			r.Errorf("watched: %s", text)
		}
		answers, err := r.client.Revoke(ctx, stem.RevokeOptions{}, waiting.ID, h.ID, "nobody")
		if err != nil || answers[0].State != broker.RevokeCancelled || answers[1].State != broker.RevokeTooLate || answers[2].State != broker.RevokeUnknown {
			r.Errorf("revoke: %+v, %v", answers, err)
		}
		l, err := r.client.List(ctx, store.Query{States: []stem.State{stem.Cancelled}})
		if err != nil || len(l.Statuses) != 1 || l.Statuses[0].ID != waiting.ID || l.Statuses[0].Reason != task.ReasonRevoked {
			r.Errorf("list: %+v, %v", l, err)
		}
		if errs, err := r.client.Delete(ctx, h.ID); err != nil || errs[0] != nil {
			r.Errorf("delete: %v, %v", errs, err)
		}
		if _, err := h.Wait(ctx); !errors.Is(err, stem.ErrNotFound) {
			r.Errorf("wait for a deleted task: %v", err)
		}
	}, slow.With(func(ctx context.Context, n int) (int, error) {
		for i := range n {
			time.Sleep(time.Second)
			if err := stem.Current(ctx).Progress(float64((i+1)*100/n), nil); err != nil {
				return 0, err
			}
		}
		time.Sleep(time.Second)
		return n, nil
	}))
}

func TestResultsThatAreNotKept(t *testing.T) {
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		h, err := double.Enqueue(r.Context(), r.client, 1, stem.IgnoreResult())
		if err != nil {
			r.Fatal(err)
		}
		if _, err := h.Wait(r.Context()); !errors.Is(err, stem.ErrNoResult) {
			r.Errorf("an ignored result: %v", err)
		}
		short, err := double.Enqueue(r.Context(), r.client, 1, stem.Retention(time.Minute))
		if err != nil {
			r.Fatal(err)
		}
		if v, err := short.Wait(r.Context()); v != 2 || err != nil {
			r.Error(v, err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := short.Status(r.Context()); !errors.Is(err, stem.ErrNotFound) {
			r.Errorf("after its retention: %v", err)
		}
		if _, err := h.Status(r.Context()); err != nil {
			r.Errorf("within its retention: %v", err)
		}
	}, double.With(twice))
}

func TestCurrentOutsideAHandler(t *testing.T) {
	e := stem.Current(t.Context())
	if e.ID() != "" || e.Attempt() != 0 || e.Progress(5, "x") != nil || e.Logger() == nil {
		t.Error("a detached execution is not empty")
	}
	e.Heartbeat()
	e.ExtendLease(time.Second)
	if _, err := e.Enqueue(t.Context(), double.Item(1)); err == nil {
		t.Error("a detached execution enqueued")
	}
	if err := stem.OnSuccess(t.Context(), double.Item(1)); err == nil {
		t.Error("OnSuccess outside a handler succeeded")
	}
	ctx := stem.ContextWith(t.Context(), stem.Info{ID: "x", Attempt: 3})
	if e := stem.Current(ctx); e.ID() != "x" || e.Attempt() != 3 || e.Root() != "x" {
		t.Errorf("a described execution: %+v", e.Describe())
	}
}

func TestMiddlewareWrapsInOrder(t *testing.T) {
	var order []string
	around := func(name string) stem.Middleware {
		return func(next stem.Handler) stem.Handler {
			return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
				order = append(order, name+string(args))
				return next(ctx, args)
			}
		}
	}
	enqueue := func(next stem.EnqueueFunc) stem.EnqueueFunc {
		return func(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
			order = append(order, "enqueue "+items[0].Name())
			return next(ctx, items)
		}
	}
	run(t, stem.ClientOptions{Middleware: []func(stem.EnqueueFunc) stem.EnqueueFunc{enqueue}},
		stem.WorkerOptions{Middleware: []stem.Middleware{around("outer "), around("inner ")}}, func(r *rig) {
			h, err := double.Enqueue(r.Context(), r.client, 7)
			if err != nil {
				r.Fatal(err)
			}
			if _, err := h.Wait(r.Context()); err != nil {
				r.Fatal(err)
			}
			if got := strings.Join(order, ", "); got != "enqueue double, outer 7, inner 7" {
				r.Errorf("order: %s", got)
			}
		}, double.With(twice))
}

// TestShutdownBeforeRun asks a worker to stop that has not started yet.
func TestShutdownBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stem.NewWorker(newClient(t, stem.ClientOptions{}), stem.WorkerOptions{})
		w.Shutdown(stem.Warm)
		if err := w.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestMistakesInTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, stem.ClientOptions{})
		w := stem.NewWorker(c, stem.WorkerOptions{})
		if err := w.Handle(double.With(twice), double.With(twice)); err == nil {
			t.Error("two handlers of one task were accepted")
		}
		if err := stem.NewWorker(c, stem.WorkerOptions{Queues: stem.Weights{"a": 0}}).Run(t.Context()); err == nil {
			t.Error("a weight of 0 was accepted")
		}
		if _, err := stem.NewClient(memory.New(), stem.ClientOptions{DefaultQueue: "a/b"}); err == nil {
			t.Error("a bad default queue was accepted")
		}
		defer func() {
			if recover() == nil {
				t.Error("a bad task name was accepted")
			}
		}()
		stem.NewTask[int, int]("no spaces")
	})
}
