package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/stemjobs/stem/broker"
)

// Dropper is a backend that can remove its namespace with all that is in it.
type Dropper interface {
	// DropNamespace removes the namespace. Nobody may use it meanwhile, and the
	// backend can only be closed after it.
	DropNamespace(ctx context.Context) error
}

// CanDrop says why the namespace of the opened stores cannot be removed, or nil.
// The error wraps broker.ErrUnsupported.
func (b *Backend) CanDrop() error {
	for i := range b.Stores {
		if _, ok := b.Stores[i].Backend.(Dropper); !ok {
			return fmt.Errorf("%s cannot remove a namespace: %w", b.Stores[i].URL, broker.ErrUnsupported)
		}
	}
	return nil
}

// DropNamespace removes the namespace from every opened store, for good. It
// removes nothing when one of them cannot.
func (b *Backend) DropNamespace(ctx context.Context) error {
	if err := b.CanDrop(); err != nil {
		return err
	}
	var errs []error
	for i := range b.Stores {
		errs = append(errs, b.Stores[i].Backend.(Dropper).DropNamespace(ctx))
	}
	return errors.Join(errs...)
}
