package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// wakeDir is how processes wake each other: a directory of datagram sockets
// beside the file. The name of a socket says what its owner does:
//
//	ID.idle   a consumer that waits for work
//	ID.busy   a consumer that does not
//	ID.ear    a process in which somebody waits for a topic; see ear.go
//	ID.watch  a process in which somebody watches tasks
//	ID.queues what the consumer ID subscribes to, one a line
//
// Who made work ready renames one fitting ID.idle to ID.busy, which only one
// can do, and sends it a datagram: so one consumer is woken, and not all.
// Datagrams carry no tasks. One that is lost costs a second at most: consumers
// look about once a second anyway, and for those who watch poll does.
type wakeDir struct {
	db   *DB
	path string // empty: there are no sockets here, see poll
	// polled is told of each look of pollLoop: whether the file changed, and
	// whether consumers depend on it.
	polled func(changed, consumers bool)

	mu       sync.Mutex
	own      map[string]bool     // ids of this process's sockets
	queues   map[string][]string // subscriptions of others, by id
	sender   *sender
	changed  time.Time // of the directory, when watchers was read
	watchers []string

	polls   atomic.Int64 // how many have no socket to be woken by
	polling sync.Once
	ended   chan struct{} // closed when the polling has ended; nil without it
}

// delivery is what became of a datagram.
type delivery int

const (
	sent      delivery = iota
	full               // the receiver has many to read yet
	abandoned          // the receiver's process ended without closing it
	moved              // there is nothing of that name: renamed just now, or closed
)

// socketPath is the longest path that a socket may have on every system.
const socketPath = 103

// socketName is the longest name of a socket in the directory.
const socketName = len("/0123456789abcdef.watch")

func newWakeDir(db *DB, polled func(changed, consumers bool)) *wakeDir {
	d := &wakeDir{db: db, polled: polled, own: make(map[string]bool), queues: make(map[string][]string)}
	path := db.path + "-wake"
	if len(path)+socketName > socketPath {
		sum := sha256.Sum256([]byte(db.path))
		path = filepath.Join(os.TempDir(), "stem-"+hex.EncodeToString(sum[:8])+"-wake")
	}
	if len(path)+socketName > socketPath || !datagrams {
		return d
	}
	sender, err := newSender()
	if err != nil {
		db.log.Warn("no socket to wake other processes with", "error", err)
		return d
	}
	d.path, d.sender = path, sender
	return d
}

// socket is one entry of the directory. A nil socket does nothing.
type socket struct {
	dir   *wakeDir
	id    string
	conn  *net.UnixConn
	ended chan struct{}
	once  sync.Once
	polls bool
	lost  atomic.Bool // somebody removed it
}

// listen adds a consumer's socket; receive is called for each datagram. Where
// there are no sockets, the consumer is woken by polling.
func (d *wakeDir) listen(queues []string, receive func([]byte)) *socket {
	return d.add(".busy", queues, receive)
}

// listenChanges adds a socket that hears of changed tasks.
func (d *wakeDir) listenChanges(receive func([]byte)) *socket {
	s := d.add(".watch", nil, receive)
	d.poll()
	return s
}

func (d *wakeDir) add(suffix string, queues []string, receive func([]byte)) *socket {
	s, err := d.bind(suffix, queues)
	if err != nil {
		d.db.log.Warn("no socket for other processes to wake this one; it looks every 50 ms", "error", err)
	}
	if s == nil {
		d.polls.Add(1)
		d.poll()
		return &socket{dir: d, polls: true}
	}
	go s.read(receive)
	return s
}

func (d *wakeDir) bind(suffix string, queues []string) (*socket, error) {
	if d.path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(d.path, 0o777); err != nil {
		return nil, err
	}
	d.removeStale()
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	s := &socket{dir: d, id: hex.EncodeToString(b[:]), ended: make(chan struct{})}
	if queues != nil {
		if err := os.WriteFile(s.path(".queues"), []byte(strings.Join(queues, "\n")), 0o666); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	d.own[s.id] = true
	d.mu.Unlock()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path(suffix), Net: "unixgram"})
	if err != nil {
		s.unlink()
		return nil, err
	}
	s.conn = conn
	return s, nil
}

