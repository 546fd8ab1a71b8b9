package httpapi_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/httpapi"
)

// TestPullAtARate: tasks that pullers take start at their rate, under old names
// too; those that have to wait hold up no others, not even for who does not wait.
func TestPullAtARate(t *testing.T) {
	mail := stem.NewTask[stem.None, stem.None]("mail", stem.RateLimit{Count: 1, Per: time.Hour, Burst: 2}, stem.Aliases("post")).
		Do(func(context.Context, stem.None) error { return nil })
	stores(t, func(t *testing.T, b stem.Backend) {
		r := newRigOn(t, b, httpapi.Options{Tasks: []stem.Registration{mail}})
		for i := range 5 {
			r.enqueue(fmt.Sprintf(`{"name":"mail","id":"m%d"}`, i))
		}
		r.enqueue(`{"name":"free","id":"free"}`)
		if got := r.lease(`{"queues":["default"],"count":2}`); len(got) != 2 || got[0].ID != "m0" || got[1].ID != "m1" {
			t.Fatalf("a burst of two: %+v", got)
		}
		if got := r.lease(`{"queues":["default"]}`); len(got) != 1 || got[0].ID != "free" {
			t.Fatalf("behind those that wait: %+v", got)
		}
		s := r.status("m2")
		if string(s.Meta["rateLimited"]) != "true" || s.State != stem.Queued || s.Attempt != 0 || time.Until(s.NotBefore) < 50*time.Minute {
			t.Errorf("one that waits: %+v", s)
		}
		r.enqueue(`{"name":"post","id":"old"}`)
		if got := r.lease(`{"queues":["default"],"count":5}`); len(got) != 0 {
			t.Errorf("under an old name: %+v", got)
		}
	})
}

// TestPullAtAChangedRate: a task that the server does not know waits once it has
// been given a rate, and its slot is its own; without the rate it starts at once.
func TestPullAtAChangedRate(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	r := newRigOn(t, b, httpapi.Options{})
	r.must(200, "PUT", "/v1/rates/py.add", `{"rate":"2/s","timeout":"1ms"}`, nil)
	began := time.Now()
	for i := range 3 {
		r.enqueue(fmt.Sprintf(`{"name":"py.add","id":"p%d"}`, i))
	}
	for got := 0; got < 3; {
		got += len(r.lease(`{"queues":["default"],"count":3,"wait":"20s"}`))
	}
	if took := time.Since(began); took < 990*time.Millisecond {
		t.Errorf("3 at 2 a second took %s", took)
	}
	r.must(200, "PUT", "/v1/rates/py.add", `{"rate":"1/h","timeout":"1ms"}`, nil)
	r.enqueue(`{"name":"py.add","id":"next"}`)
	r.enqueue(`{"name":"py.add","id":"later"}`)
	if got := r.lease(`{"queues":["default"],"wait":"20s"}`); len(got) != 1 || got[0].ID != "next" {
		t.Errorf("the next slot: %+v", got)
	}
	if got := r.lease(`{"queues":["default"]}`); len(got) != 0 || time.Until(r.status("later").NotBefore) < 50*time.Minute {
		t.Errorf("at one an hour: %+v, %+v", got, r.status("later"))
	}
	r.must(200, "PUT", "/v1/rates/py.add", `{"rate":"none","timeout":"1ms"}`, nil)
	r.enqueue(`{"name":"py.add"}`)
	if got := r.lease(`{"queues":["default"]}`); len(got) != 1 {
		t.Errorf("without a limit: %+v", got)
	}
}
