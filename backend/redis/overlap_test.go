package redis_test

import (
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/faultproxy"
)

// A revocation may be told to an exchange that is back before the one which brings
// the task: it is told with the task then.
func TestRevokedBeforeItIsThere(t *testing.T) {
	t.Parallel()
	const queue = "told-early"
	direct := redis.Config{Namespace: namespace()}
	other := open(t, direct)
	proxy := faultproxy.Start(t, shared.Get(t).Addr)
	proxied := direct
	proxied.Addrs = []string{proxy.Addr}
	c, err := open(t, proxied).Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{queue}})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(id string) {
		e := envelope(id)
		e.Queue = queue
		publishAll(t, other, broker.Publication{Envelope: e})
	}
	publish("held") // who holds something is told of revocations
	if got := exchange(t, c, nil, 1); len(got.Deliveries) != 1 {
		t.Fatalf("got %+v", got)
	}
	publish("late")
	held := proxy.HoldReply(queue)
	late := make(chan broker.Batch, 1)
	go func() {
		b, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1})
		if err != nil {
			t.Error(err)
		}
		late <- b
	}()
	<-held.Done()
	answers, err := other.Broker().(broker.Revoker).Revoke(t.Context(), []broker.Revocation{{ID: "late", Terminate: true}})
	if err != nil || answers[0].State != broker.RevokeAsked {
		t.Fatalf("revoke: %+v, %v", answers, err)
	}
	if early := exchange(t, c, nil, 0); len(early.Revoked) != 0 {
		t.Errorf("told of a task that it does not have: %+v", early.Revoked)
	}
	held.Release()
	got := <-late
	if len(got.Deliveries) != 1 || len(got.Revoked) != 1 || got.Revoked[0].Receipt != got.Deliveries[0].Receipt {
		t.Errorf("got %+v, want the task and its revocation", got)
	}
}
