package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stemjobs/stem/task"
)

// Control carries commands to workers, and their answers back. It is a channel,
// not a queue: who is away hears nothing, and what has to last (a pause, a
// revocation) is kept by the broker instead. The package documentation has the
// rules C1–C6. Its methods are safe for concurrent use.
type Control interface {
	// Listen hears the commands for a worker, from now on.
	Listen(ctx context.Context, worker string) (Commands, error)

	// Ask sends a command, and returns the stream of its answers. There is no
	// saying from here how many will come.
	Ask(ctx context.Context, c Command) (Replies, error)
}

// Commands is what one worker hears. It belongs to one goroutine, but Close may
// be called by any, and Reply beside Next.
type Commands interface {
	// Next blocks until there is a command. Its error is that of ctx, or
	// broker.ErrClosed, or wraps broker.ErrUnavailable where the connection was
	// lost: what is sent until the next Listen is not heard.
	Next(ctx context.Context) (Command, error)

	// Reply sends a reply to whoever asked. That nobody waits for it any more
	// is no error.
	Reply(ctx context.Context, a Reply) error

	Close() error
}

// Replies is the stream of answers to one command. It belongs to one goroutine,
// but Close may be called by any.
type Replies interface {
	// Next blocks until there is a reply. Its errors are those of
	// Commands.Next.
	Next(ctx context.Context) (Reply, error)

	Close() error
}

// Command is what somebody wants of workers.
type Command struct {
	ID   string          `json:"id"`             // unique: task.NewID
	To   string          `json:"to"`             // a worker's id, or a pattern with "*"
	Kind string          `json:"kind"`           // what is wanted, such as "ping"
	Args json.RawMessage `json:"args,omitempty"` // of that kind
	For  time.Duration   `json:"for"`            // how long it may be delivered: 1 ms or more; a worker that sleeps longer never hears it
}

// Reply is what one worker says to a command.
type Reply struct {
	Command string          `json:"command"` // its id
	Worker  string          `json:"worker"`
	Data    json.RawMessage `json:"data,omitempty"`
	Error   string          `json:"error,omitempty"` // why it was not done; "": it was
}

// MaxControlSize is how many bytes a command's arguments, or a reply's data,
// may have at most.
const MaxControlSize = 256 << 10

// Check says what is wrong with a command, or nil. The error wraps
// task.ErrInvalid. Backends call it in Ask.
func (c *Command) Check() error {
	switch {
	case task.ValidateID(c.ID) != nil:
		return fmt.Errorf("%w command: id %.80q", task.ErrInvalid, c.ID)
	case c.To == "":
		return fmt.Errorf("%w command %s: it names no worker", task.ErrInvalid, c.ID)
	case c.Kind == "":
		return fmt.Errorf("%w command %s: it has no kind", task.ErrInvalid, c.ID)
	case c.For < time.Millisecond:
		return fmt.Errorf("%w command %s: for %s: want 1ms or more", task.ErrInvalid, c.ID, c.For)
	case len(c.Args) > MaxControlSize:
		return fmt.Errorf("%w command %s: %d bytes of arguments, more than %d", task.ErrInvalid, c.ID, len(c.Args), MaxControlSize)
	}
	return nil
}

// Check says what is wrong with a reply, or nil. The error wraps
// task.ErrInvalid. Backends call it in Reply.
func (a *Reply) Check() error {
	switch {
	case task.ValidateID(a.Command) != nil:
		return fmt.Errorf("%w answer: to no command", task.ErrInvalid)
	case len(a.Data)+len(a.Error) > MaxControlSize:
		return fmt.Errorf("%w answer to %s: %d bytes, more than %d", task.ErrInvalid, a.Command, len(a.Data)+len(a.Error), MaxControlSize)
	}
	return nil
}

// BeatFollower is the power of a Heartbeats to tell of each as it comes (rule
// H1).
type BeatFollower interface {
	// Follow tells of the heartbeats that are stored from now on.
	Follow(ctx context.Context) (Beats, error)
}

// Beats is a stream of heartbeats. It belongs to one goroutine, but Close may
// be called by any.
type Beats interface {
	// Next blocks until there is a heartbeat. Its errors are those of
	// Commands.Next.
	Next(ctx context.Context) (Heartbeat, error)

	Close() error
}
