package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// What a listing passes over unread never fits: each filter gives what is left of
// the whole listing by Query.Match, whatever has become of the tasks.
func TestListingBySight(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			c := redis.Config{Namespace: namespace(), Partitions: partitions}
			db := open(t, c)
			manyFates(t, db)
			listBySight(t, db)
		})
	}
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		db := open(t, redis.Config{Addrs: cluster.Get(t).Addrs(), Cluster: true, Namespace: namespace()})
		manyFates(t, db)
		listBySight(t, db)
	})
}

var (
	sightNames  = []string{"a.mail", "a.sms", "b.mail"}
	sightErrors = []string{"timed out", "Refused by \"peer\""}
)

// manyFates makes tasks of all kinds and states.
func manyFates(t *testing.T, db *redis.DB) {
	var batch []broker.Publication
	for i := range 400 {
		e := envelope(fmt.Sprintf("t-%03d", i))
		e.Name, e.Queue = sightNames[i%3], []string{"q", "q2"}[i%2]
		e.EnqueuedAt = time.UnixMilli(1_780_000_000_000 + int64(i/3*40))
		e.Args = json.RawMessage(fmt.Sprintf(`{"name":"b.mail","customer":"c-%d"}`, i%7))
		switch i % 11 {
		case 3:
			e.Args = json.RawMessage(`["` + strings.Repeat("x", 900+i) + `","say \"hi\""]`)
		case 4:
			e.NotBefore = time.Now().Add(time.Hour)
		case 5:
			e.Meta = map[string]json.RawMessage{task.MetaUser: json.RawMessage(`{"tenant":"acme"}`)}
			e.Args = nil
		}
		batch = append(batch, broker.Publication{Envelope: e})
	}
	publishAll(t, db, batch...)
	c, err := db.Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q", "q2"}, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	for range 3 {
		var got []broker.Delivery
		for len(got) < 90 {
			got = append(got, exchange(t, c, nil, 30).Deliveries...)
		}
		var done []broker.Settlement
		var running []broker.Renewal
		for i := range got {
			if o, ok := fate(i, &got[i]); ok {
				done = append(done, broker.Settlement{Receipt: got[i].Receipt, Outcome: o})
			} else {
				running = append(running, broker.Renewal{Receipt: got[i].Receipt, Start: true, Worker: fmt.Sprintf("w-%d", i%3)})
			}
		}
		if _, err := c.Exchange(t.Context(), done, running, broker.Want{}); err != nil {
			t.Fatal(err)
		}
	}
	records := []task.Status{}
	for i := range 40 {
		e := envelope(fmt.Sprintf("r-%03d", i))
		e.Name, e.Queue, e.EnqueuedAt = sightNames[i%3], "q", batch[i*9].Envelope.EnqueuedAt
		records = append(records, task.NewStatus(e))
	}
	errs, err := db.Results().Create(t.Context(), records)
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
}

// fate is how the i-th delivery ends, if it does.
func fate(i int, d *broker.Delivery) (task.Outcome, bool) {
	o := task.Outcome{
		Attempt: d.Envelope.Attempt, Worker: fmt.Sprintf("w-%d", i%3), StartedAt: time.Now(), EndedAt: time.Now(), Keep: task.Forever,
	}
	failure := &task.Error{Type: "Error", Message: sightErrors[i%2]}
	switch i % 6 {
	case 0, 1:
		o.State, o.Result = task.Succeeded, json.RawMessage(`{"reason":"late","worker":"w-9"}`)
	case 2:
		o.State, o.Reason = task.Cancelled, "late"
	case 3:
		o.State, o.Error, o.Reason = task.Failed, failure, "retries"
	case 4:
		o.State, o.Error, o.Attempt = task.Retried, failure, o.Attempt+1
	default:
		return o, false
	}
	return o, true
}

func listBySight(t *testing.T, db *redis.DB) {
	whole := pages(t, db, store.Query{Limit: 1000})
	states := map[task.State]int{}
	for i := range whole {
		states[whole[i].State]++
	}
	if len(whole) != 440 || len(states) < 6 {
		t.Fatalf("%d tasks in states %v", len(whole), states)
	}
	rapid.Check(t, func(r *rapid.T) {
		q := sightQuery(r)
		var want []string
		for i := range whole {
			if q.Match(&whole[i]) {
				want = append(want, whole[i].ID)
			}
		}
		var got []string
		for _, s := range pages(r, db, q) {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, want) {
			r.Fatalf("%+v:\n got %v\nwant %v", q, got, want)
		}
	})
}

func sightQuery(r *rapid.T) store.Query {
	one := func(label string, of ...string) string {
		return rapid.SampledFrom(append(of, slices.Repeat([]string{""}, len(of)+1)...)).Draw(r, label)
	}
	q := store.Query{
		Name: one("name", "a.mail", "a.*", "*.mail", "*", "b.none", "b*"), Queue: one("queue", "q", "q2", "q*", "x"),
		Worker: one("worker", "w-0", "w-1", "w-9"), Reason: one("reason", "late", "retries"),
		Error: one("error", "TIMED", `"peer"`, "none"), Args: one("args", "c-3", "xxxx", `\"hi`, "null", "…"),
		Limit: rapid.IntRange(5, 200).Draw(r, "limit"),
	}
	q.States = rapid.SliceOfNDistinct(rapid.SampledFrom([]task.State{
		task.Queued, task.Running, task.Succeeded, task.Failed, task.Retried, task.Cancelled,
	}), 0, 3, rapid.ID).Draw(r, "states")
	if rapid.IntRange(0, 4).Draw(r, "meta") == 0 {
		q.Meta = map[string]string{"tenant": "ac*"}
	}
	if rapid.Bool().Draw(r, "since") {
		q.Since = time.UnixMilli(1_780_000_000_000 + rapid.Int64Range(0, 6000).Draw(r, "ms"))
	}
	return q
}

// pages lists all pages.
func pages(t rapid.TB, db *redis.DB, q store.Query) (all []task.Status) {
	for {
		l, err := db.Results().List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, l.Statuses...); l.Cursor == "" {
			return all
		}
		q.Cursor = l.Cursor
	}
}
