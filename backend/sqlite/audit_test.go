package sqlite_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/store/storetest"
)

func TestAudit(t *testing.T) {
	storetest.RunAudit(t, func(t testing.TB) storetest.Auditing {
		path := filepath.Join(t.TempDir(), "stem.db")
		open := func() *sqlite.DB {
			db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		one, other := open(), open()
		return storetest.Auditing{Audit: one.Audit(), Other: other.Audit(), Close: func() error { return errors.Join(one.Close(), other.Close()) }}
	})
}
