package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// hub has the one subscribed connection of a process: it hears which consumers
// are called, and which watched tasks changed. It is connected when the first
// consumer or watcher needs it.
type hub struct {
	db      *DB
	process string // a word; one of a Cluster begins with k
	channel string
	topics  *topics

	start sync.Once
	stop  context.CancelFunc
	done  chan struct{} // the goroutine has ended; nil: it was never started
	ready chan struct{} // closed at the first subscription

	mu        sync.Mutex
	last      int
	consumers map[int]*consumer
	watches   map[string]map[chan struct{}]struct{} // by the task's id
	connected bool
}

// How often watches are registered again; the server forgets them after a minute
// and a half.
const watchAgain = 30 * time.Second

func newHub(db *DB) *hub {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // it never fails
	h := &hub{
		db: db, process: "p" + hex.EncodeToString(random), ready: make(chan struct{}),
		consumers: make(map[int]*consumer), watches: make(map[string]map[chan struct{}]struct{}),
		topics: newTopics(),
	}
	if db.config.Cluster {
		h.process = "k" + h.process[1:]
	}
	h.channel = db.config.Namespace + ":p:" + h.process
	return h
}

// connect starts the connection, if need be, and waits until it is subscribed.
func (h *hub) connect(ctx context.Context) error {
	h.start.Do(func() {
		run, stop := context.WithCancel(context.Background())
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.db.isClosed() {
			stop()
			return
		}
		h.stop, h.done = stop, make(chan struct{})
		go h.run(run)
	})
	select {
	case <-h.ready:
		return nil
	case <-h.db.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("subscribe to %s: %w", h.channel, ctx.Err())
	}
}

// close ends the connection, and all consumers.
func (h *hub) close() {
	h.mu.Lock()
	stop, done := h.stop, h.done
	h.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	h.closeConsumers(nil)
}

