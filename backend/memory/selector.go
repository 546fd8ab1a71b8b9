package memory

import (
	"slices"

	"github.com/stemjobs/stem/broker"
)

// selector is one entry of a subscription, a name or a pattern. Consumers that
// subscribe to the same share it.
type selector struct {
	text      string
	consumers []*consumer
	queues    []*queue // that it covers
	filled    []*queue // those of them that have ready tasks
	turn      int      // where in filled the next exchange begins
	idle      int      // consumers that wait for work
	next      int      // where in consumers the search for one to wake begins
}

// link says that a selector covers a queue.
type link struct {
	selector *selector
	filled   int // the queue's index in selector.filled; -1: not there
}

func (s *selector) matches(name string) bool { return broker.Match(s.text, name) }

// selector returns the one of that text, which it makes if need be.
func (db *DB) selector(text string) *selector {
	if s := db.selectors[text]; s != nil {
		return s
	}
	s := &selector{text: text}
	if broker.IsPattern(text) {
		for _, q := range db.queues {
			if s.matches(q.name) {
				s.cover(q)
			}
		}
		db.patterns = append(db.patterns, s)
	} else {
		s.cover(db.queue(text))
	}
	db.selectors[text] = s
	return s
}

// leaveSelector ends a consumer's use of a selector.
func (db *DB) leaveSelector(s *selector, c *consumer) {
	s.consumers = slices.DeleteFunc(s.consumers, func(o *consumer) bool { return o == c })
	if len(s.consumers) > 0 {
		return
	}
	for _, q := range s.queues {
		q.links = slices.DeleteFunc(q.links, func(l link) bool { return l.selector == s })
	}
	delete(db.selectors, s.text)
	db.patterns = slices.DeleteFunc(db.patterns, func(o *selector) bool { return o == s })
}

func (s *selector) cover(q *queue) {
	q.links = append(q.links, link{selector: s, filled: -1})
	s.queues = append(s.queues, q)
	if q.open() {
		s.fill(q, len(q.links)-1)
	}
}

// uncover forgets an empty queue.
func (s *selector) uncover(q *queue) {
	if i := slices.Index(s.queues, q); i >= 0 {
		s.queues[i] = s.queues[len(s.queues)-1]
		s.queues = slices.Delete(s.queues, len(s.queues)-1, len(s.queues))
	}
}

// fill adds a queue, whose link i is to s, to those with ready tasks.
func (s *selector) fill(q *queue, i int) {
	q.links[i].filled = len(s.filled)
	s.filled = append(s.filled, q)
}

// drain takes it out again.
func (s *selector) drain(q *queue, i int) {
	at, last := q.links[i].filled, len(s.filled)-1
	moved := s.filled[last]
	s.filled[at] = moved
	for j := range moved.links {
		if moved.links[j].selector == s {
			moved.links[j].filled = at
		}
	}
	s.filled[last] = nil
	s.filled = s.filled[:last]
	q.links[i].filled = -1
}

// wakeOne wakes a consumer that waits for work of this queue, if one does.
func (q *queue) wakeOne() {
	for i := range q.links {
		if q.links[i].selector.wakeOne() {
			return
		}
	}
}

func (s *selector) wakeOne() bool {
	if s.idle == 0 {
		return false
	}
	for range s.consumers {
		c := s.consumers[s.next%len(s.consumers)]
		s.next = (s.next + 1) % len(s.consumers)
		if c.idle {
			c.signal()
			return true
		}
	}
	return false
}
