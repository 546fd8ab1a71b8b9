package redis_test

import (
	"context"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/task"
)

// scripts is how many scripts a server has run.
func scripts(t testing.TB, s *redistest.Server) int {
	t.Helper()
	text, ok := s.Do("INFO", "commandstats").(string)
	if !ok {
		t.Fatal("INFO commandstats is no text")
	}
	m := regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An idle fleet asks little, however large it is, and one task wakes one worker.
func TestIdleFleet(t *testing.T) {
	const workers = 100
	s := redistest.Start(t, redistest.Options{})
	b := open(t, redis.Config{Addrs: []string{s.Addr}}).Broker()
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan broker.Delivery, 1)
	var wg sync.WaitGroup
	for range workers {
		c, err := b.Open(ctx, broker.Subscription{Worker: "w", Queues: []string{"default"}})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { work(ctx, c, got) })
	}
	defer wg.Wait()
	defer stop()
	for began := time.Now(); s.Do("ZCARD", "{stem:0}:idle") != int64(workers); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("not all of the workers wait")
		}
	}
	time.Sleep(time.Second) // some look once more, since the fleet has grown meanwhile

	const watched = 3 * time.Second
	before := scripts(t, s)
	began := time.Now()
	time.Sleep(watched)
	n := scripts(t, s) - before
	if took := time.Since(began); n > 5*int(took/time.Second)+2 { // it may have been longer
		t.Errorf("%d idle workers ran %d scripts in %s", workers, n, took)
	}
	before, began = scripts(t, s), time.Now()
	if _, err := b.Publish(ctx, publications(1)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(time.Minute):
		t.Fatal("the task was not received")
	}
	time.Sleep(100 * time.Millisecond)
	n = scripts(t, s) - before
	if looks := 2 + 5*int(time.Since(began)/time.Second); n > 3+looks { // some may have looked just then
		t.Errorf("%d scripts ran for one task", n)
	}
}

// work receives as a worker does, and settles at once.
func work(ctx context.Context, c broker.Consumer, got chan<- broker.Delivery) {
	var done []broker.Settlement
	for ctx.Err() == nil {
		x, err := c.Exchange(ctx, done, nil, broker.Want{Count: 10, Bytes: 4 << 20})
		if err != nil {
			return
		}
		done = done[:0]
		for _, d := range x.Deliveries {
			got <- d
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: time.Minute}})
		}
		if len(done) > 0 {
			continue
		}
		most := time.Second
		if x.Next > 0 {
			most = min(most, x.Next)
		}
		if c.Wait(ctx, most) != nil {
			return
		}
	}
}
