package storetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// limiters are the rules of limiters, for backends that have one.
func limiters(test func(e *env)) func(e *env) {
	return func(e *env) {
		if e.Limiter != nil {
			test(e)
		}
	}
}

// reserve takes slots from a limiter, in one batch.
func (e *env) reserve(l store.Limiter, batch ...store.Reservation) []store.Slot {
	e.Helper()
	before := time.Now()
	slots, err := l.Reserve(e.ctx, batch)
	if err != nil || len(slots) != len(batch) {
		e.Fatalf("Reserve of %d: %d answers, error %v", len(batch), len(slots), err)
	}
	for i, s := range slots {
		if s.Err != nil {
			continue
		}
		asked := s.At.Add(-s.Wait)
		if s.Wait < 0 || asked.Before(before.Add(-e.o.Slack)) || asked.After(time.Now().Add(e.o.Slack)) {
			e.Fatalf("slot %d is at %s after a wait of %s, and was asked for about %s", i, s.At, s.Wait, before)
		}
	}
	return slots
}

// times is n reservations of one key.
func times(n int, key string, rate store.Rate) []store.Reservation {
	return slices.Repeat([]store.Reservation{{Key: key, Rate: rate}}, n)
}

// history is the slots of one line in the order in which they were given.
type history struct {
	rate  store.Rate
	slots []store.Slot
}

// add checks slots against the rule itself, slowly: each is the earliest moment
// from its asking on at which no span that ends with it has too many.
func (h *history) add(e *env, what string, slots ...store.Slot) {
	e.Helper()
	for _, s := range slots {
		want := s.At.Add(-s.Wait) // when it was asked for
		for i, earlier := range h.slots {
			surplus := len(h.slots) - i + 1 - max(h.rate.Burst, 1) // of the span from there on
			if t := earlier.At.Add(time.Duration(surplus) * h.rate.Interval()); t.After(want) {
				want = t
			}
		}
		if s.Err != nil || !s.At.Equal(want) {
			e.Fatalf("%s: slot %d at %s: got %s (error %v), want %s", what, len(h.slots), h.rate, s.At, s.Err, want)
		}
		h.slots = append(h.slots, s)
	}
}

// testR1: the rate, the burst, and the earliest slot that both allow.
func testR1(e *env) {
	for i, rate := range []store.Rate{
		{Count: 1, Per: 10 * time.Millisecond},
		{Count: 300, Per: time.Second, Burst: 1},
		{Count: 7, Per: 50 * time.Millisecond, Burst: 4},
		{Count: 100_000, Per: time.Second, Burst: 50},
		{Count: 3, Per: 24 * time.Hour, Burst: 2},
	} {
		h := history{rate: rate}
		key := fmt.Sprintf("r1-%d", i)
		for round, n := range []int{1, 1, 6, 2, 9, 1, 3} {
			slots := e.reserve(e.Limiter, times(n, key, rate)...)
			h.add(e, fmt.Sprintf("round %d", round), slots...)
			if round%3 == 2 { // let some of the burst come back
				time.Sleep(min(3*rate.Interval(), 30*time.Millisecond))
			}
		}
	}
	burst := store.Rate{Count: 1, Per: time.Hour, Burst: 5}
	for i, s := range e.reserve(e.Limiter, times(6, "unused", burst)...) {
		if free := i < 5; free != (s.Wait == 0) {
			e.Errorf("slot %d of a fresh key with a burst of 5: wait %s", i, s.Wait)
		}
	}
}

