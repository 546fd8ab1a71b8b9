package sqlite

import "context"

// OpenVFS opens a file through a VFS that a test has registered.
func OpenVFS(ctx context.Context, c Config, vfs string) (*DB, error) { return open(ctx, c, vfs) }

// Statements returns the SQL of every statement, by name.
func Statements(namespace string) (map[string]string, error) { return loadStatements(namespace) }

// SchemaVersion is the newest schema that this program knows.
func SchemaVersion() int { return len(migrations()) }
