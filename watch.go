package stem

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// pollEvery is how often a status is read where the store cannot push, and how
// long a lost notification can cost at most.
const pollEvery = time.Second

// Wait returns a task's record when it has ended, ErrNotFound when none is
// known, or the context's error.
func (c *Client) Wait(ctx context.Context, id string) (Status, error) {
	for s, err := range c.Watch(ctx, id) {
		if err != nil || s.State.Terminal() {
			return s, err
		}
	}
	return Status{}, fmt.Errorf("wait for task %s: %w", id, context.Cause(ctx))
}

// Watch yields a task's record as it is and after each change, progress
// included, until it has ended; changes that follow fast on each other may be
// merged. It ends after the terminal record or the first error.
//
// Any number of watchers cost the store little: each is woken by it, where it
// can push, those that are woken at once share a read, and one read a second
// for all of them makes up for what was not told.
func (c *Client) Watch(ctx context.Context, id string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		if c.results == nil {
			yield(Status{}, ErrNoResults)
			return
		}
		if err := task.ValidateID(id); err != nil {
			yield(Status{}, err)
			return
		}
		changed, cancel := c.subscribe(id)
		defer cancel()
		w := c.watches.add(id)
		defer c.watches.remove(id, w)
		var last Status
		for {
			s, err := c.readShared(ctx, id)
			if ctx.Err() != nil {
				err = fmt.Errorf("wait for task %s: %w", id, context.Cause(ctx))
			}
			if err != nil {
				yield(last, err)
				return
			}
			if c.watches.news(w, &s) && !yield(s, nil) || s.State.Terminal() {
				return
			}
			last = s
			select {
			case <-changed:
			case <-w.look:
			case <-ctx.Done():
			}
		}
	}
}

func (c *Client) subscribe(id string) (<-chan struct{}, func()) {
	if w, ok := c.results.(store.Watcher); ok {
		return w.Subscribe(id)
	}
	return nil, func() {}
}

// readShared is Get in one call to the store with those who ask meanwhile.
func (c *Client) readShared(ctx context.Context, id string) (Status, error) {
	found, _, err := c.reads.Do(ctx, id, 0)
	if err != nil {
		return Status{}, fmt.Errorf("read task %s: %w", id, err)
	}
	return c.found(id, &found)
}

// watches are the watchers of one client.
type watches struct {
	read func(ctx context.Context, ids []string) ([]store.Found, error)

	mu   sync.Mutex
	byID map[string][]*watcher
	stop context.CancelFunc // ends the looks; nil: nobody watches
}

// watcher is one watcher of one task.
type watcher struct {
	look chan struct{} // receives when the record is not what it saw
	saw  version       // guarded by watches.mu
}

// version tells the records of a task apart between which Watch yields.
type version struct {
	state            State
	epoch            int64
	attempt, replays int
	progress         int64 // its moment in ns; 0: none
}

func versionOf(s *Status) version {
	v := version{state: s.State, epoch: s.Epoch, attempt: s.Attempt, replays: s.ReplayCount}
	if s.Progress != nil {
		v.progress = s.Progress.At.UnixNano()
	}
	return v
}

// add makes a watcher, and starts the looks with the first.
func (ws *watches) add(id string) *watcher {
	w := &watcher{look: make(chan struct{}, 1)}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.byID == nil {
		ws.byID = map[string][]*watcher{}
	}
	ws.byID[id] = append(ws.byID[id], w)
	if ws.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		ws.stop = stop
		go ws.run(ctx)
	}
	return w
}

// remove ends a watcher, and the looks with the last.
func (ws *watches) remove(id string, w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	rest := ws.byID[id]
	if i := slices.Index(rest, w); i >= 0 {
		rest = slices.Delete(rest, i, i+1)
	}
	ws.byID[id] = rest
	if len(rest) > 0 {
		return
	}
	delete(ws.byID, id)
	if len(ws.byID) == 0 {
		ws.stop()
		ws.stop = nil
	}
}

// news notes what a watcher sees, and says whether it is something new.
func (ws *watches) news(w *watcher, s *Status) bool {
	v := versionOf(s)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.saw == v {
		return false
	}
	w.saw = v
	return true
}

// run looks until ctx ends.
func (ws *watches) run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ids := ws.ids()
		for len(ids) > 0 && ctx.Err() == nil {
			n := min(len(ids), lookAtOnce)
			found, err := ws.read(ctx, ids[:n])
			ws.tell(ids[:n], found, err)
			ids = ids[n:]
		}
	}
}

// lookAtOnce is how many records one read of a look asks for.
const lookAtOnce = 1000

func (ws *watches) ids() []string {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ids := make([]string, 0, len(ws.byID))
	for id := range ws.byID {
		ids = append(ids, id)
	}
	return ids
}

// tell has those watchers look whose record is another one, or which are to
// meet the error themselves.
func (ws *watches) tell(ids []string, found []store.Found, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, id := range ids {
		var v version // of a record that is not there
		if err == nil && found[i].Err == nil {
			v = versionOf(&found[i].Status)
		}
		for _, w := range ws.byID[id] {
			if w.saw == v {
				continue
			}
			select {
			case w.look <- struct{}{}:
			default:
			}
		}
	}
}
