package redis_test

import (
	"errors"
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store/storetest"
)

func TestMemos(t *testing.T) {
	storetest.RunMemos(t, func(t testing.TB) storetest.Remembering {
		c := redis.Config{Namespace: namespace(), Partitions: 3}
		one, other := open(t, c), open(t, c)
		return storetest.Remembering{
			Memos: one.Memos(), Other: other.Memos(),
			Close: func() error { return errors.Join(one.Close(), other.Close()) },
		}
	})
}
