package sqlite

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Synchronous says what a commit survives.
type Synchronous string

// The two settings of SQLite that make sense for a queue.
const (
	Full   Synchronous = "FULL"   // a power cut: each commit waits for the disk
	Normal Synchronous = "NORMAL" // the process's death; a power cut may take the last commits
)

// Config says which file to open, and how. It is copied by Open.
type Config struct {
	Path        string       // of the file; created when it is not there, its directory is not
	Namespace   string       // 1–32 of a-z 0-9 _; "stem" when empty
	Synchronous Synchronous  // Full when empty
	Logger      *slog.Logger // nil: discards
}

// DB is an open file. Its methods are safe for concurrent use.
type DB struct{}

// Open opens the file, creates or migrates its schema, and starts the writer.
// ctx bounds the opening alone.
func Open(ctx context.Context, c Config) (*DB, error) {
	return nil, fmt.Errorf("open %s: %w", c.Path, broker.ErrUnsupported)
}

// Broker returns the file as a broker that keeps its own statuses.
func (db *DB) Broker() broker.Broker { return nil }

// Results returns the file as a result store; it is a store.Watcher too.
func (db *DB) Results() store.Results { return nil }

// Heartbeats returns the file as the place of workers' heartbeats.
func (db *DB) Heartbeats() store.Heartbeats { return nil }

// Check verifies the store's invariants and returns one error that joins all
// that it found, or nil.
func (db *DB) Check(ctx context.Context) error { return nil }

// Close ends the writer and all that waits, and closes the file.
func (db *DB) Close() error { return nil }
