package memory

import (
	"context"
	"fmt"
)

// DropNamespace ends the DB, as Close does: nothing of it is kept anywhere.
func (db *DB) DropNamespace(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("drop the store in memory: %w", err)
	}
	return db.Close()
}