func (s *socket) path(suffix string) string { return filepath.Join(s.dir.path, s.id+suffix) }

func (s *socket) read(receive func([]byte)) {
	defer close(s.ended)
	buffer := make([]byte, maxDatagram)
	for {
		n, err := s.conn.Read(buffer)
		if err != nil {
			return
		}
		receive(buffer[:n])
	}
}

// idle and busy say what the consumer does.
func (s *socket) idle() {
	if s.conn == nil {
		return
	}
	err := os.Rename(s.path(".busy"), s.path(".idle"))
	if err == nil || s.lost.Load() {
		return
	}
	if _, e := os.Stat(s.path(".idle")); e != nil && s.lost.CompareAndSwap(false, true) {
		s.dir.db.log.Warn("the socket to be woken by was removed; looking every 50 ms instead", "error", err)
		s.dir.polls.Add(1)
		s.dir.poll()
	}
}

func (s *socket) busy() {
	if s.conn != nil {
		_ = os.Rename(s.path(".idle"), s.path(".busy")) // it is busy already, if somebody called it
	}
}

func (s *socket) unlink() {
	for _, suffix := range []string{".idle", ".busy", ".watch", ".ear", ".queues"} {
		_ = os.Remove(s.path(suffix)) // most are not there
	}
	s.dir.mu.Lock()
	delete(s.dir.own, s.id)
	s.dir.mu.Unlock()
}

func (s *socket) close() {
	if s == nil {
		return
	}
	s.once.Do(func() {
		if s.polls {
			s.dir.polls.Add(-1)
			return
		}
		_ = s.conn.Close() // nothing is lost with it
		<-s.ended
		s.unlink()
		if s.lost.Load() {
			s.dir.polls.Add(-1)
		}
	})
}

// entry is a socket of the directory.
type entry struct{ id, suffix string }

func (e entry) path(d *wakeDir) string { return filepath.Join(d.path, e.id+e.suffix) }

func (d *wakeDir) list() []entry {
	if d.path == "" {
		return nil
	}
	names, err := os.ReadDir(d.path)
	if err != nil {
		return nil // nobody waits
	}
	var list []entry
	for _, n := range names {
		if id, suffix, ok := strings.Cut(n.Name(), "."); ok {
			list = append(list, entry{id, "." + suffix})
		}
	}
	return list
}

// callOne wakes one consumer of another process that waits for this queue.
func (d *wakeDir) callOne(queue string) {
	list := d.list()
	from := 0
	if len(list) > 0 {
		from = rand.IntN(len(list))
	}
	for i := range list {
		e := list[(from+i)%len(list)]
		if e.suffix != ".idle" || d.isOwn(e.id) || !matchAny(d.subscription(e.id), queue) {
			continue
		}
		busy := filepath.Join(d.path, e.id+".busy")
		if os.Rename(filepath.Join(d.path, e.id+".idle"), busy) != nil {
			continue // another called it first
		}
		if d.send(e.id, busy, []byte{1}) {
			return
		}
	}
}

// callAll wakes every consumer of other processes.
func (d *wakeDir) callAll() {
	for _, e := range d.list() {
		if (e.suffix == ".idle" || e.suffix == ".busy") && !d.isOwn(e.id) {
			d.send(e.id, filepath.Join(d.path, e.id+e.suffix), []byte{1})
		}
	}
}

// send reports whether somebody is there to read the message. A full receiver
// counts as one: it has been woken more than once already. What dead owners
// left is removed; but one that was renamed meanwhile lives.
func (d *wakeDir) send(id, path string, message []byte) bool {
	switch d.sender.send(path, message) {
	case sent, full:
		return true
	case abandoned:
		(&socket{dir: d, id: id}).unlink()
	}
	return false
}

func (d *wakeDir) isOwn(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own[id]
}

// subscription returns what a consumer of another process subscribes to; it
// never changes.
func (d *wakeDir) subscription(id string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if list, ok := d.queues[id]; ok {
		return list
	}
	data, err := os.ReadFile(filepath.Join(d.path, id+".queues"))
	if err != nil {
		return nil
	}
	if len(d.queues) > 1000 {
		clear(d.queues)
	}
	d.queues[id] = strings.Split(string(data), "\n")
	return d.queues[id]
}

