package broker

import (
	"time"

	"github.com/stemjobs/stem/task"
)

// DeadLetter is a task that failed for good, kept with its envelope.
type DeadLetter struct {
	Envelope *task.Envelope // read-only; with only an id for a malformed entry
	Raw      []byte         // the stored entry, when it is no envelope
	Queue    string
	Reason   string
	Error    *task.Error
	Errors   []task.Error // of the newest attempts, oldest first
	Attempt  int
	Epoch    int64
	DeadAt   time.Time

	ReplayCount  int
	LastReplayAt time.Time
}

// DeadFilter selects dead letters; fields left empty select all.
type DeadFilter struct {
	Queue  string   // a name or a pattern with "*"
	IDs    []string //
	Task   string   // a task name or a pattern with "*"
	Reason string
	Before time.Time // dead since before this moment
}

// Match reports whether the filter selects d. Backends that narrow by an index
// first still agree with it.
func (f DeadFilter) Match(d *DeadLetter) bool {
	if f.Queue != "" && !Match(f.Queue, d.Queue) || f.Task != "" && !Match(f.Task, d.Envelope.Name) {
		return false
	}
	if f.Reason != "" && f.Reason != d.Reason || !f.Before.IsZero() && !d.DeadAt.Before(f.Before) {
		return false
	}
	if len(f.IDs) == 0 {
		return true
	}
	for _, id := range f.IDs {
		if id == d.Envelope.ID {
			return true
		}
	}
	return false
}

// Page asks for one page of a listing.
type Page struct {
	Limit  int    // 0: 50; at most 1000
	Cursor string // of the page before; empty: the first page
}

// Size is the page's limit with its default and its bound applied.
func (p Page) Size() int {
	if p.Limit <= 0 {
		return 50
	}
	return min(p.Limit, 1000)
}

// ReplayOptions shape a replay.
type ReplayOptions struct {
	Limit     int // at most so many, oldest first; 0: all that match
	DryRun    bool
	NotBefore time.Time // when they are due; zero: at once
}

// Replayed says what a replay did, or would do.
type Replayed struct {
	Count   int
	Entries []ReplayedTask // of the first 1000; of a dry run, what would be replayed
}

// ReplayedTask is one task that a replay put back.
type ReplayedTask struct {
	ID          string
	Queue       string
	Epoch       int64 // after the replay
	ReplayCount int
	ReplayedAt  time.Time
}

// PurgeOptions bound a purge of dead letters.
type PurgeOptions struct {
	Limit  int // at most so many, oldest first; 0: all that match
	DryRun bool
}

// Purged says what a purge removed, or would remove.
type Purged struct {
	Count int
	IDs   []string // of the first 1000
}
