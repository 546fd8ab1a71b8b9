package broker

import (
	"context"
	"errors"
	"time"

	"github.com/stemjobs/stem/task"
)

// Errors that callers branch on. Backends wrap them.
var (
	// ErrLeaseLost: the delivery belongs to a newer lease, or is settled.
	ErrLeaseLost = errors.New("lease lost")
	// ErrSettled: the task's outcome is stored already; do not execute it.
	ErrSettled = errors.New("outcome already stored")
	// ErrUnsupported: the broker lacks a power that was asked for.
	ErrUnsupported = errors.New("not supported by this broker")
	// ErrNotFound: the broker does not hold that task.
	ErrNotFound = errors.New("task not found")
	// ErrExists: the broker holds a task of that id, or keeps its status.
	ErrExists = errors.New("task exists")
	// ErrClosed: the broker or consumer is closed.
	ErrClosed = errors.New("closed")
	// ErrUnavailable: the store cannot be reached or written just now. Trying
	// again later can help.
	ErrUnavailable = errors.New("store unavailable")
)

// Broker holds envelopes and hands them out under leases. The package
// documentation has the rules B1–B31 that every implementation keeps.
type Broker interface {
	// Publish stores a batch, all in one step, and says of each item what
	// became of it. An error means that nothing is known of any of them: to
	// repeat the same ids is always safe.
	Publish(ctx context.Context, batch []Publication) ([]Outcome, error)

	// Open starts a consumer.
	Open(ctx context.Context, s Subscription) (Consumer, error)

	// Settle ends deliveries by receipt alone; any process may. The slice has
	// an error, or nil, for each; the error is for the call as a whole.
	Settle(ctx context.Context, batch []Settlement) ([]error, error)

	// Renew extends leases, and reports starts and progress.
	Renew(ctx context.Context, batch []Renewal) ([]error, error)

	// Queues describes the named queues, or all that hold anything, by name.
	Queues(ctx context.Context, names ...string) ([]QueueInfo, error)

	// Purge removes up to one page of a queue's ready and delayed tasks. Call
	// it until it returns none.
	Purge(ctx context.Context, p Purge) ([]string, error)

	// DeadLetters gives access to what failed for good.
	DeadLetters() DeadLetters

	// Close ends the broker and its consumers. Leases stay until they end.
	Close() error
}

// Consumer receives for one worker.
type Consumer interface {
	// Exchange is one round trip, and never blocks on an empty queue: it
	// settles what is done, renews what is live, and receives up to want.
	Exchange(ctx context.Context, done []Settlement, live []Renewal, want Want) (Batch, error)

	// Wait returns when there may be work, or news of what this consumer
	// holds, at the latest after atMost. It returns nil in both cases, and an
	// error when ctx ended or the consumer is closed.
	Wait(ctx context.Context, atMost time.Duration) error

	// Close gives back what the consumer holds and has not started.
	Close(ctx context.Context) error
}

// DeadLetters is what a broker, custom ones included, implements for the dlq
// commands.
type DeadLetters interface {
	ListDeadLetters(ctx context.Context, f DeadFilter, p Page) ([]DeadLetter, string, error)
	ReplayDeadLetters(ctx context.Context, f DeadFilter, o ReplayOptions) (Replayed, error)
	PurgeDeadLetters(ctx context.Context, f DeadFilter, o PurgeOptions) (Purged, error)
}

// Publication is one envelope to store and what is to happen with it.
type Publication struct {
	Envelope *task.Envelope

	Claims []Claim  // taken in the same step; a held one refuses the item
	Limits []string // keys of limits it must fit when delivered; see PowerLimits
	Hold   string   // not delivered before this hold is released; see PowerHolds
	Group  *Member  // counted when it is settled; see PowerGroups
}

// Claim is a key that at most one task holds at a time: idempotency and
// uniqueness.
type Claim struct {
	Key string
	For time.Duration // from publishing; 0: until released by a settlement
}

// Member makes a task one of a group.
type Member struct {
	Group string
	Index int
}

// PublishState says what became of one publication.
type PublishState int

