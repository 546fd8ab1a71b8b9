package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"

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

// Sizes, in KiB of page cache and in pages. They keep a worker small; the
// operating system caches the rest of the file.
const (
	pageSize    = 4096
	writerCache = 4096
	readerCache = 1024
	maxReaders  = 4
	walSoft     = 1000 // pages of WAL after which a checkpoint runs beside the writer
	walLimit    = 8000 // pages of WAL after which the writer makes one itself
)

// Config says which file to open, and how. It is copied by Open.
type Config struct {
	Path        string       // of the file; created when it is not there, its directory is not
	Namespace   string       // 1–32 of a-z 0-9 _, a letter first; "stem" when empty
	Synchronous Synchronous  // Full when empty
	Logger      *slog.Logger // nil: discards
}

// DB is an open file. Its methods are safe for concurrent use.
type DB struct {
	config Config
	path   string // absolute, without symbolic links
	vfs    string // of SQLite; empty but in tests
	log    *slog.Logger
	sql    map[string]string

	names   names
	writer  *writer
	readers readers
	hub     *hub

	spaceLeft func(dir string) (uint64, error) // another one in tests

	closing  sync.Once
	closed   chan struct{}
	closeErr error
}

var namespacePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// Open opens the file, creates or migrates its schema, and starts the writer.
// ctx bounds the opening alone. What is wrong with the file is said: a
// directory, read-only, damaged, another program's, or of a newer Stem.
func Open(ctx context.Context, c Config) (*DB, error) { return open(ctx, c, "") }

func open(ctx context.Context, c Config, vfs string) (*DB, error) {
	if c.Namespace == "" {
		c.Namespace = "stem"
	}
	if c.Synchronous == "" {
		c.Synchronous = Full
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if !namespacePattern.MatchString(c.Namespace) {
		return nil, fmt.Errorf("open %s: namespace %q: want 1–32 of a-z 0-9 _, a letter first", c.Path, c.Namespace)
	}
	if c.Synchronous != Full && c.Synchronous != Normal {
		return nil, fmt.Errorf("open %s: synchronous %q: want FULL or NORMAL", c.Path, c.Synchronous)
	}
	path, err := checkFile(c.Path)
	if err != nil {
		return nil, err
	}
	sql, err := loadStatements(c.Namespace)
	if err != nil {
		return nil, err
	}
	db := &DB{config: c, path: path, vfs: vfs, log: c.Logger, sql: sql, spaceLeft: spaceLeft, closed: make(chan struct{})}
	db.names.init()
	db.readers.init(db)
	db.hub = newHub(db)
	if db.writer, err = newWriter(ctx, db); err != nil {
		return nil, errors.Join(err, db.hub.close())
	}
	return db, nil
}

// checkFile returns the one true path of a file, and refuses what cannot be a
// database before SQLite sees it.
func checkFile(path string) (string, error) {
	if path == "" {
		return "", errors.New("open SQLite file: the path is empty")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, os.ErrNotExist) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", fmt.Errorf("open %s: its directory: %w", path, err)
		}
		return filepath.Join(dir, filepath.Base(abs)), nil
	}
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return "", fmt.Errorf("open %s: %w", path, err)
	case info.IsDir():
		return "", fmt.Errorf("open %s: it is a directory, not a file", path)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("open %s: it is not a regular file", path)
	case info.Mode().Perm()&0o222 == 0:
		return "", fmt.Errorf("open %s: the file is read-only", path)
	}
	f, err := os.OpenFile(real, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("open %s: the file is read-only for this user: %w", path, err)
	}
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if e := f.Close(); e != nil {
		return "", fmt.Errorf("open %s: %w", path, e)
	}
	if n > 0 && !bytes.Equal(head, []byte("SQLite format 3\x00")) {
		return "", fmt.Errorf("open %s: it is not an SQLite database, or a damaged one", path)
	}
	if n == 0 && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	return real, nil
}

// Broker returns the file as a broker that keeps its own statuses.
func (db *DB) Broker() broker.Broker { return &fileBroker{db: db} }

// Results returns the file as a result store; it is a store.Watcher too.
func (db *DB) Results() store.Results { return &results{db: db} }

// Heartbeats returns the file as the place of workers' heartbeats.
func (db *DB) Heartbeats() store.Heartbeats { return &heartbeats{db: db} }

// Close ends the writer and all that waits, and closes the file. Leases stay
// until they end. It is safe to call it twice.
func (db *DB) Close() error {
	db.closing.Do(func() {
		close(db.closed)
		db.closeErr = errors.Join(db.hub.close(), db.writer.close(), db.readers.close())
	})
	return db.closeErr
}

func (db *DB) isClosed() bool {
	select {
	case <-db.closed:
		return true
	default:
		return false
	}
}

// readers are the connections that read beside the writer: opened as they are
// needed, at most maxReaders at once, of which two are kept.
type readers struct {
	db    *DB
	slots chan struct{}
	scans chan struct{} // those that may take long leave slots to the others
	idle  chan *conn
}

func (r *readers) init(db *DB) {
	r.db, r.slots, r.idle = db, make(chan struct{}, maxReaders), make(chan *conn, 2)
	r.scans = make(chan struct{}, maxReaders/2)
}

// scan is read for what may take long.
func (db *DB) scan(ctx context.Context, fn func(c *conn) error) error {
	select {
	case db.readers.scans <- struct{}{}:
		defer func() { <-db.readers.scans }()
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closed:
		return broker.ErrClosed
	}
	return db.read(ctx, fn)
}

// read runs fn with a connection of its own.
func (db *DB) read(ctx context.Context, fn func(c *conn) error) error {
	r := &db.readers
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closed:
		return broker.ErrClosed
	}
	if db.isClosed() {
		return broker.ErrClosed
	}
	c, err := r.get(ctx)
	if err != nil {
		return err
	}
	c.SetInterrupt(ctx)
	err = fn(c)
	c.SetInterrupt(context.Background())
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	select {
	case r.idle <- c:
		return err
	default:
		return errors.Join(err, c.close())
	}
}

func (r *readers) get(ctx context.Context) (*conn, error) {
	select {
	case c := <-r.idle:
		return c, nil
	default:
		return r.db.openConn(ctx, false, readerCache)
	}
}

// close waits for the readers under way and closes the connections.
func (r *readers) close() error {
	for range maxReaders {
		r.slots <- struct{}{}
	}
	var errs []error
	for {
		select {
		case c := <-r.idle:
			errs = append(errs, c.close())
		default:
			return errors.Join(errs...)
		}
	}
}
