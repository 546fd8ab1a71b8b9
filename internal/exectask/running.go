package exectask

import "sync"

// Running is the commands that run, for whoever stops without waiting for
// them: a worker whose grace is over gives their tasks back, and what goes on
// after it would run beside the next attempt. The zero value is ready, and nil
// keeps nothing. It is safe for concurrent use.
type Running struct {
	mu     sync.Mutex
	groups map[*group]struct{}
	ended  bool
}

// End kills the process groups of all commands, and of those that start later.
func (r *Running) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for g := range r.groups {
		g.kill()
	}
}

// add keeps a group until remove, or kills it where End was called.
func (r *Running) add(g *group) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		g.kill()
		return
	}
	if r.groups == nil {
		r.groups = map[*group]struct{}{}
	}
	r.groups[g] = struct{}{}
}

func (r *Running) remove(g *group) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, g)
}