// run keeps the subscription until ctx ends.
func (h *hub) run(ctx context.Context) {
	defer close(h.done)
	again := time.NewTicker(watchAgain)
	defer again.Stop()
	failures := 0
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		began := time.Now()
		err := h.subscribed(ctx, again.C)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			pause, failures = 10*time.Millisecond, 0
		}
		if failures++; failures&(failures-1) == 0 { // the 1st, 2nd, 4th, …
			h.db.log.Warn("the subscription to Redis ended; will try again", "failures", failures, "error", err)
		}
		h.stir() // whatever was published meanwhile is seen by looking
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// subscribed subscribes and serves until the connection is lost.
func (h *hub) subscribed(ctx context.Context, again <-chan time.Time) error {
	client, cancel := h.db.client.Dedicate()
	defer cancel()
	subscribed := make(chan struct{}, 1)
	lost := client.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) {
			if m.Channel == h.channel {
				h.hear(m.Message)
			} else {
				h.topics.hear(m.Channel, m.Message)
			}
		},
		OnSubscription: func(s rueidis.PubSubSubscription) {
			switch {
			case s.Kind != "subscribe":
			case s.Channel == h.channel:
				signal(subscribed)
			default:
				h.topics.confirmed(s.Channel)
			}
		},
	})
	defer h.topics.lost()
	if err := client.Do(ctx, client.B().Subscribe().Channel(h.channel).Build()).Error(); err != nil {
		return err
	}
	for {
		select {
		case <-subscribed:
			h.connectedAgain(ctx)
		case <-h.topics.changed:
			if err := h.topics.sync(ctx, client); err != nil {
				return err
			}
		case <-again:
			h.watchAll(ctx)
		case err := <-lost:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connectedAgain lets everybody look: calls may have been lost.
func (h *hub) connectedAgain(ctx context.Context) {
	h.mu.Lock()
	first := !h.connected
	h.connected = true
	h.mu.Unlock()
	if first {
		close(h.ready)
		return
	}
	h.watchAll(ctx)
	h.stir()
}

// stir has every consumer and watcher look again.
func (h *hub) stir() {
	for _, c := range h.list() {
		c.callAll()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range h.watches {
		for ch := range set {
			signal(ch)
		}
	}
}

// hear takes one message: "c NUMBER PARTITION" calls a consumer, "w ID" tells of
// a change.
func (h *hub) hear(message string) {
	kind, rest, _ := strings.Cut(message, " ")
	switch kind {
	case "c":
		number, partition, _ := strings.Cut(rest, " ")
		n, err1 := strconv.Atoi(number)
		p, err2 := strconv.Atoi(partition)
		h.mu.Lock()
		c := h.consumers[n]
		h.mu.Unlock()
		if c != nil && err1 == nil && err2 == nil {
			c.call(p)
		}
	case "w":
		h.mu.Lock()
		defer h.mu.Unlock()
		for ch := range h.watches[rest] {
			signal(ch)
		}
	}
}

// open adds a consumer and gives it its name.
func (h *hub) open(ctx context.Context, c *consumer) error {
	if err := h.connect(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db.isClosed() || c.b.closed.Load() {
		return broker.ErrClosed
	}
	h.last++
	c.number = h.last
	c.name = h.process + "." + strconv.Itoa(c.number)
	h.consumers[c.number] = c
	return nil
}

func (h *hub) remove(c *consumer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.consumers, c.number)
}

func (h *hub) list() []*consumer {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*consumer, 0, len(h.consumers))
	for _, c := range h.consumers {
		list = append(list, c)
	}
	return list
}

// closeConsumers ends the consumers of a broker; nil: of all.
func (h *hub) closeConsumers(b *redisBroker) {
	for _, c := range h.list() {
		if b == nil || c.b == b {
			c.end()
		}
	}
}

// forget tells all consumers what was settled without them.
func (h *hub) forget(done []broker.Settlement) {
	for _, c := range h.list() {
		c.forget(done)
	}
}

// watch adds a channel that is told of changes of a task, and returns how to
// take it off.
func (h *hub) watch(id string) (chan struct{}, func()) {
	ch, first := h.addWatch(id)
	ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
	defer cancel()
	err := h.connect(ctx)
	if err == nil && first {
		err = h.register(ctx, "1", id)
	}
	if err != nil {
		h.db.log.Warn("watch a task; it will be tried again", "task_id", id, "error", err)
	}
	return ch, func() { h.unwatch(id, ch) }
}

// addWatch adds a channel here; the server is to be told of the first of an id.
func (h *hub) addWatch(id string) (ch chan struct{}, first bool) {
	ch = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	set := h.watches[id]
	if set == nil {
		set = make(map[chan struct{}]struct{})
		h.watches[id] = set
	}
	first = len(set) == 0
	set[ch] = struct{}{}
	return ch, first
}

// watchTimeout bounds how long a call of Subscribe may take.
const watchTimeout = 5 * time.Second

func (h *hub) unwatch(id string, ch chan struct{}) {
	h.mu.Lock()
	set := h.watches[id]
	delete(set, ch)
	last := set != nil && len(set) == 0
	if last {
		delete(h.watches, id)
	}
	h.mu.Unlock()
	if !last || h.db.isClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
	defer cancel()
	if err := h.register(ctx, "0", id); err != nil {
		h.db.log.Debug("stop watching a task; the server forgets it by itself", "task_id", id, "error", err)
	}
}

// watchAll registers all watches again.
func (h *hub) watchAll(ctx context.Context) {
	h.mu.Lock()
	ids := make([]string, 0, len(h.watches))
	for id := range h.watches {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	if err := h.register(ctx, "1", ids...); err != nil {
		h.db.log.Warn("watch tasks", "tasks", len(ids), "error", err)
	}
}

// register tells the server that this process watches tasks ("1"), or no more.
func (h *hub) register(ctx context.Context, on string, ids ...string) error {
	shares := h.db.shares(len(ids), 0, func(i int) string { return ids[i] })
	of := flat(func(i int) []string { return ids[i : i+1] })
	args := func(items []int) []string { return append([]string{h.process, on}, of(items)...) }
	return h.db.spread(ctx, h.db.scripts.watch, shares, args, func(*rueidis.RedisMessage, []int) error { return nil })
}
