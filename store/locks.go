package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrHeld says that another holder has the lock. Backends return it as a *HeldError.
var ErrHeld = errors.New("lock held by another")

// Locks grants a name to one holder at a time, for as long as he renews it.
// All times are the store's clock's; a step back of it by more than a ttl ends
// the locks of that ttl, rather than to make them last. A holder names one life
// of one process.
//
//   - L1  Acquire grants a lock that nobody holds, or whose end has come, under
//     a token greater than every token of that name before. It never blocks.
//   - L2  Acquire by who holds it already renews it: same token, a new end. A
//     holder whose lock has ended gets a new token, also when nobody took it
//     since.
//   - L3  Acquire of what another holds is a *HeldError, and changes nothing.
//   - L4  Release ends the lock if its token is still the newest; else it is
//     broker.ErrLeaseLost and changes nothing. A token is never used again, not
//     even after Release.
//   - L5  All methods are safe for concurrent use. A name or holder that is
//     empty, or longer than 256 bytes, and a ttl below a millisecond, are
//     task.ErrInvalid. After the backend's Close every call is broker.ErrClosed;
//     a cancelled context ends a call with its error.
//   - L6  Holder reports who holds a lock, its token, and as TTL how long until
//     it ends; a zero Lock when nobody does. It changes nothing.
type Locks interface {
	// Acquire takes or renews the lock for ttl from now.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (Lock, error)
	// Release gives it back before its end.
	Release(ctx context.Context, l Lock) error
	// Holder says who has the lock, without taking it: for those who look.
	Holder(ctx context.Context, name string) (Lock, error)
}

// Lock is what its holder shows where it protects something: whoever stores on
// its behalf compares the token in the same step (a fencing token).
type Lock struct {
	Name   string
	Holder string
	Token  int64
	TTL    time.Duration // it ends this long after the answer left the store
}

// HeldError says who holds a lock. It is ErrHeld.
type HeldError struct {
	Name   string
	Holder string
	Left   time.Duration // until it ends, unless its holder renews it
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("lock %q is held by %q for %s more", e.Name, e.Holder, e.Left.Round(time.Millisecond))
}

// Is reports that it is ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }
