package redis_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/store"
)

// Entries of the journal that are written short are listed and swept as others are.
func TestShortJournal(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	db := open(t, redis.Config{Addrs: []string{s.Addr}})
	batch := publications(40)
	var want []string
	for i := range batch {
		e := batch[i].Envelope
		e.NotBefore = time.Now().Add(time.Hour)
		switch {
		case i%4 == 1:
			e.ID = "mine-" + e.ID
		case i%4 == 2:
			e.EnqueuedAt = e.EnqueuedAt.Add(-time.Duration(i) * time.Minute) // another minute than its id says
		case i%4 == 3:
			e.EnqueuedAt = e.EnqueuedAt.Add(time.Duration(i) * time.Second)
		}
		want = append(want, e.ID)
	}
	if _, err := db.Broker().Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	listed := func() {
		t.Helper()
		list, err := db.Results().List(t.Context(), store.Query{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, st := range list.Statuses {
			got = append(got, st.ID)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("listed are %d tasks: %v\nwant %d: %v", len(got), got, len(want), want)
		}
	}
	listed()

	for _, id := range want[10:] {
		s.Do("DEL", "{stem:0}"+id)
	}
	want = want[:10]
	entries, short := 0, 0
	for _, name := range strs(s.Do("ZRANGE", "{stem:0}:journal", "0", "-1")) {
		for _, e := range strs(s.Do("LRANGE", "{stem:0}:j:"+name, "0", "-1")) {
			entries++
			if strings.Contains(e, "=") {
				short++
			}
		}
		s.Do("ZADD", "{stem:0}:sweep", "0", name) // it is time
	}
	if entries != len(batch) || short < len(batch)/4 {
		t.Fatalf("the journal has %d entries, %d of them short", entries, short)
	}
	for s.Do("ZCOUNT", "{stem:0}:sweep", "0", "0") != int64(0) {
		sweep(t, s)
	}
	left := 0
	for _, name := range strs(s.Do("ZRANGE", "{stem:0}:journal", "0", "-1")) {
		left += len(strs(s.Do("LRANGE", "{stem:0}:j:"+name, "0", "-1")))
	}
	if left > entries/2 {
		t.Errorf("%d entries of the journal are left, of %d tasks", left, len(want))
	}
	listed()
}

// sweep has another process look after the journal.
func sweep(t *testing.T, s *redistest.Server) {
	t.Helper()
	c, err := open(t, redis.Config{Addrs: []string{s.Addr}}).Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context(), nil, nil, broker.Want{Count: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// strs is a list of texts that a server answered.
func strs(reply any) (list []string) {
	all, _ := reply.([]any)
	for _, e := range all {
		text, _ := e.(string)
		list = append(list, text)
	}
	return list
}