// watched reports whether another process wants to know of changes. It reads
// the directory only when that has changed.
func (d *wakeDir) watched() bool {
	if d.path == "" {
		return false
	}
	info, err := os.Stat(d.path)
	if err != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// A change within the clock's grain of the last look could go unseen, so a
	// young directory is read again.
	if at := info.ModTime(); !at.Equal(d.changed) || time.Since(at) < 20*time.Millisecond {
		d.changed, d.watchers = at, nil
		for _, e := range d.list() {
			if e.suffix == ".watch" && !d.own[e.id] {
				d.watchers = append(d.watchers, e.id)
			}
		}
	}
	return len(d.watchers) > 0
}

// maxDatagram holds the hashes of 256 tasks; more are told as "all".
const maxDatagram = 1024

// tell sends other processes which tasks changed.
func (d *wakeDir) tell(ids []string) {
	d.mu.Lock()
	watchers := slices.Clone(d.watchers)
	d.mu.Unlock()
	if len(watchers) == 0 {
		return
	}
	message := encodeHashes(ids)
	for _, id := range watchers {
		d.send(id, filepath.Join(d.path, id+".watch"), message)
	}
}

// encodeHashes is the message that tells of changes of these.
func encodeHashes(ids []string) []byte {
	if len(ids) > maxDatagram/4 {
		return []byte{0}
	}
	message := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		message = binary.BigEndian.AppendUint32(message, hash(id))
	}
	return message
}

// decodeHashes reads what encodeHashes wrote.
func decodeHashes(message []byte) (hashes []uint32, all bool) {
	if len(message)%4 != 0 {
		return nil, true
	}
	for ; len(message) > 0; message = message[4:] {
		hashes = append(hashes, binary.BigEndian.Uint32(message))
	}
	return hashes, false
}

// removeStale removes what killed processes left.
func (d *wakeDir) removeStale() {
	sockets := make(map[string]bool)
	list := d.list()
	for _, e := range list {
		sockets[e.id] = sockets[e.id] || e.suffix != ".queues"
	}
	for _, e := range list {
		switch {
		case d.isOwn(e.id):
		case e.suffix == ".queues":
			if !sockets[e.id] {
				d.removeOld(e)
			}
		default:
			d.send(e.id, filepath.Join(d.path, e.id+e.suffix), []byte{})
		}
	}
}

// removeOld removes a subscription without a socket, unless it is so young
// that its socket may still come.
func (d *wakeDir) removeOld(e entry) {
	path := filepath.Join(d.path, e.id+e.suffix)
	if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
		_ = os.Remove(path) // another may have been faster
	}
}

// How often the file is looked at: where there are no sockets, and where there
// are, in case a datagram was lost.
const (
	pollPause = 50 * time.Millisecond
	restPause = time.Second
)

// poll starts, once, the looks at the file.
func (d *wakeDir) poll() {
	d.polling.Do(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.ended = make(chan struct{})
		go d.pollLoop()
	})
}

func (d *wakeDir) pollLoop() {
	defer close(d.ended)
	c, err := d.db.openConn(context.Background(), false, 64)
	if err != nil {
		d.db.log.Error("cannot look for what other processes do", "error", err)
		return
	}
	last := int64(-1)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-d.db.closed:
			if err := c.close(); err != nil {
				d.db.log.Warn("close a connection", "error", err)
			}
			return
		case <-timer.C:
		}
		// The version changes with each commit of another connection.
		version, err := c.pragma("data_version")
		if err != nil {
			d.db.log.Warn("look for what other processes do", "error", err)
		}
		alone, changed := d.polls.Load() > 0, version != last
		last = version
		d.polled(changed, alone)
		pause := restPause
		if alone {
			pause = pollPause
		}
		timer.Reset(pause)
	}
}

// close ends what the directory runs, and removes it if it is the last.
func (d *wakeDir) close() error {
	d.mu.Lock()
	ended := d.ended
	d.mu.Unlock()
	if ended != nil {
		<-ended
	}
	if d.sender == nil {
		return nil
	}
	_ = os.Remove(d.path) // others may still be in it
	return d.sender.close()
}
