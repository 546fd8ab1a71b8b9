package broker

import (
	"context"
	"time"
)

// Pauser is the power to pause queues (rule P5, PowerPause). What is paused is
// kept with the broker's tasks, so that every consumer of every process obeys,
// also one that is opened later.
type Pauser interface {
	// Pause stops queues from being handed out. One that is paused already keeps
	// its Since, and takes the note where there is one. An error means that none
	// is known to be paused; to repeat is safe.
	Pause(ctx context.Context, batch []Pause) error

	// Resume lets queues go on, and says of each whether it was paused.
	Resume(ctx context.Context, queues ...string) ([]bool, error)

	// Pauses lists the paused queues by name.
	Pauses(ctx context.Context) ([]Pause, error)
}

// Pause is a queue that is not handed out.
type Pause struct {
	Queue string    `json:"queue"` // a name, never a pattern; it need not hold anything
	Note  string    `json:"note,omitempty"`
	Since time.Time `json:"since"` // by the store's clock; Pause ignores it
}

// MaxPauseNote is how many bytes of a pause's note a broker has to keep.
const MaxPauseNote = 1024

// RevocationLister is implemented by a Revoker that can tell which of its
// revocations are still to be carried out (rule P1).
type RevocationLister interface {
	// Revocations returns a page, in any steady order, and the cursor of the
	// next; "" after the last.
	Revocations(ctx context.Context, p Page) ([]PendingRevocation, string, error)
}

// PendingRevocation is a task that somebody asked to stop while a consumer held
// it, and that has not ended since.
type PendingRevocation struct {
	ID        string `json:"id"`
	Worker    string `json:"worker"` // who holds, or held it
	Terminate bool   `json:"terminate"`
	Reason    string `json:"reason"`
}
