package store

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/task"
)

// Memos keeps small values under keys, each for a time: what any process of a
// deployment may have to say again, such as the answer of a request that is
// repeated at another server. A backend that has it returns it from a method
// Memos.
//
//   - M1  Swap puts a value in the place of old, in one step, for ttl from now by
//     the store's clock, and returns the value, if old is what is there, byte for
//     byte; nil is nothing. Otherwise it changes nothing and returns what is
//     there. A nil value removes.
//   - M2  A value is there until its time has passed, and never after it.
//   - M3  Look returns what is there, nil for nothing. It sees what an earlier
//     call stored, by whichever process.
//   - M4  All methods are safe for concurrent use. A key that is empty or longer
//     than MaxMemoKey, a value that is empty and not nil, or longer than MaxMemo,
//     and a ttl below a millisecond are task.ErrInvalid. After the backend's Close
//     every call is broker.ErrClosed; a cancelled context ends a call with its
//     error.
type Memos interface {
	Swap(ctx context.Context, key string, old, value []byte, ttl time.Duration) (there []byte, err error)
	Look(ctx context.Context, key string) (there []byte, err error)
}

// Bounds of memos, in bytes.
const (
	MaxMemoKey = 512
	MaxMemo    = 8 << 20
)

// CheckMemo is rule M4's check of what Swap was given.
func CheckMemo(key string, value []byte, ttl time.Duration) error {
	switch {
	case key == "" || len(key) > MaxMemoKey:
		return fmt.Errorf("%w key of a memo, of %d bytes: want 1–%d", task.ErrInvalid, len(key), MaxMemoKey)
	case value == nil:
		return nil
	case len(value) == 0 || len(value) > MaxMemo:
		return fmt.Errorf("%w memo of %d bytes: want 1–%d", task.ErrInvalid, len(value), MaxMemo)
	case ttl < time.Millisecond:
		return fmt.Errorf("%w time %s of a memo: want a millisecond or more", task.ErrInvalid, ttl)
	}
	return nil
}
