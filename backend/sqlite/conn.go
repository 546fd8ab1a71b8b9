package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
)

//go:embed sql/*.sql
var sqlFiles embed.FS

// rowColumns is what {row} stands for in the statements; see scanRow.
const rowColumns = "seq, id, queue, rank, place, phase, at, epoch, attempt, starts, base, replays, flags, worker, own, enqueued, length(envelope)"

// loadStatements returns the statements of sql/ by name, for one namespace.
func loadStatements(namespace string) (map[string]string, error) {
	statements := make(map[string]string)
	for _, file := range []string{"sql/task.sql", "sql/results.sql", "sql/limits.sql", "sql/control.sql", "sql/schedules.sql", "sql/memos.sql", "sql/audit.sql", "sql/check.sql"} {
		text, err := sqlFiles.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		_, body, _ := strings.Cut(inNamespace(string(text), namespace), "-- name: ")
		for part := range strings.SplitSeq(body, "-- name: ") {
			name, sql, _ := strings.Cut(part, "\n")
			if _, twice := statements[name]; twice {
				return nil, fmt.Errorf("%s: statement %s is there twice", file, name)
			}
			statements[name] = strings.NewReplacer("{row}", rowColumns, "{entry}", entryColumns).Replace(strings.TrimSpace(sql))
		}
	}
	return statements, nil
}

// inNamespace puts a namespace in the place of "stem" in SQL.
func inNamespace(sql, namespace string) string {
	return strings.ReplaceAll(sql, "stem_", namespace+"_")
}

// conn is one connection with its prepared statements. It belongs to one
// goroutine at a time.
type conn struct {
	*sqlite3.Conn
	sql    map[string]string
	stmts  map[string]*sqlite3.Stmt
	writes bool // it is the writer's: what it reads may not be committed
}

// openConn opens the file, which must exist unless create is set. cache is the
// size of its page cache in KiB.
func (db *DB) openConn(ctx context.Context, create bool, cache int) (*conn, error) {
	flags := sqlite3.OPEN_READWRITE | sqlite3.OPEN_URI
	if create {
		flags |= sqlite3.OPEN_CREATE
	}
	raw, err := sqlite3.OpenFlags(fileURI(db.path, db.vfs), flags)
	if err != nil {
		return nil, failed("open "+db.path, err)
	}
	c := &conn{Conn: raw, sql: db.sql, stmts: make(map[string]*sqlite3.Stmt)}
	raw.SetInterrupt(ctx)
	err = raw.Exec(fmt.Sprintf(`PRAGMA busy_timeout = 10000; PRAGMA temp_store = memory; PRAGMA cache_size = -%d;
		PRAGMA synchronous = %s; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = %d`,
		cache, db.config.Synchronous, walLimit*pageSize))
	raw.SetInterrupt(context.Background())
	if err != nil {
		return nil, errors.Join(failed("open "+db.path, err), raw.Close())
	}
	return c, nil
}

// fileURI names a file for SQLite, whatever bytes its path has.
func fileURI(path, vfs string) string {
	uri := "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	if vfs != "" {
		uri += "?vfs=" + vfs
	}
	return uri
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.Conn.Close())...)
}

// stmt returns the prepared statement of that name, reset and bound.
func (c *conn) stmt(name string, args ...any) (*sqlite3.Stmt, error) {
	s := c.stmts[name]
	if s == nil {
		var err error
		if s, _, err = c.Prepare(c.sql[name]); err != nil {
			return nil, failed("prepare statement "+name, err)
		}
		if s == nil {
			return nil, fmt.Errorf("statement %s: there is none", name)
		}
		c.stmts[name] = s
	}
	for i, arg := range args {
		if err := bind(s, i+1, arg); err != nil {
			return nil, failed("bind statement "+name, err)
		}
	}
	return s, nil
}

func bind(s *sqlite3.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case nil:
		return s.BindNull(i)
	case int64:
		return s.BindInt64(i, v)
	case int:
		return s.BindInt64(i, int64(v))
	case bool:
		return s.BindBool(i, v)
	case string:
		return s.BindText(i, v)
	case []byte:
		if v == nil {
			return s.BindNull(i)
		}
		return s.BindBlob(i, v)
	default:
		return fmt.Errorf("argument %d: a %T is nothing that SQLite keeps", i, arg)
	}
}

// exec runs a statement that returns nothing.
func (c *conn) exec(name string, args ...any) error {
	s, err := c.stmt(name, args...)
	if err != nil {
		return err
	}
	if err := s.Exec(); err != nil {
		return failed("statement "+name, err)
	}
	return nil
}

// each calls row for every row of a statement until it returns false. row must
// not run the same statement.
func (c *conn) each(name string, row func(s *sqlite3.Stmt) bool, args ...any) error {
	s, err := c.stmt(name, args...)
	if err != nil {
		return err
	}
	for s.Step() && row(s) {
	}
	err = s.Err()
	if e := s.Reset(); err == nil {
		err = e
	}
	if err != nil {
		return failed("statement "+name, err)
	}
	return nil
}

// one reads the first row of a statement, and reports whether there was one.
func (c *conn) one(name string, row func(s *sqlite3.Stmt), args ...any) (bool, error) {
	found := false
	err := c.each(name, func(s *sqlite3.Stmt) bool {
		found = true
		row(s)
		return false
	}, args...)
	return found, err
}

// failed names an error of SQLite. What may pass by itself wraps
// broker.ErrUnavailable.
func failed(what string, err error) error {
	var e *sqlite3.Error
	var code sqlite3.ErrorCode
	switch {
	case errors.As(err, &e):
		code = e.Code()
	case !errors.As(err, &code):
		return fmt.Errorf("%s: %w", what, err)
	}
	switch code {
	case sqlite3.FULL:
		return fmt.Errorf("%s: %w: the disk is full: %w", what, broker.ErrUnavailable, err)
	case sqlite3.BUSY, sqlite3.LOCKED, sqlite3.IOERR, sqlite3.CANTOPEN, sqlite3.READONLY, sqlite3.NOMEM, sqlite3.PROTOCOL:
		return fmt.Errorf("%s: %w: %w", what, broker.ErrUnavailable, err)
	case sqlite3.CORRUPT, sqlite3.NOTADB:
		return fmt.Errorf("%s: the file is damaged or is no SQLite database; restore a backup: %w", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}