// What became of one publication.
const (
	Stored    PublishState = iota + 1 // it is held by the broker
	Exists                            // its id was known already; nothing changed
	Duplicate                         // a claim of it is held by ExistingID; nothing stored
	Full                              // the queue accepts no more; nothing stored
	Refused                           // Err says why; nothing stored
)

// Outcome is the answer for one publication.
type Outcome struct {
	State      PublishState
	ExistingID string // Exists, Duplicate
	Err        error  // Refused
}

// Subscription says what a consumer receives.
type Subscription struct {
	Worker string   // the worker's id, kept in statuses
	Queues []string // names, or patterns with "*"
	Lease  time.Duration
}

// DefaultLease is the lease length when neither envelope nor subscription has
// one.
const DefaultLease = 30 * time.Second

// LeaseOf is the lease length of an envelope under a subscription.
func (s Subscription) LeaseOf(e *task.Envelope) time.Duration {
	switch {
	case e != nil && e.VisibilityTimeout > 0:
		return e.VisibilityTimeout
	case s.Lease > 0:
		return s.Lease
	default:
		return DefaultLease
	}
}

// Want bounds what an Exchange receives.
type Want struct {
	Count int // 0: receive nothing
	Bytes int // of encoded envelopes; 0: no bound. The first delivery may exceed it

	// Queues is the order in which the subscription's entries are served this
	// time; nil: as subscribed.
	Queues []string
}

// Batch is what an Exchange returns.
type Batch struct {
	Deliveries []Delivery
	Settled    []error // one for each of done
	Renewed    []error // one for each of live
	Revoked    []Revoked

	// Next is how long to wait at most before the next Exchange: until the
	// next delayed task is due or the next lease ends. Zero: unknown.
	Next time.Duration
	// More says that more was ready than was taken.
	More bool
	// Ahead is how far the store's clock is ahead of this process's, about. What
	// is due or has expired is so by the store's clock. Zero: it is the same one.
	Ahead time.Duration
}

// Delivery is an envelope that a consumer holds under a lease.
type Delivery struct {
	Receipt  Receipt
	Envelope *task.Envelope // read-only; never nil, even when Malformed is set
	Queue    string         // where it was received, also after a move
	Size     int            // bytes of the encoded envelope
	Lease    time.Duration  // length of the lease; it began when Exchange was called

	Attempt     int       // executions counted so far
	RetryBase   int       // Attempt at the last replay: retries are counted from here
	Starts      int       // counted starts since the last settlement
	Redelivered bool      // an earlier lease ended without settlement: start it by a call of its own
	NotBefore   time.Time // when it became due, if it was delayed
	Reserved    bool      // it comes for the slot of a rate limit that was reserved for it: rule B31

	Replays   int // how often it was replayed
	Malformed error
}

// Settlement ends a delivery. It is one transaction: see rule B14.
type Settlement struct {
	Receipt   Receipt
	Outcome   task.Outcome
	Release   []string      // claims that end with it
	Followups []Publication // enqueued with it, at most once each by id
}

// Renewal keeps a delivery alive.
type Renewal struct {
	Receipt  Receipt
	Start    bool          // a handler starts it
	Extend   time.Duration // the lease's length from now; 0: the task's own
	Progress *task.Progress
	Worker   string
}

// Revoked tells a consumer that a task it holds is to be stopped.
type Revoked struct {
	Receipt   Receipt
	Terminate bool // also when its handler runs
	Reason    string
}

// QueueInfo describes one queue at one moment.
type QueueInfo struct {
	Name    string        `json:"name"`
	Ready   int           `json:"ready"`
	Delayed int           `json:"delayed"`
	Due     int           `json:"due"` // of Delayed those due within DueSoon; counting may stop at DueCount
	Leased  int           `json:"leased"`
	Dead    int           `json:"dead"`
	Oldest  time.Duration `json:"oldestAge"` // how long the oldest ready task has been ready
}

// What QueueInfo.Due counts.
const (
	DueSoon  = time.Minute // how near the moment of a delayed task is, by the store's clock
	DueCount = 10_000      // of one call of Queues; a broker may stop counting there
)

// Purge asks for one page of a queue's waiting tasks to be removed.
type Purge struct {
	Queue string
	Limit int           // at most so many; 0: 1000
	Keep  time.Duration // how long their cancelled statuses are kept; see task.Outcome.Keep
}
