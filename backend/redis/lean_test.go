package redis_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// An envelope that is stored without what its key and line say comes back as it
// was, whatever else it has, and whatever its fields look like.
func TestStoredEnvelopeComesBackWhole(t *testing.T) {
	t.Parallel()
	db := open(t, redis.Config{Namespace: namespace()})
	at := time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)
	var batch []broker.Publication
	for id, change := range map[string]func(e *task.Envelope){
		"plain":   func(*task.Envelope) {},
		":run":    func(*task.Envelope) {}, // a key of ours, if an id were not set apart
		":t:x":    func(*task.Envelope) {},
		"a:b":     func(*task.Envelope) {},
		"no-args": func(e *task.Envelope) { e.Args = nil },
		"headers": func(e *task.Envelope) { e.Headers = map[string]string{"traceparent": `a","enqueuedAt":"b`} },
		"past":    func(e *task.Envelope) { e.NotBefore = at.Add(-time.Hour) },
		"epoch":   func(e *task.Envelope) { e.NotBefore = time.UnixMilli(0).UTC() },
		"expires": func(e *task.Envelope) {
			e.NotBefore, e.ExpiresAt = at.Add(-time.Hour), time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
		},
		"lease": func(e *task.Envelope) { e.VisibilityTimeout, e.Attempt = time.Minute, 2 },
		"inner": func(e *task.Envelope) {
			e.Args = []byte(`{"x":1,"enqueuedAt":"2026-03-04T05:06:07.089Z","priority":7,"attempt":0,"queue":"q"}`)
		},
		"long": func(e *task.Envelope) {
			e.Args = []byte(`"` + strings.Repeat("x", 3000) + `"`)
			e.Priority = 7
		},
	} {
		e := envelope(id)
		e.EnqueuedAt, e.Priority = at, 7
		change(e)
		batch = append(batch, broker.Publication{Envelope: e})
	}
	publishAll(t, db, batch...)
	want := make(map[string][]byte)
	for _, p := range batch {
		data, err := task.Encode(p.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		want[p.Envelope.ID] = data
	}
	c := consumerOf(t, db, time.Minute)
	defer c.Close(context.WithoutCancel(t.Context()))
	for len(want) > 0 {
		got := exchange(t, c, nil, 100).Deliveries
		if len(got) == 0 {
			t.Fatalf("%d tasks do not come", len(want))
		}
		for i := range got {
			id := got[i].Receipt.ID
			data, err := task.Encode(got[i].Envelope)
			if err != nil || got[i].Malformed != nil || !bytes.Equal(data, want[id]) {
				t.Errorf("task %s: %v %v\n got %s\nwant %s", id, err, got[i].Malformed, data, want[id])
			}
			if got[i].Size != len(data) {
				t.Errorf("task %s has %d bytes, and is said to have %d", id, len(data), got[i].Size)
			}
			delete(want, id)
		}
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
