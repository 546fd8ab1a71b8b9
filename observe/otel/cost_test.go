package otel_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/observe/otel"
)

// BenchmarkProcess is what a task costs its worker on memory: without traces, in
// one that is not recorded, and in one that is, its spans sent over HTTP.
func BenchmarkProcess(b *testing.B) {
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
	}))
	defer sink.Close()
	for _, tt := range []struct{ name, share string }{{"untraced", ""}, {"unsampled", "0"}, {"sampled", "1"}} {
		b.Run(tt.name, func(b *testing.B) {
			o := stem.ClientOptions{}
			if tt.share != "" {
				x, err := otel.Open(b.Context(), otel.Options{TracesURL: sink.URL, Sampler: "parentbased_traceidratio", SamplerArg: tt.share})
				if err != nil {
					b.Fatal(err)
				}
				defer x.Close(b.Context())
				o.Tracer = x.Tracer()
			}
			process(b, o)
		})
	}
}

// process measures a worker on a backlog of b.N tasks.
func process(b *testing.B, o stem.ClientOptions) {
	db := memory.New()
	defer db.Close()
	c, err := stem.NewClient(db, o)
	if err != nil {
		b.Fatal(err)
	}
	quick := stem.NewTask[int, int]("quick")
	for n := 0; n < b.N; {
		items := make([]stem.Item, min(1000, b.N-n))
		for i := range items {
			items[i] = quick.Item(n)
			n++
		}
		if _, err := c.EnqueueMany(b.Context(), items); err != nil {
			b.Fatal(err)
		}
	}
	w := stem.NewWorker(c, stem.WorkerOptions{Concurrency: 10})
	var ran atomic.Int64
	err = w.Handle(quick.With(func(_ context.Context, n int) (int, error) {
		if ran.Add(1) == int64(b.N) {
			w.Shutdown(stem.Warm)
		}
		return n, nil
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	if err := w.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
}
