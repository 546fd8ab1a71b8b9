package httpapi_test

import (
	"context"
	"net/http"
	"testing"

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
