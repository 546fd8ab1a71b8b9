package task

import (
	"fmt"
	"slices"
)

// State is where a task is on its way.
type State string

// The states of a task. Succeeded, Failed and Cancelled are terminal; a failed
// task is a dead letter and leaves that state by a replay alone.
const (
	Queued    State = "queued"    // waits for a worker, or for its moment
	Running   State = "running"   // a handler executes it
	Retried   State = "retried"   // an attempt failed; it waits for the next
	Succeeded State = "succeeded" // the handler's result is stored
	Failed    State = "failed"    // dead-lettered
	Cancelled State = "cancelled" // revoked, expired or purged; never executed to an end
)

// States lists every state in the order of a task's life.
func States() []State {
	return []State{Queued, Running, Retried, Succeeded, Failed, Cancelled}
}

// moves is the only table of legal moves. Every backend is driven by it
// through CanMove, and property tests walk it.
//
//   - running → queued: released, snoozed, or denied by a limit; not counted.
//   - running → running: redelivered after a lost lease.
//   - queued, retried → failed: dead-lettered before a handler ran (an unknown
//     name, arguments that no encoder reads).
//   - failed → queued: a replay, and nothing else.
var moves = map[State][]State{
	Queued:  {Running, Cancelled, Failed},
	Running: {Succeeded, Retried, Failed, Cancelled, Queued, Running},
	Retried: {Running, Cancelled, Failed},
	Failed:  {Queued},
}

// CanMove reports whether a task may go from one state to another.
func CanMove(from, to State) bool { return slices.Contains(moves[from], to) }

// Moves lists the states that a task in state s may go to, nil for a state
// without an exit.
func (s State) Moves() []State { return slices.Clone(moves[s]) }

// Terminal reports whether nothing but a replay moves a task out of s.
func (s State) Terminal() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Valid reports whether s is one of the six states.
func (s State) Valid() bool { return slices.Contains(States(), s) }

// ParseState returns the state of that name.
func ParseState(name string) (State, error) {
	if s := State(name); s.Valid() {
		return s, nil
	}
	return "", fmt.Errorf("unknown state %q: want one of %v", name, States())
}
