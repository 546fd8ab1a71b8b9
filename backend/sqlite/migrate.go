package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// applicationID marks a file as Stem's: "Stem" in ASCII, at offset 68.
const applicationID = 0x5374656d

// migrations are the steps of the schema, oldest first. A step is never
// changed once released; it only adds, so that programs that know the schema
// named "oldest" in the meta table go on.
func migrations() []string {
	return []string{"sql/0001.sql", "sql/0002.sql", "sql/0003.sql", "sql/0004.sql", "sql/0005.sql", "sql/0006.sql", "sql/0007.sql"}
}

// migrate brings the file to this program's schema. The caller holds the file
// lock, so two processes that start at once are safe.
func (db *DB) migrate(ctx context.Context, c *conn) error {
	c.SetInterrupt(ctx)
	defer c.SetInterrupt(context.Background())
	app, err := c.pragma("application_id")
	if err != nil {
		return err
	}
	tables, err := c.number("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	if app != applicationID && (app != 0 || tables > 0) {
		return fmt.Errorf("open %s: it is an SQLite database of another program (application id %#x, %d tables and indexes)",
			db.path, app, tables)
	}
	// A file in WAL mode stays so; only a new one is changed, and it has no
	// other user yet.
	if err := c.Exec("PRAGMA journal_mode = wal"); err != nil {
		return failed("open "+db.path+": set WAL mode", err)
	}
	return db.applySteps(c)
}

func (db *DB) applySteps(c *conn) (err error) {
	steps := migrations()
	version, oldest, err := db.schema(c)
	if err != nil {
		return err
	}
	if oldest > int64(len(steps)) {
		return fmt.Errorf("open %s: it has schema %d and needs a program that knows schema %d; this one knows up to %d: use a newer stem",
			db.path, version, oldest, len(steps))
	}
	if version >= int64(len(steps)) {
		return nil
	}
	if err := c.Exec("BEGIN IMMEDIATE"); err != nil {
		return failed("migrate "+db.path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Exec("ROLLBACK"))
		}
	}()
	for i, file := range steps[version:] {
		text, err := sqlFiles.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		number := version + int64(i) + 1
		sql := string(text) + fmt.Sprintf("\nUPDATE stem_meta SET value = %d WHERE key = 'schema';\nPRAGMA user_version = %d;", number, number)
		if err := c.Exec(inNamespace(sql, db.config.Namespace)); err != nil {
			return failed(fmt.Sprintf("migrate %s to schema %d", db.path, number), err)
		}
	}
	if err := c.Exec(fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return failed("migrate "+db.path, err)
	}
	if err := c.Exec("COMMIT"); err != nil {
		return failed("migrate "+db.path, err)
	}
	return nil
}

// schema returns the newest step that the namespace has, and the oldest that a
// program must know; 0, 0 when there is nothing yet.
func (db *DB) schema(c *conn) (version, oldest int64, err error) {
	ns := db.config.Namespace
	n, err := c.number("SELECT count(*) FROM sqlite_schema WHERE name = '" + ns + "_meta'")
	if err != nil || n == 0 {
		return 0, 0, err
	}
	if version, err = c.number("SELECT value FROM " + ns + "_meta WHERE key = 'schema'"); err != nil {
		return 0, 0, err
	}
	oldest, err = c.number("SELECT value FROM " + ns + "_meta WHERE key = 'oldest'")
	return version, oldest, err
}

// Schema says which schema the file has, such as "1", and from which on a
// program may use it, where that is an older one.
func (db *DB) Schema(ctx context.Context) (string, error) {
	var version, oldest int64
	err := db.read(ctx, func(c *conn) (err error) {
		version, oldest, err = db.schema(c)
		return err
	})
	switch {
	case err != nil:
		return "", err
	case oldest < version:
		return fmt.Sprintf("%d, usable from %d on", version, oldest), nil
	default:
		return fmt.Sprint(version), nil
	}
}

func (c *conn) pragma(name string) (int64, error) { return c.number("PRAGMA " + name) }

// number runs SQL that is used once, and returns its first column.
func (c *conn) number(sql string) (n int64, err error) {
	s, _, err := c.Prepare(sql)
	if err != nil {
		return 0, failed("read "+c.Filename("main").String(), err)
	}
	if s.Step() {
		n = s.ColumnInt64(0)
	}
	err = s.Err()
	if e := s.Close(); err == nil {
		err = e
	}
	if err != nil {
		return 0, failed("read "+c.Filename("main").String(), err)
	}
	return n, nil
}

// texts runs SQL that is used once, and returns its first column as text.
func (c *conn) texts(sql string) (list []string, err error) {
	s, _, err := c.Prepare(sql)
	if err != nil {
		return nil, failed("prepare", err)
	}
	err = drain(s, func() { list = append(list, s.ColumnText(0)) })
	return list, err
}

// drain steps through a statement of one use and closes it.
func drain(s *sqlite3.Stmt, row func()) error {
	for s.Step() {
		row()
	}
	err := s.Err()
	if e := s.Close(); err == nil {
		err = e
	}
	if err != nil {
		return failed("read", err)
	}
	return nil
}
