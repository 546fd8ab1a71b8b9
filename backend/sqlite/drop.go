package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
)

// DropNamespace removes all that this namespace has in the file: tasks,
// statuses, heartbeats, tables. Other namespaces stay as they are, and the file
// keeps its size and uses the space again. Nobody else may use the namespace
// meanwhile, whose calls would fail; after it this DB can only be closed.
func (db *DB) DropNamespace(ctx context.Context) error {
	if db.isClosed() {
		return broker.ErrClosed
	}
	text, err := sqlFiles.ReadFile("sql/drop.sql")
	if err != nil {
		return fmt.Errorf("read sql/drop.sql: %w", err)
	}
	err = db.write(ctx, func(t *tx) error {
		// The commit has nothing left to sweep, and could not.
		t.w.nextSweep = time.UnixMilli(t.now).Add(time.Hour)
		if err := t.Exec(inNamespace(string(text), db.config.Namespace)); err != nil {
			return failed("drop tables", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("drop namespace %s of %s: %w", db.config.Namespace, db.path, err)
	}
	return nil
}
