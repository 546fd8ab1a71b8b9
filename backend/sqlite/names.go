package sqlite

import (
	"fmt"
	"sync"

	"github.com/ncruces/go-sqlite3"
)

// names remembers the numbers that queues and workers have in the file. A
// number, once committed, keeps its name for ever.
type names struct {
	queues  numbered
	workers numbered
}

type numbered struct {
	mu   sync.RWMutex
	ids  map[string]int64
	text map[int64]string
}

// maxNames bounds what is remembered; past it the memory starts afresh.
const maxNames = 20_000

func (n *names) init() {
	n.queues.reset()
	n.workers.reset()
}

func (n *numbered) reset() { n.ids, n.text = make(map[string]int64), make(map[int64]string) }

func (n *numbered) id(name string) (int64, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	id, ok := n.ids[name]
	return id, ok
}

func (n *numbered) remember(id int64, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.ids) >= maxNames {
		n.reset()
	}
	n.ids[name], n.text[id] = id, name
}

// name returns the name of a number, which the file has.
func (n *numbered) name(c *conn, statement string, id int64) (string, error) {
	n.mu.RLock()
	name, ok := n.text[id]
	n.mu.RUnlock()
	if ok {
		return name, nil
	}
	found, err := c.one(statement, func(s *sqlite3.Stmt) { name = s.ColumnText(0) }, id)
	if err != nil {
		return "", err
	}
	if !found {
		return "", fmt.Errorf("%s %d: the file does not know it; run a check", statement, id)
	}
	if !c.writes {
		n.remember(id, name)
	}
	return name, nil
}

// queue returns the name of a queue's number.
func (n *names) queue(c *conn, id int64) (string, error) { return n.queues.name(c, "queue-name", id) }

// worker returns the name of a worker's number; "" of 0.
func (n *names) worker(c *conn, id int64) (string, error) {
	if id == 0 {
		return "", nil
	}
	return n.workers.name(c, "worker-name", id)
}

// queueID returns the number of a queue, and whether the file knows it.
func (n *names) queueID(c *conn, name string) (int64, bool, error) {
	if id, ok := n.queues.id(name); ok {
		return id, true, nil
	}
	var id int64
	found, err := c.one("queue-id", func(s *sqlite3.Stmt) { id = s.ColumnInt64(0) }, name)
	if found && !c.writes {
		n.queues.remember(id, name) // the writer may have added it just now, and take it back
	}
	return id, found, err
}
