package memory_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/store/storetest"
)

func TestMemos(t *testing.T) {
	storetest.RunMemos(t, func(testing.TB) storetest.Remembering {
		db := memory.New()
		return storetest.Remembering{Memos: db.Memos(), Close: db.Close}
	})
}
