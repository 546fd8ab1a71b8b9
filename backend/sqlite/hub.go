package sqlite

import (
	"hash/fnv"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
)

// hub wakes: the consumers of this process directly, those of others through
// the wake directory, and whoever watches a task.
type hub struct {
	db  *DB
	dir *wakeDir

	mu        sync.Mutex
	consumers map[*consumer]struct{}
	watches   map[uint32]map[chan struct{}]struct{} // by the hash of the task's id
	watching  *socket                               // hears of changes by other processes; kept a little longer than needed
	ears      map[uint32]map[chan struct{}]struct{} // by the hash of the topic
	earing    *socket                               // hears of topics by other processes; kept once it is there
	unwatched bool                                  // nobody watched when it was last looked at
}

func newHub(db *DB) *hub {
	h := &hub{db: db, consumers: make(map[*consumer]struct{}), watches: make(map[uint32]map[chan struct{}]struct{})}
	h.dir = newWakeDir(db, h.polled)
	return h
}

// open adds a consumer.
func (h *hub) open(c *consumer) error {
	c.socket = h.dir.listen(c.sub.Queues, func(message []byte) {
		if len(message) > 0 { // empty: somebody looks whether this socket lives
			c.news.Store(true)
			signal(c.token)
		}
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db.isClosed() || c.b.closed.Load() {
		c.socket.close()
		return broker.ErrClosed
	}
	h.consumers[c] = struct{}{}
	return nil
}

// remove drops a consumer. A call that it did not answer goes to another.
func (h *hub) remove(c *consumer) {
	h.mu.Lock()
	delete(h.consumers, c)
	h.mu.Unlock()
	c.socket.close()
	if c.takeCall() {
		h.db.pass(c)
	}
}

func (h *hub) closeConsumers(b *fileBroker) {
	for _, c := range h.list() {
		if b == nil || c.b == b {
			c.end()
		}
	}
}

func (h *hub) list() []*consumer {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*consumer, 0, len(h.consumers))
	for c := range h.consumers {
		list = append(list, c)
	}
	return list
}

// shortestLease is that of the consumers here.
func (h *hub) shortestLease() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	shortest := broker.DefaultLease
	for c := range h.consumers {
		shortest = min(shortest, c.sub.Lease)
	}
	return shortest
}

// forget tells all consumers what was settled without them.
func (h *hub) forget(done []broker.Settlement) {
	for _, c := range h.list() {
		c.forget(done)
	}
}

// committed tells of a commit: queues got ready tasks, a task that somebody holds
// was revoked, and, in this process, the statuses of tasks changed.
func (h *hub) committed(queues, changed []string, revoked bool) {
	for _, q := range queues {
		h.callFor(q, nil)
	}
	if revoked {
		h.stir()
		h.dir.callAll()
	}
	h.tell(changed)
}

// callFor wakes one consumer that waits for this queue, here or in another
// process. Those that do not wait are told too: they look again before they do.
func (h *hub) callFor(queue string, except *consumer) {
	h.mu.Lock()
	var waits *consumer
	var full []*consumer
	for c := range h.consumers {
		if c == except || !matchAny(c.sub.Queues, queue) {
			continue
		}
		switch c.awaits() {
		case hungryWaits:
			waits = c
		case fullWaits:
			full = append(full, c)
		default:
			signal(c.token)
		}
	}
	h.mu.Unlock()
	if waits != nil {
		waits.call()
		return
	}
	for _, c := range full {
		signal(c.token)
	}
	h.dir.callOne(queue)
}

const (
	isBusy = iota
	hungryWaits
	fullWaits
)

// awaits says what the consumer does.
func (c *consumer) awaits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.waiting && c.hungry:
		return hungryWaits
	case c.waiting:
		return fullWaits
	default:
		return isBusy
	}
}

// call wakes the consumer; it counts as busy from then on.
func (c *consumer) call() {
	c.mu.Lock()
	c.waiting = false
	c.mu.Unlock()
	signal(c.token)
}

// stir has everybody here look again.
func (h *hub) stir() {
	for _, c := range h.list() {
		c.news.Store(true)
		signal(c.token)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stirWatches()
}

func (h *hub) stirWatches() {
	for _, set := range h.watches {
		for ch := range set {
			signal(ch)
		}
	}
}

// polled is called with each look at the file: whether it changed, and whether
// consumers have nothing else to be woken by. The socket for changes is closed
// when nobody has watched from one look to the next.
func (h *hub) polled(changed, consumers bool) {
	if changed && consumers {
		h.stir()
	}
	h.idleSocket(changed).close()
}

// idleSocket tells those who watch of a change, and returns the socket to
// close, if it is time.
func (h *hub) idleSocket(changed bool) (idle *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if changed {
		h.stirWatches()
		h.stirEars()
	}
	if len(h.watches) == 0 && h.unwatched {
		idle, h.watching = h.watching, nil
	}
	h.unwatched = len(h.watches) == 0
	return idle
}

// tell signals those who watch one of the tasks.
func (h *hub) tell(ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watches) == 0 {
		return
	}
	for _, id := range ids {
		h.tellHash(hash(id))
	}
}

func (h *hub) tellHash(hash uint32) {
	for ch := range h.watches[hash] {
		signal(ch)
	}
}

// hear is called with what another process told.
func (h *hub) hear(message []byte) {
	hashes, all := decodeHashes(message)
	if all {
		h.stir()
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, hash := range hashes {
		h.tellHash(hash)
	}
}

// watch adds a channel that is signalled at each change of a task.
func (h *hub) watch(id string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	key := hash(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watches[key] == nil {
		h.watches[key] = make(map[chan struct{}]struct{})
	}
	h.watches[key][ch] = struct{}{}
	h.unwatched = false
	if h.watching == nil && !h.db.isClosed() {
		h.watching = h.dir.listenChanges(h.hear)
	}
	var once sync.Once
	return ch, func() { once.Do(func() { h.unwatch(key, ch) }) }
}

func (h *hub) unwatch(key uint32, ch chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches[key], ch)
	if len(h.watches[key]) == 0 {
		delete(h.watches, key)
	}
}

func (h *hub) close() error {
	h.closeConsumers(nil)
	h.mu.Lock()
	last, ear := h.watching, h.earing
	h.watching, h.earing = nil, nil
	h.mu.Unlock()
	last.close()
	ear.close()
	return h.dir.close()
}

// hash is the 32 bits by which changes of a task are told. Two tasks that
// share them cost a look too many.
func hash(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return h.Sum32()
}
