package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem"
)

// taskEvents streams a task's record as it is and after each change, until its
// end. Each event has an id, which a client that comes back sends as
// Last-Event-ID: what it has seen is not sent again, and after the end it is
// told to stay away (204).
func (s *Server) taskEvents(c *call) (any, error) {
	id, p := c.taskID()
	if p != nil {
		return nil, p
	}
	seen := c.r.Header.Get("Last-Event-ID")
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	defer context.AfterFunc(s.stop, cancel)()
	var st *stream
	for status, err := range s.client.Watch(ctx, id) {
		eid := eventID(&status)
		switch {
		case err != nil && st != nil:
			return nil, nil
		case err != nil && s.stop.Err() != nil:
			return nil, problem(busy, "the server is stopping; try again")
		case err != nil:
			return nil, err
		case st == nil && status.State.Terminal() && eid == seen:
			c.sent, c.status = true, http.StatusNoContent
			c.WriteHeader(c.status)
			return nil, nil
		case st == nil:
			st = &stream{c: c}
			st.begin()
			defer st.beat(s.opts.Heartbeat)()
		}
		if eid != seen && !st.event(&status, eid) {
			return nil, nil
		}
		seen = eid
	}
	return nil, nil
}

// eventID tells the records of a task apart that Watch tells apart.
func eventID(s *stem.Status) string {
	id := []string{string(s.State), strconv.FormatInt(s.Epoch, 10), strconv.Itoa(s.Attempt), strconv.Itoa(s.ReplayCount)}
	if s.Progress != nil {
		id = append(id, strconv.FormatInt(s.Progress.At.UnixMilli(), 10))
	}
	return strings.Join(id, ".")
}

// stream writes server-sent events.
type stream struct {
	c    *call
	mu   sync.Mutex
	gone bool
}

func (st *stream) begin() {
	st.c.sent, st.c.status = true, http.StatusOK
	h := st.c.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // proxies that gather would hold events back
	st.c.WriteHeader(http.StatusOK)
	st.write([]byte("retry: 1000\n\n"))
}

// event writes a record; false: the client has gone.
func (st *stream) event(s *stem.Status, id string) bool {
	name := "status"
	if s.State.Terminal() {
		name = "end"
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return false
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "id: %s\nevent: %s\ndata: ", id, name)
	b.Write(bytes.ReplaceAll(raw, []byte("\n"), nil)) // JSON has them between its tokens alone
	b.WriteString("\n\n")
	return st.write(b.Bytes())
}

func (st *stream) write(raw []byte) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.gone {
		return false
	}
	st.c.deadline()
	n, err := st.c.Write(raw)
	st.c.bytes += n
	if err == nil {
		err = http.NewResponseController(st.c.ResponseWriter).Flush()
	}
	st.gone = err != nil
	return !st.gone
}

// beat writes a comment from time to time, so that a connection which broke is
// noticed and proxies keep it. The function that it returns ends that.
func (st *stream) beat(every time.Duration) (stop func()) {
	var mu sync.Mutex
	ended := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended && st.write([]byte(": alive\n\n")) {
			timer.Reset(every)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock() // a comment under way is finished first
		defer mu.Unlock()
		ended = true
	}
}
