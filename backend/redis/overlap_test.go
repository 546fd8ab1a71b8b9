package redis_test

import (
	"testing"
	"time"

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

// overlapped is a consumer with an exchange under way that found nothing, of which the
// answer is held up. What the deployment's other clients do goes past the proxy.
type overlapped struct {
	broker.Consumer
	t         *testing.T
	proxy     *faultproxy.Proxy
	direct    *redis.DB
	namespace string
}

func overlap(t *testing.T) *overlapped {
	t.Helper()
	o := &overlapped{t: t, namespace: namespace(), proxy: faultproxy.Start(t, shared.Get(t).Addr)}
	o.direct = open(t, redis.Config{Namespace: o.namespace})
	o.Consumer = consumerOf(t, open(t, redis.Config{Namespace: o.namespace, Addrs: []string{o.proxy.Addr}}), time.Hour)
	return o
}

// hold makes an exchange whose answer comes with the release.
func (o *overlapped) hold(count int) (release func()) {
	o.t.Helper()
	held := o.proxy.HoldReply("\r\nq\r\n") // the order of queues
	back := make(chan error, 1)
	go func() {
		_, err := o.Exchange(o.t.Context(), nil, nil, broker.Want{Count: count})
		back <- err
	}()
	<-held.Done()
	return func() {
		o.t.Helper()
		held.Release()
		if err := <-back; err != nil {
			o.t.Fatal(err)
		}
	}
}

// waiting waits until so many consumers are registered as waiting, and reports
// whether it came to that.
func (o *overlapped) waiting(want int64) bool {
	for until := time.Now().Add(40 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if shared.Get(o.t).Do("ZCARD", "{"+o.namespace+":0}:idle") == want {
			return true
		}
	}
	return false
}

// Of two exchanges one has room for more, and the other, which the server runs later,
// wants nothing and takes the consumer off those who wait: a wait is woken all the
// same, whether it begins afterwards or has begun before.
func TestOverlappedAndWaiting(t *testing.T) {
	for name, before := range map[string]bool{"before": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := overlap(t)
			exchange(t, o, nil, 1)
			woken := make(chan error, 1)
			wait := func() { woken <- o.Wait(t.Context(), time.Hour) }
			if before {
				go wait()
			}
			release := o.hold(1)
			exchange(t, o, nil, 0)
			release()
			if !before {
				go wait()
			}
			if !o.waiting(1) {
				t.Error("the consumer is not registered as waiting")
			}
			publishAll(t, o.direct, broker.Publication{Envelope: envelope("a")})
			if err := <-woken; err != nil {
				t.Error(err)
			}
		})
	}
}

// A call that comes while the answers of two exchanges are on their way goes on to
// another consumer, if the next exchange has no room.
func TestCalledAmidTwoExchanges(t *testing.T) {
	t.Parallel()
	o := overlap(t)
	exchange(t, o, nil, 0) // so that the wait below does not look itself
	first := o.hold(1)
	second := o.hold(1)
	time.Sleep(5 * time.Millisecond) // whoever has waited longer is called first, by a clock of whole ms
	exchange(t, consumerOf(t, o.direct, time.Hour), nil, 1)
	publishAll(t, o.direct, broker.Publication{Envelope: envelope("a")})
	if err := o.Wait(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if !o.waiting(1) {
		t.Fatal("want the other one to wait, and this one to be called")
	}
	first()
	second()
	exchange(t, o, nil, 0)
	if !o.waiting(0) {
		t.Error("nobody was called")
	}
}
