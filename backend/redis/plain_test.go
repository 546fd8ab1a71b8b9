package redis_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
)

// What exists is found wherever it stands in a batch, of more than one lot, and its
// neighbours are stored in their order; of an id that is there twice the first is.
func TestABatchOfWhichSomeExist(t *testing.T) {
	t.Parallel()
	const count = 5000 // two lots and a half
	db := open(t, redis.Config{Namespace: namespace()})
	id := func(i int) string { return fmt.Sprintf("%05d", i) }
	for _, known := range []int{0, 1999, 2000, 4999} {
		publishAll(t, db, broker.Publication{Envelope: envelope(id(known))})
	}
	batch := make([]broker.Publication, count)
	for i := range batch {
		batch[i].Envelope = envelope(id(i))
	}
	check := func(batch []broker.Publication, exists func(i int) bool) {
		t.Helper()
		for i, o := range publishAll(t, db, batch...) {
			want := broker.Outcome{State: broker.Stored}
			if exists(i) {
				want = broker.Outcome{State: broker.Exists, ExistingID: batch[i].Envelope.ID}
			}
			if o != want {
				t.Errorf("item %d, %s: %+v, want %+v", i, batch[i].Envelope.ID, o, want)
			}
		}
	}
	check(batch, func(i int) bool { return i == 0 || i == 1999 || i == 2000 || i == 4999 })
	check(batch[:10], func(int) bool { return true })
	twice := []broker.Publication{{Envelope: envelope("b")}, {Envelope: envelope("a")}, {Envelope: envelope("b")}, {Envelope: envelope(":b")}}
	check(twice, func(i int) bool { return i == 2 })

	want := []string{id(0), id(1999), id(2000), id(4999)}
	for i := range count {
		if i != 0 && i != 1999 && i != 2000 && i != 4999 {
			want = append(want, id(i))
		}
	}
	want = append(want, "b", "a", ":b")
	c := consumerOf(t, db, time.Minute)
	var got []string
	for len(got) < len(want) {
		x := exchange(t, c, nil, 1000)
		if len(x.Deliveries) == 0 {
			break
		}
		for _, d := range x.Deliveries {
			got = append(got, d.Envelope.ID)
		}
	}
	for i := range want {
		if i == len(got) || got[i] != want[i] {
			t.Fatalf("of %d delivered, number %d is not %s", len(got), i, want[i])
		}
	}
}
