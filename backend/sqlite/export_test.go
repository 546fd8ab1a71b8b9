package sqlite

import (
	"context"

	"github.com/stemjobs/stem/broker"
)

// OpenVFS opens a file through a VFS that a test has registered.
func OpenVFS(ctx context.Context, c Config, vfs string) (*DB, error) { return open(ctx, c, vfs) }

// Statements returns the SQL of every statement, by name.
func Statements(namespace string) (map[string]string, error) { return loadStatements(namespace) }

// SchemaVersion is the newest schema that this program knows.
func SchemaVersion() int { return len(migrations()) }

// LockFile and UnlockFile are what the writer does with the file beside.
var (
	LockFile   = lockFile
	UnlockFile = unlockFile
)

// SetSpaceLeft makes the disk seem to have so much space left.
func (db *DB) SetSpaceLeft(bytes uint64) {
	db.spaceLeft = func(string) (uint64, error) { return bytes, nil }
}

// Pending is how many calls wait for the writer.
func (db *DB) Pending() int {
	db.writer.mu.Lock()
	defer db.writer.mu.Unlock()
	return len(db.writer.queue)
}

// Waits reports whether a consumer waits and has room.
func Waits(c broker.Consumer) bool { return c.(*consumer).awaits() == hungryWaits }
