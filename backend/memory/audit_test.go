package memory_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/store/storetest"
)

func TestAudit(t *testing.T) {
	storetest.RunAudit(t, func(testing.TB) storetest.Auditing {
		db := memory.New()
		return storetest.Auditing{Audit: db.Audit(), Close: db.Close}
	})
}