// testR2: one order for all who ask, wherever they do.
func testR2(e *env) {
	other := e.Limiter
	if e.o.Reopen != nil {
		other = e.o.Reopen(e.TB, e.Backend).Limiter
	}
	rate := store.Rate{Count: 10, Per: time.Second, Burst: 2}
	h := history{rate: rate}
	for i := range 6 {
		h.add(e, "the first handle", e.reserve(e.Limiter, times(i+1, "shared", rate)...)...)
		h.add(e, "the second handle", e.reserve(other, times(2, "shared", rate)...)...)
	}

	var mu sync.Mutex
	var all []time.Time
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			l := []store.Limiter{e.Limiter, other}[w%2]
			for range 5 {
				slots, err := l.Reserve(e.ctx, times(4, "crowd", rate))
				if err != nil {
					e.Errorf("Reserve beside others: %v", err)
					return
				}
				mu.Lock()
				for _, s := range slots {
					all = append(all, s.At)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, time.Time.Compare)
	for i := range all {
		for j := i + rate.Burst; j < len(all); j++ {
			if least := time.Duration(j-i+1-rate.Burst) * rate.Interval(); all[j].Sub(all[i]) < least {
				e.Fatalf("of %d slots taken at once, %d lie within %s, want %s or more", len(all), j-i+1, all[j].Sub(all[i]), least)
			}
		}
	}
}

// testR3: keys are apart, and a rate is whoever's who asks.
func testR3(e *env) {
	slow, quick := store.Rate{Count: 1, Per: time.Hour}, store.Rate{Count: 10, Per: time.Second}
	e.reserve(e.Limiter, times(20, "a", slow)...)
	mixed := e.reserve(e.Limiter,
		store.Reservation{Key: "b", Rate: slow}, store.Reservation{Key: "a", Rate: slow}, store.Reservation{Key: "A", Rate: slow},
		store.Reservation{Key: "b", Rate: quick}, store.Reservation{Key: "b", Rate: quick})
	if mixed[0].Wait != 0 || mixed[2].Wait != 0 {
		e.Errorf("keys that nobody used wait %s and %s behind another", mixed[0].Wait, mixed[2].Wait)
	}
	if mixed[1].Wait < 19*time.Hour {
		e.Errorf("the 21st of a key, at one an hour, waits %s", mixed[1].Wait)
	}
	if gap := mixed[3].At.Sub(mixed[0].At); gap != slow.Interval() {
		e.Errorf("after a slot at %s the next one comes after %s", slow, gap)
	}
	if gap := mixed[4].At.Sub(mixed[3].At); gap != quick.Interval() {
		e.Errorf("after a slot at %s, which the rate is now, the next one comes after %s", quick, gap)
	}
	long := store.Reservation{Key: strings.Repeat("k", store.MaxLimitKey), Rate: slow}
	odd := store.Reservation{Key: "task:a b/c.d\x00é", Rate: slow}
	for i, s := range e.reserve(e.Limiter, long, odd) {
		if s.Err != nil || s.Wait != 0 {
			e.Errorf("key %d: %+v", i, s)
		}
	}
}

// testR4: who asks again does not wait behind all, nor do they behind him.
func testR4(e *env) {
	rate := store.Rate{Count: 1, Per: time.Second, Burst: 3}
	first, again := history{rate: rate}, history{rate: store.Rate{Count: 1, Per: time.Second}}
	first.add(e, "the line", e.reserve(e.Limiter, times(50, "k", rate)...)...)
	for range 3 {
		r := store.Reservation{Key: "k", Rate: rate, Again: true}
		slots := e.reserve(e.Limiter, r, store.Reservation{Key: "k", Rate: rate}, r)
		again.add(e, "who asks again", slots[0], slots[2])
		first.add(e, "the line beside who asks again", slots[1])
	}
	if wait := again.slots[1].Wait; wait > time.Second {
		e.Errorf("the second that asks again waits %s", wait)
	}
}

// testR5: what cannot be is refused, and costs nobody anything.
func testR5(e *env) {
	rate := store.Rate{Count: 1, Per: time.Minute}
	good := store.Reservation{Key: "k", Rate: rate}
	bad := []store.Reservation{
		{Rate: rate},
		{Key: strings.Repeat("k", store.MaxLimitKey+1), Rate: rate},
		{Key: "k"},
		{Key: "k", Rate: store.Rate{Count: -1, Per: time.Second}},
		{Key: "k", Rate: store.Rate{Count: 1, Per: -time.Second}},
		{Key: "k", Rate: store.Rate{Count: 1, Per: 400 * 24 * time.Hour}},
		{Key: "k", Rate: store.Rate{Count: 1_000_000, Per: time.Second}},
		{Key: "k", Rate: store.Rate{Count: 1, Per: time.Hour, Burst: -1}},
		{Key: "k", Rate: store.Rate{Count: 1, Per: time.Hour, Burst: 1 << 40}},
		{Key: "k", Rate: store.Rate{Count: 1, Per: 24 * time.Hour, Burst: 1000}},
	}
	batch := []store.Reservation{good}
	for _, b := range bad {
		batch = append(batch, b, good)
	}
	h := history{rate: rate}
	for i, s := range e.reserve(e.Limiter, batch...) {
		if i%2 == 0 {
			h.add(e, "between bad ones", s)
		} else {
			e.is(fmt.Sprintf("a reservation of %+v", batch[i]), s.Err, task.ErrInvalid)
		}
	}
	if slots := e.reserve(e.Limiter); len(slots) != 0 {
		e.Errorf("a batch of none has %d answers", len(slots))
	}
}

// testR6: contexts, many keys, and the end.
func testR6(e *env) {
	rate := store.Rate{Count: 1, Per: 10 * time.Millisecond}
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err := e.Limiter.Reserve(cancelled, times(1, "k", rate))
	e.is("Reserve with a cancelled context", err, context.Canceled)

	var keys []store.Reservation
	for i := range 1200 {
		keys = append(keys, store.Reservation{Key: fmt.Sprintf("key-%d", i), Rate: rate})
	}
	for range 2 {
		for _, s := range e.reserve(e.Limiter, keys...) {
			if s.Err != nil || s.Wait > 2*rate.Interval() {
				e.Fatalf("one of many keys: %+v", s)
			}
		}
		time.Sleep(4 * rate.Interval())
	}
	kept := e.reserve(e.Limiter, store.Reservation{Key: "kept", Rate: store.Rate{Count: 1, Per: time.Hour}})
	for i := range 1200 {
		keys[i].Key = fmt.Sprintf("more-%d", i)
	}
	e.reserve(e.Limiter, keys...)
	if s := e.reserve(e.Limiter, store.Reservation{Key: "kept", Rate: rate})[0]; s.At.Sub(kept[0].At) != time.Hour {
		e.Errorf("a key in use was forgotten when many others came: its next slot is %s after its last", s.At.Sub(kept[0].At))
	}

	b, ok := e.Limiter.(io.Closer)
	if !ok {
		e.Fatalf("%T cannot be closed: a limiter is a broker", e.Limiter)
	}
	if err := b.Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	_, err = e.Limiter.Reserve(e.ctx, times(1, "k", rate))
	e.is("Reserve after Close", err, broker.ErrClosed)
}
