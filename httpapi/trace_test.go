package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

// TestATaskGoesOnInTheTraceOfItsRequest also holds that a trace passes through
// processes that make no spans, to what a task enqueues.
func TestATaskGoesOnInTheTraceOfItsRequest(t *testing.T) {
	const parent, other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-11111111111111111111111111111111-00f067aa0ba902b7-00"
	r := newRig(t, httpapi.Options{})
	child := stem.NewTask[int, string]("child")
	traced := stem.NewTask[int, string]("traced")
	where := func(ctx context.Context) string {
		e := stem.Current(ctx)
		return e.Header("traceparent") + " " + e.Header("tracestate")
	}
	r.work(child.With(func(ctx context.Context, _ int) (string, error) { return where(ctx), nil }),
		traced.With(func(ctx context.Context, _ int) (string, error) {
			h, err := child.Enqueue(ctx, r.client, 1)
			if err != nil {
				return "", err
			}
			inner, err := h.Wait(ctx)
			if err == nil && inner != where(ctx) {
				t.Errorf("the child is in %q, its parent in %q", inner, where(ctx))
			}
			return where(ctx), err
		}))
	tests := []struct {
		body    string
		headers []string
		want    string
	}{
		{`{"name":"traced","args":1}`, []string{"Traceparent", parent, "Tracestate", "a=b"}, parent + " a=b"},
		{`{"name":"traced","args":1,"headers":{"Traceparent":"` + other + `"}}`, []string{"Traceparent", parent, "Tracestate", "a=b"}, other + " "},
		{`{"name":"traced","args":1}`, []string{"Traceparent", strings.ToUpper(parent)}, " "},
		{`{"name":"traced","args":1}`, []string{"Tracestate", "a=b"}, " "},
		{`{"name":"traced","args":1}`, []string{"Traceparent", parent, "Tracestate", "a=" + strings.Repeat("b", 600)}, parent + " "},
	}
	for _, tt := range tests {
		got, err := traced.Handle(r.client, r.enqueue(tt.body, tt.headers...)).Wait(t.Context())
		if err != nil || got != tt.want {
			t.Errorf("%s with %q ran in %q, %v; want %q", tt.body, tt.headers, got, err, tt.want)
		}
	}
	var many httpapi.EnqueuedMany
	r.must(http.StatusOK, "POST", "/v1/tasks/batch", `{"tasks":[{"name":"traced","args":1},{"name":"child","args":1}]}`, &many, "Traceparent", parent)
	for _, e := range many.Tasks {
		if got, err := traced.Handle(r.client, e.ID).Wait(t.Context()); err != nil || got != parent+" " {
			t.Errorf("of a batch, one ran in %q, %v", got, err)
		}
	}
}
