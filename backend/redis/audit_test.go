package redis_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store/storetest"
)

func TestAudit(t *testing.T) {
	storetest.RunAudit(t, func(t testing.TB) storetest.Auditing {
		db := open(t, redis.Config{Namespace: namespace(), Partitions: 3})
		return storetest.Auditing{Audit: db.Audit(), Close: db.Close}
	})
}
