package memory

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/store"
)

// A clock that was ahead and is set back does not leave the limits in the future.
func TestLimitsFollowTheClock(t *testing.T) {
	db := New()
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	hour := time.Hour.Microseconds()
	ahead := time.Now().UnixMicro() + hour
	db.limitClock, db.limits["k"] = ahead, &store.Lines{First: ahead + 2_000_000, Again: ahead}
	slots, err := db.Broker().(store.Limiter).Reserve(t.Context(), []store.Reservation{{Key: "k", Rate: store.Rate{Count: 1, Per: time.Second}}})
	if err != nil || slots[0].Wait < 2*time.Second || slots[0].Wait > time.Minute {
		t.Errorf("after a step of an hour: %+v, %v", slots, err)
	}
}
