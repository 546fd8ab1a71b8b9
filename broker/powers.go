package broker

import (
	"context"
	"time"
)

// Power is something that a broker can do beyond the contract. Asking for what
// it lacks is an error, never a silent loss.
type Power string

// The powers a broker may declare.
const (
	PowerPriorities Power = "priorities" // strict order of priorities at receipt (B10)
	PowerDelays     Power = "delays"     // any number of delayed tasks at their moment (B9)
	PowerClaims     Power = "claims"     // claims in the publishing step (B4)
	PowerFollowups  Power = "followups"  // follow-ups in the settling step (B20)
	PowerRevoke     Power = "revoke"     // Revoker
	PowerStatuses   Power = "statuses"   // keeps statuses itself: Atomic
	PowerOwner      Power = "owner"      // Owner
	PowerImport     Power = "import"     // DeadImporter
	PowerEdit       Power = "edit"       // ReplayOptions.Edited
	PowerPause      Power = "pause"      // Pauser
	PowerRates      Power = "rates"      // store.Limiter, and task.Outcome.Reserved (B31)
	PowerDurable    Power = "durable"    // what is stored survives the process
	PowerShared     Power = "shared"     // several processes at once
	PowerPush       Power = "push"       // waiting consumers are woken, not polling
	PowerTx         Power = "tx"         // enqueue inside the caller's transaction
	PowerBroadcast  Power = "broadcast"  // one envelope to every subscriber
	PowerLimits     Power = "limits"     // Publication.Limits
	PowerHolds      Power = "holds"      // Publication.Hold
	PowerGroups     Power = "groups"     // Publication.Group
)

// Powers lists every power there is, in the order of the documentation.
func Powers() []Power {
	return []Power{
		PowerDurable, PowerShared, PowerPush, PowerPriorities, PowerDelays, PowerClaims, PowerFollowups,
		PowerRevoke, PowerStatuses, PowerOwner, PowerImport, PowerEdit, PowerPause, PowerRates, PowerTx, PowerBroadcast, PowerLimits, PowerHolds, PowerGroups,
	}
}

// Capabilities is a backend's own account of itself: printed by "stem health"
// and listed in docs/backends.md.
type Capabilities struct {
	Backend string // "sqlite"
	Summary string // one line: what it is, and for what
	Powers  []Power
	MaxSize int // bytes of an encoded envelope; 0: task.DefaultMaxSize
}

// Declarer is implemented by every broker that has powers.
type Declarer interface {
	Capabilities() Capabilities
}

// Revoker cancels tasks (rule P1).
type Revoker interface {
	Revoke(ctx context.Context, batch []Revocation) ([]RevokeAnswer, error)
}

// RevocationTeller is the power to say which leased tasks somebody asked to
// stop, to any process that has their receipts (rule P1).
type RevocationTeller interface {
	// RevokedOf tells of those among the receipts whose lease is the task's
	// newest and whose task is to stop, in their order.
	RevokedOf(ctx context.Context, rs ...Receipt) ([]Revoked, error)
}

// Overlapping is a Consumer that takes several calls of Exchange at once (rule
// P6): a store that is far away works on one while the answer of another is read. A
// type that wraps a Consumer has this power only if it passes it on.
type Overlapping interface {
	Consumer
	// MaxExchanges is how many may be under way at once; 1 is no more than any
	// consumer takes.
	MaxExchanges() int
}

// Revocation asks that a task never starts, or stops.
type Revocation struct {
	ID        string
	Terminate bool          // also cancel a running handler's context
	Reason    string        // empty: task.ReasonRevoked
	Keep      time.Duration // how long the cancelled status is kept
}

// RevokeState is what a revocation came to.
type RevokeState int

// What a revocation came to.
const (
	RevokeCancelled RevokeState = iota + 1 // it never starts
	RevokeAsked                            // Worker holds it and is told
	RevokeTooLate                          // it ended already
	RevokeUnknown                          // the broker does not hold it
)

// RevokeAnswer is the answer for one revocation; each is true.
type RevokeAnswer struct {
	State  RevokeState
	Worker string
}

// Atomic is implemented by a broker that keeps statuses in its own store. Where
// AtomicWith is true for a result store, the broker's own steps show there at
// once and nobody else writes those statuses.
type Atomic interface {
	AtomicWith(resultStore any) bool
}

// Owner tells which tasks a broker still has to bring to an end (rule P3).
type Owner interface {
	// Holds has true for each id that is ready, delayed or leased; a dead
	// letter is not.
	Holds(ctx context.Context, ids ...string) ([]bool, error)
}

// DeadImporter takes dead letters that were exported (rule P4).
type DeadImporter interface {
	// ImportDeadLetters puts dead letters back as they were. The slice has nil
	// for each that is stored, or why it is not: ErrExists for an id that is
	// known, task.ErrInvalid, task.ErrTooLarge, or ErrUnsupported for an entry
	// that is no envelope where the store can hold none.
	ImportDeadLetters(ctx context.Context, batch []DeadLetter) ([]error, error)
}

// Unwrapper is implemented by a broker that wraps another.
type Unwrapper interface {
	Unwrap() Broker
}

// As finds a power in a broker or in what it wraps, as errors.As does for
// errors.
func As[T any](b Broker) (T, bool) {
	for b != nil {
		if t, ok := b.(T); ok {
			return t, true
		}
		u, ok := b.(Unwrapper)
		if !ok {
			break
		}
		b = u.Unwrap()
	}
	var none T
	return none, false
}

// CapabilitiesOf returns what a broker declares, or an empty account with the
// name "custom".
func CapabilitiesOf(b Broker) Capabilities {
	if d, ok := As[Declarer](b); ok {
		return d.Capabilities()
	}
	return Capabilities{Backend: "custom"}
}

// Has reports whether a broker declares a power.
func (c Capabilities) Has(p Power) bool {
	for _, q := range c.Powers {
		if p == q {
			return true
		}
	}
	return false
}
