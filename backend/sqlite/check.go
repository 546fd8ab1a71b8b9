package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// findMost is how many violations of one invariant Check lists.
const findMost = 20

// Check verifies the store's invariants in one moment: the file is sound, no
// task is in two places, counters agree with rows, leased tasks have epoch, end
// and worker, dead letters are complete, claims, notes and revocations belong
// to tasks. It returns one error that joins all that it found, or nil. It
// reads the whole file, and hinders no writer but for the WAL, which grows
// meanwhile.
func (db *DB) Check(ctx context.Context) error {
	if db.isClosed() {
		return broker.ErrClosed
	}
	var found []error
	err := db.scan(ctx, func(c *conn) error {
		tx := c.Begin()
		defer func() { _ = tx.Rollback() }() // it only read
		var err error
		found, err = c.check()
		return err
	})
	if err != nil {
		return fmt.Errorf("check %s: %w", db.path, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("check %s: %d found: %w", db.path, len(found), errors.Join(found...))
	}
	return nil
}

func (c *conn) check() (found []error, err error) {
	sound, err := c.texts(fmt.Sprintf("PRAGMA quick_check(%d)", findMost))
	if err != nil {
		return nil, err
	}
	for _, line := range sound {
		if line != "ok" {
			found = append(found, fmt.Errorf("the file: %s", line))
		}
	}
	for _, name := range c.checks() {
		n := 0
		err := c.each(name, func(s *sqlite3.Stmt) bool {
			found = append(found, errors.New(s.ColumnText(0)))
			n++
			return n < findMost
		})
		if err != nil {
			return found, err
		}
	}
	n := 0
	err = c.allPending(func(_ int64, _ store.Pending, fault error) bool {
		if fault != nil {
			found = append(found, fault)
			n++
		}
		return n < findMost
	})
	return found, err
}

// checks lists the statements that look for violations.
func (c *conn) checks() []string {
	var names []string
	for name := range c.sql {
		if strings.HasPrefix(name, "check-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
