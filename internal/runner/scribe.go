package runner

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	scribeMost  = 1024                   // records that wait to be written
	scribeWait  = 100 * time.Millisecond // for room, before a record is dropped
	scribeFlush = time.Second            // for what is left at the end
)

// scribe is a handler of log records that writes them in a goroutine of its
// own, so that a log which nobody reads, such as a pipe that is full, costs no
// lease: whoever logs waits a tenth of a second for room, and not again until
// there was some. What found no room is counted, and the count is logged.
// Before start and after stop it writes at once.
type scribe struct {
	slog.Handler // that writes
	*desk
}

// desk is what the scribes of one runner share.
type desk struct {
	mu    sync.RWMutex // write: to change queue and left; read: to use them
	queue chan entry   // nil: write at once
	left  bool         // the writer was left behind: write nothing
	ended chan struct{}

	jammed  atomic.Bool  // the last wait for room was in vain, and nothing was written since
	dropped atomic.Int64 // since the last count was logged
}

type entry struct {
	ctx    context.Context
	to     slog.Handler
	record slog.Record
}

func newScribe(h slog.Handler) *scribe { return &scribe{h, &desk{}} }

// WithAttrs is part of slog.Handler.
func (s *scribe) WithAttrs(a []slog.Attr) slog.Handler {
	return &scribe{s.Handler.WithAttrs(a), s.desk}
}

// WithGroup is part of slog.Handler.
func (s *scribe) WithGroup(name string) slog.Handler {
	return &scribe{s.Handler.WithGroup(name), s.desk}
}

// Handle is part of slog.Handler.
func (s *scribe) Handle(ctx context.Context, r slog.Record) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.left:
		return nil
	case s.queue == nil:
		return s.Handler.Handle(ctx, r)
	}
	e := entry{ctx, s.Handler, r.Clone()}
	select {
	case s.queue <- e:
		return nil
	default:
	}
	if !s.jammed.Load() {
		room := time.NewTimer(scribeWait)
		defer room.Stop()
		select {
		case s.queue <- e:
			return nil
		case <-room.C:
			s.jammed.Store(true)
		}
	}
	s.dropped.Add(1)
	return nil
}

// start begins to write in a goroutine, until stop; counts go to the handler
// that is given.
func (d *desk) start(counts slog.Handler) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue, d.ended = make(chan entry, scribeMost), make(chan struct{})
	go d.run(d.queue, counts)
}

func (d *desk) run(queue <-chan entry, counts slog.Handler) {
	defer close(d.ended)
	for e := range queue {
		_ = e.to.Handle(e.ctx, e.record) // as slog itself: there is nobody to tell
		d.jammed.Store(false)
		if n := d.dropped.Swap(0); n > 0 {
			r := slog.NewRecord(time.Now(), slog.LevelWarn, "the log is written too slowly; lines were dropped", 0)
			r.AddAttrs(slog.Int64("lines", n))
			_ = counts.Handle(e.ctx, r)
		}
	}
}

// stop writes what is left. A writer that does not come to its end in time is
// left behind, as a handler is that ignores its context.
func (d *desk) stop() {
	d.mu.Lock()
	queue := d.queue
	d.queue, d.left = nil, true
	d.mu.Unlock()
	close(queue)
	limit := time.NewTimer(scribeFlush)
	defer limit.Stop()
	select {
	case <-d.ended:
		d.mu.Lock()
		d.left = false
		d.mu.Unlock()
	case <-limit.C:
	}
}
