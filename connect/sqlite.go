package connect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/sqlite"
)

const sqliteForm = "sqlite:stem.db or sqlite:/abs/path.db, with ?synchronous=full or ?synchronous=normal if need be"

// SQLitePath is the path of the file that an SQLite URL names.
func SQLitePath(raw string) (path string, ok bool) {
	if !strings.HasPrefix(raw, "sqlite:") {
		return "", false
	}
	t, err := parseSQLite(target{shown: Mask(raw)}, raw)
	if err != nil {
		return "", false
	}
	return strings.TrimPrefix(t.place, "sqlite:"), true
}

func parseSQLite(t target, raw string) (target, error) {
	wrong := func(why string) (target, error) {
		return t, &URLError{URL: t.shown, Want: sqliteForm + " (" + why + ")"}
	}
	path, query, _ := strings.Cut(raw[len("sqlite:"):], "?")
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return wrong("there is no host: leave out the //")
		}
		path = rest
	}
	path, err := url.PathUnescape(path)
	switch {
	case err != nil:
		return wrong("a % is written %25")
	case path == "":
		return wrong("the path is missing")
	case path == ":memory:":
		return wrong("for a store in memory say memory:")
	case strings.ContainsRune(path, 0):
		return wrong("the path has a NUL")
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return wrong("the options after ? cannot be read")
	}
	c := sqlite.Config{Path: path, Synchronous: sqlite.Full}
	for key, values := range options {
		switch value := strings.ToLower(values[len(values)-1]); {
		case key != "synchronous":
			return wrong(fmt.Sprintf("%q is no option", key))
		case value == "full":
		case value == "normal":
			c.Synchronous = sqlite.Normal
		default:
			return wrong(fmt.Sprintf("synchronous is full or normal, not %q", value))
		}
	}
	t.place = "sqlite:" + samePath(path)
	t.identity = t.place + "?" + string(c.Synchronous)
	t.open = func(ctx context.Context, o Options) (stem.Backend, error) {
		if o.MustExist {
			if err := mustExist(path); err != nil {
				return nil, err
			}
		}
		c := c
		c.Namespace, c.Logger = o.Namespace, o.Logger
		db, err := sqlite.Open(ctx, c)
		if err != nil {
			return nil, err // not db: a nil *DB in an interface is not nil
		}
		return db, nil
	}
	return t, nil
}

// samePath returns one spelling for all that lead to the same file.
func samePath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Clean(path)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		return filepath.Join(dir, filepath.Base(abs)) // not made yet
	}
	return abs
}

func mustExist(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open %s: %w; the first enqueue or worker makes it", path, fs.ErrNotExist)
	}
	return err
}
