package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// memo remembers the answers of requests that carry a requestId, so that a
// repeat gets the same answer again. It is this process's own; see again for
// the other servers of the store.
type memo struct {
	mu      sync.Mutex
	entries map[string]*remembered
	order   []*remembered // as they were finished
	size    int           // bytes of them
}

// remembered is one answer, or the promise of one.
type remembered struct {
	key   string
	hash  [sha256.Size]byte // of the request
	done  chan struct{}
	ok    bool // there is an answer to repeat
	raw   json.RawMessage
	until time.Time
}

const (
	memoFor  = 5 * time.Minute
	memoSize = 64 << 20
	memoEach = 512 // bytes of an answer beside its text
)

// do runs fn once for each key; repeats wait for it and get its answer. fn says
// until when the answer may be repeated; a zero moment is not at all.
func (m *memo) do(ctx context.Context, key string, body []byte, fn func() (any, time.Time, error)) (any, error) {
	hash := sha256.Sum256(body)
	for {
		e, mine := m.claim(key, hash)
		if mine {
			return m.finish(e, fn)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the first of these requests: %w", ctx.Err())
		}
		switch {
		case e.hash != hash:
			return nil, requestReused()
		case e.ok && time.Now().Before(e.until):
			return e.raw, nil
		}
	}
}

func requestReused() *Problem {
	p := problem(requestIDReused, "the requestId was used with another body")
	p.Pointer = "/requestId"
	return p
}

// claim finds the entry of a key, or makes it the caller's to fill.
func (m *memo) claim(key string, hash [sha256.Size]byte) (e *remembered, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = map[string]*remembered{}
	}
	e = m.entries[key]
	if e != nil {
		select {
		case <-e.done:
			if e.ok && time.Now().Before(e.until) {
				return e, false
			}
		default:
			return e, false
		}
	}
	e = &remembered{key: key, hash: hash, done: make(chan struct{})}
	m.entries[key] = e
	return e, true
}

func (m *memo) finish(e *remembered, fn func() (any, time.Time, error)) (any, error) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(e.done)
		if !e.ok {
			m.forget(e)
			return
		}
		m.order = append(m.order, e)
		m.size += len(e.raw) + memoEach
		m.trim(time.Now())
	}()
	answer, until, err := fn()
	if err != nil || until.IsZero() {
		return answer, err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	raw = append(raw, '\n') // as answer ends those that it encodes
	e.raw, e.until, e.ok = raw, until, true
	return e.raw, nil
}

// forget drops the entry, unless its key has a newer one. It is called under
// mu.
func (m *memo) forget(e *remembered) {
	if m.entries[e.key] == e {
		delete(m.entries, e.key)
	}
}

// trim drops the oldest answers while they are too large together, or over.
func (m *memo) trim(now time.Time) {
	n := 0
	for ; n < len(m.order) && (m.size > memoSize || now.After(m.order[n].until)); n++ {
		m.size -= len(m.order[n].raw) + memoEach
		m.forget(m.order[n])
	}
	clear(m.order[:n])
	m.order = m.order[n:]
}
