package redis_test

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
)

// Who keeps the time looks rarely while there is nothing to keep it for, and is told
// of what comes to be due sooner than that, or ends: of nothing else, and once.
func TestKeepersRest(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	b := open(t, redis.Config{Addrs: []string{s.Addr}}).Broker()
	consumer := func(queue string, lease time.Duration) broker.Consumer {
		t.Helper()
		c, err := b.Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{queue}, Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	exchange := func(c broker.Consumer, want int) {
		t.Helper()
		x, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1})
		if err != nil || len(x.Deliveries) != want {
			t.Fatalf("%d deliveries, want %d: %v", len(x.Deliveries), want, err)
		}
	}
	publish := func(in time.Duration) {
		t.Helper()
		p := publications(1)
		if in > 0 {
			p[0].Envelope.NotBefore = time.Now().Add(in)
		}
		if _, err := b.Publish(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	take := func(lease time.Duration) func() {
		return func() {
			t.Helper()
			publish(0)
			exchange(consumer("default", lease), 1)
		}
	}
	for name, step := range map[string]struct {
		do   func()
		told int
	}{
		"a short lease":   {take(2 * time.Second), 1},
		"a long lease":    {take(time.Minute), 0},
		"a task due soon": {func() { publish(3 * time.Second) }, 1},
		"one due later":   {func() { publish(time.Minute) }, 0},
		"many due soon":   {func() { publish(3 * time.Second); publish(4 * time.Second) }, 1},
	} {
		s.Do("FLUSHALL")
		keeper := consumer("elsewhere", 0)
		for i := range 2 {
			began, before := time.Now(), published(t, s)
			exchange(keeper, 0)
			step.do()
			want := step.told * (1 - i) // it has looked since, and knows
			if got := published(t, s) - before; got != want && time.Since(began) < time.Second {
				t.Errorf("%s, time %d: the keeper was told %d times, want %d", name, i+1, got, want)
			}
		}
		if err := keeper.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// published is how many messages a server was given.
func published(t testing.TB, s *redistest.Server) int {
	t.Helper()
	text, _ := s.Do("INFO", "commandstats").(string)
	m := regexp.MustCompile(`cmdstat_publish:calls=(\d+)`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
