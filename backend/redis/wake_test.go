package redis_test

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// A consumer that wants nothing, since it is full or about to stop, wakes another for
// what its settlements make ready: what it gives back, and follow-ups.
func TestWhoWantsNothingWakesOthers(t *testing.T) {
	for name, settle := range map[string]func(r broker.Receipt) broker.Settlement{
		"release": func(r broker.Receipt) broker.Settlement {
			return broker.Settlement{Receipt: r, Outcome: task.Outcome{State: task.Queued}}
		},
		"follow-up": func(r broker.Receipt) broker.Settlement {
			return broker.Settlement{
				Receipt: r, Outcome: task.Outcome{State: task.Succeeded}, Followups: []broker.Publication{{Envelope: envelope("next")}},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := namespace()
			db := open(t, redis.Config{Namespace: ns})
			full, idle := consumerOf(t, db, time.Hour), consumerOf(t, db, time.Hour)
			publishAll(t, db, broker.Publication{Envelope: envelope("a")})
			d := exchange(t, full, nil, 1).Deliveries
			if len(d) != 1 {
				t.Fatalf("%d deliveries", len(d))
			}
			exchange(t, idle, nil, 1)
			waiting := func() any { return shared.Get(t).Do("ZCARD", "{"+ns+":0}:idle") }
			if waiting() != int64(1) {
				t.Fatalf("%v wait, want the one", waiting())
			}
			if x, err := full.Exchange(t.Context(), []broker.Settlement{settle(d[0].Receipt)}, nil, broker.Want{}); err != nil || x.Settled[0] != nil {
				t.Fatal(x.Settled, err)
			}
			if waiting() != int64(0) { // who is called waits no more
				t.Error("nobody was called for what is ready")
			}
		})
	}
}
