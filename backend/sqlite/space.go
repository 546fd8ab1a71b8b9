package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
)

// fullBelow is the space left below which a write that failed is taken to have
// failed for want of it: a few pages.
const fullBelow = 64 << 10

// full says so where an error of SQLite comes of a full disk. The library
// tells that by a code of its own only for errors that the system gives bare,
// and Go's files wrap them: what arrives is an I/O error like any other.
func (db *DB) full(err error) error {
	if !errors.Is(err, sqlite3.IOERR) {
		return err
	}
	dir := filepath.Dir(db.path)
	left, e := db.spaceLeft(dir)
	if e != nil || left >= fullBelow {
		return err
	}
	return fmt.Errorf("the disk is full, %d bytes are left at %s: %w", left, dir, err)
}
