// Package chaos holds the fault tests with real processes: workers that are
// killed, stopped and restarted under load, on stores that several processes
// share; and the history checker that judges them. It has no other use.
package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Kind is what an event tells.
type Kind string

// The events of a history.
const (
	Enqueued Kind = "enqueued" // the store acknowledged the task
	Started  Kind = "started"  // a handler began
	Ended    Kind = "ended"    // a handler returned
	Settled  Kind = "settled"  // a worker was told that its outcome is stored
	Read     Kind = "read"     // the final status, read at the end
	Killed   Kind = "killed"   // a process was sent SIGKILL
)

// Event is one line of a history. Every process writes a file of its own.
type Event struct {
	Kind    Kind      `json:"kind"`
	At      time.Time `json:"at"`
	ID      string    `json:"id,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	State   string    `json:"state,omitempty"` // Settled, Read
	Note    string    `json:"note,omitempty"`
}

// readHistory reads the files of a directory, in the order of time. A torn
// last line, which a killed process leaves, is dropped.
func readHistory(dir string) ([]Event, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.events"))
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var e Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				events = append(events, e)
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	return events, nil
}

// life is what a history says of one task.
type life struct {
	enqueued        bool
	started         []Event
	ended           int
	terminalSettled int
	terminal        string // of the last read
	interrupted     time.Time
}

// findings is what checkHistory found.
type findings struct {
	tasks       int
	settled     int           // outcomes that a worker was told are stored
	redelivered int           // executions that a kill interrupted and another worker repeated
	undisturbed int           // of them, those without another kill before the next start
	slowest     time.Duration // from a kill to the next start of what it interrupted
	slowestID   string        // of that task
	faults      []string
}

func (f *findings) fault(format string, args ...any) {
	if len(f.faults) < 20 {
		f.faults = append(f.faults, fmt.Sprintf(format, args...))
	}
}

// checkHistory holds a history against the promises: every acknowledged task
// ends in one terminal state, has one settlement, was started as often as it
// ended or more, and starts again within the bound after its worker was
// killed. Who received it may be killed as well before it starts it, which no
// event tells: so each further kill begins the count anew.
func checkHistory(events []Event, bound time.Duration) findings {
	lives := map[string]*life{}
	of := func(id string) *life {
		if lives[id] == nil {
			lives[id] = &life{}
		}
		return lives[id]
	}
	held := map[int]map[string]bool{} // by pid: started and not settled
	var kills []time.Time
	var f findings
	for _, e := range events {
		switch e.Kind {
		case Enqueued:
			of(e.ID).enqueued = true
		case Started:
			l := of(e.ID)
			l.started = append(l.started, e)
			if held[e.PID] == nil {
				held[e.PID] = map[string]bool{}
			}
			held[e.PID][e.ID] = true
			if !l.interrupted.IsZero() {
				f.redelivery(l, &e, kills, bound)
			}
		case Ended:
			of(e.ID).ended++
		case Settled:
			f.settled++
			delete(held[e.PID], e.ID)
			if terminal(e.State) {
				of(e.ID).terminalSettled++
			}
		case Killed:
			kills = append(kills, e.At)
			// What had ended may be stored, and never start again.
			for id := range held[e.PID] {
				of(id).interrupted = e.At
			}
			delete(held, e.PID)
		case Read:
			of(e.ID).terminal = e.State
		}
	}
	for id, l := range lives {
		f.judge(id, l)
	}
	if f.slowest > bound {
		f.fault("task %s, which a kill interrupted, started again after %s, bound %s", f.slowestID, f.slowest, bound)
	}
	return f
}

// redelivery takes in that a task started which a kill had interrupted.
func (f *findings) redelivery(l *life, start *Event, kills []time.Time, bound time.Duration) {
	from := l.interrupted
	for _, k := range kills {
		if k.After(from) && k.Sub(from) <= bound {
			from = k
		}
	}
	if from.Equal(l.interrupted) {
		f.undisturbed++
	}
	if after := start.At.Sub(from); after > f.slowest {
		f.slowest, f.slowestID = after, start.ID
	}
	f.redelivered++
	l.interrupted = time.Time{}
}

func (f *findings) judge(id string, l *life) {
	f.tasks++
	switch {
	case !l.enqueued:
		f.fault("task %s was executed and never enqueued", id)
	case !terminal(l.terminal):
		f.fault("task %s is lost: its state at the end is %q", id, l.terminal)
	case l.terminalSettled > 1:
		f.fault("task %s has %d terminal outcomes", id, l.terminalSettled)
	case len(l.started) < l.ended:
		f.fault("task %s ended %d times and started %d times", id, l.ended, len(l.started))
	case l.terminal == "succeeded" && l.ended == 0:
		f.fault("task %s succeeded and no handler returned", id)
	}
}

func terminal(state string) bool {
	return state == "succeeded" || state == "failed" || state == "cancelled"
}
