package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/httpapi"
)

// TestDeclaredTasks enqueues tasks that the server has a declaration of, by
// name and by alias, alone, in a batch and as a link: what the request leaves
// open is as declared, what it says wins.
func TestDeclaredTasks(t *testing.T) {
	mail := stem.NewTask[stem.None, stem.None]("mail", stem.Aliases("post"), stem.Queue("mails"), stem.MaxRetries(9)).
		Do(func(context.Context, stem.None) error { return nil })
	r := newRig(t, httpapi.Options{Tasks: []stem.Registration{mail}})
	r.enqueue(`{"id":"plain","name":"mail"}`)
	r.enqueue(`{"id":"alias","name":"post","queue":"own","maxRetries":0}`)
	r.must(http.StatusOK, "POST", "/v1/tasks/batch", `{"tasks":[{"id":"batch","name":"mail"},{"id":"other","name":"echo"}]}`, nil)
	r.enqueue(`{"name":"echo","onSuccess":[{"id":"link","name":"mail"}]}`)
	r.work(echo())
	eventually(t, "the link is enqueued", func() bool { return r.do("GET", "/v1/tasks/link", "").status == http.StatusOK })
	for _, want := range []struct {
		id, name, queue string
		retries         int
	}{{"plain", "mail", "mails", 9}, {"alias", "mail", "own", 0}, {"batch", "mail", "mails", 9}, {"link", "mail", "mails", 9}, {"other", "echo", "default", 3}} {
		var s stem.Status
		r.must(http.StatusOK, "GET", "/v1/tasks/"+want.id, "", &s)
		if s.Name != want.name || s.Queue != want.queue || s.MaxRetries != want.retries {
			t.Errorf("task %s: %s on %s with %d retries, want %+v", s.ID, s.Name, s.Queue, s.MaxRetries, want)
		}
	}
}

// TestDeclaredRetries: a task that a puller fails is tried again as it is declared,
// also when another server leased it.
func TestDeclaredRetries(t *testing.T) {
	mail := stem.NewTask[stem.None, stem.None]("mail", stem.MaxRetries(1), stem.Retry(stem.RetryPolicy{Base: time.Hour, Max: time.Hour, Jitter: -1})).
		Do(func(context.Context, stem.None) error { return nil })
	stores(t, func(t *testing.T, b stem.Backend) {
		plain := newRigOn(t, b, httpapi.Options{})
		r := newRigOn(t, b, httpapi.Options{Tasks: []stem.Registration{mail}})
		for i, from := range []*rig{r, plain} {
			id := fmt.Sprint("m", i)
			from.enqueue(fmt.Sprintf(`{"name":"mail","id":%q}`, id))
			got := from.lease(`{"queues":["default"],"wait":"20s"}`)
			if s := r.settle(got[0].Receipt, `"outcome":"failed","error":{"message":"no"}`); s.State != "retried" {
				t.Fatalf("settled: %+v", s)
			}
			if s := r.status(id); time.Until(s.NotBefore) < 50*time.Minute {
				t.Errorf("%s is tried again in %s", id, time.Until(s.NotBefore))
			}
		}
	})
}
