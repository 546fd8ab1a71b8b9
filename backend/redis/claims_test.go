package redis_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// A deployment of several partitions, in which a claim's key and its task lie apart.
type apart struct {
	*testing.T
	ns  string
	db  *redis.DB
	key string // of the claim k
}

const apartPartitions = 3

func newApart(t *testing.T) *apart {
	a := &apart{T: t, ns: namespace()}
	a.db = open(t, redis.Config{Namespace: a.ns, Partitions: apartPartitions})
	a.key = fmt.Sprintf("{%s:%d}:claim:k", a.ns, redis.Partition("k", apartPartitions))
	return a
}

// claiming is a task of the name and with the claim, which has so much time.
func (a *apart) claiming(name string, own time.Duration) broker.Publication {
	for n := 0; ; n++ {
		if id := name + strconv.Itoa(n); redis.Partition(id, apartPartitions) != redis.Partition("k", apartPartitions) {
			return broker.Publication{Envelope: envelope(id), Claims: []broker.Claim{{Key: "k", For: own}}}
		}
	}
}

// age makes the claim one that was taken so much earlier.
func (a *apart) age(by time.Duration) {
	a.Helper()
	s := shared.Get(a.T)
	value, _ := s.Do("GET", a.key).(string)
	id, since, _ := strings.Cut(value, " ")
	at, err := strconv.ParseInt(since, 10, 64)
	if err != nil {
		a.Fatalf("the claim is %q, and kept already", value)
	}
	s.Do("SET", a.key, fmt.Sprintf("%s %d", id, at-by.Milliseconds()), "KEEPTTL")
}

func (a *apart) publish(p broker.Publication) broker.Outcome {
	a.Helper()
	return publishAll(a.T, a.db, p)[0]
}

var ownTimes = map[string]time.Duration{"without a time": 0, "of an hour": time.Hour}

// A client that dies before it has stored its task leaves the claim to whoever asks
// half a minute later.
func TestClaimOfATaskThatWasNeverStored(t *testing.T) {
	for name, own := range ownTimes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApart(t)
			ghost := a.claiming("ghost", own)
			if out, err := redis.Abandon(t.Context(), a.db, ghost, false, false); err != nil || out.State != 0 {
				t.Fatal(out, err)
			}
			next := a.claiming("next", own)
			a.age(-time.Hour) // so that no machine is too slow for "at once"
			if out := a.publish(next); out.State != broker.Duplicate || out.ExistingID != ghost.Envelope.ID {
				t.Errorf("at once: %+v, want a duplicate of the one that is about to be stored", out)
			}
			a.age(time.Hour + 31*time.Second)
			if out := a.publish(next); out.State != broker.Stored {
				t.Errorf("half a minute later: %+v", out)
			}
			if out := a.publish(a.claiming("third", own)); out.State != broker.Duplicate || out.ExistingID != next.Envelope.ID {
				t.Errorf("while that one is there: %+v", out)
			}
			a.check()
		})
	}
}

// A client that stalls for long between the two steps does not store a task whose
// claim may be another's by now.
func TestClaimThatWasTakenTooLongAgo(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	p := a.claiming("slow", 0)
	out, err := redis.Abandon(t.Context(), a.db, p, true, true)
	if err != nil || out.State != broker.Refused || !errors.Is(out.Err, broker.ErrUnavailable) {
		t.Fatal(out, err)
	}
	if out := a.publish(p); out.State != broker.Stored {
		t.Errorf("a second try: %+v", out)
	}
	a.check()
}

// A client that dies after it has stored its task has left word of its claim:
// whoever receives keeps it, and the task's end releases it.
func TestClaimOfAClientThatDied(t *testing.T) {
	for name, own := range ownTimes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApart(t)
			first := a.claiming("first", own)
			if out, err := redis.Abandon(t.Context(), a.db, first, true, false); err != nil || out.State != broker.Stored {
				t.Fatal(out, err)
			}
			a.age(time.Hour) // its task is there, so nobody takes it over
			next := a.claiming("next", own)
			if out := a.publish(next); out.State != broker.Duplicate || out.ExistingID != first.Envelope.ID {
				t.Errorf("before it is kept: %+v", out)
			}
			c, s := consumerOf(t, a.db, time.Hour), shared.Get(t)
			var held []broker.Delivery
			for began := time.Now(); s.Do("GET", a.key) != first.Envelope.ID; time.Sleep(50 * time.Millisecond) {
				held = append(held, exchange(t, c, nil, 1).Deliveries...)
				if time.Since(began) > time.Minute {
					t.Fatalf("the claim is still %v", s.Do("GET", a.key))
				}
			}
			if left := s.Do("PTTL", a.key).(int64); (left == -1) != (own == 0) {
				t.Errorf("it is kept for %d ms, want %s", left, own)
			}
			if len(held) != 1 {
				t.Fatalf("%d deliveries", len(held))
			}
			done := broker.Settlement{Receipt: held[0].Receipt, Outcome: task.Outcome{State: task.Succeeded}, Release: []string{"k"}}
			if errs, err := a.db.Broker().Settle(t.Context(), []broker.Settlement{done}); err != nil || errs[0] != nil {
				t.Fatal(errs, err)
			}
			if out := a.publish(next); out.State != broker.Stored {
				t.Errorf("when its task has ended: %+v", out)
			}
			a.check()
		})
	}
}

// A task that ends before its claim is kept releases it for good.
func TestClaimThatIsReleasedBeforeItIsKept(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	first := a.claiming("first", 0)
	if out, err := redis.Abandon(t.Context(), a.db, first, true, false); err != nil || out.State != broker.Stored {
		t.Fatal(out, err)
	}
	d := exchange(t, consumerOf(t, a.db, time.Hour), nil, 1).Deliveries
	if len(d) != 1 {
		t.Fatalf("%d deliveries", len(d))
	}
	if errs, err := a.db.Broker().Settle(t.Context(), []broker.Settlement{{Receipt: d[0].Receipt, Outcome: task.Outcome{State: task.Succeeded}}}); err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	s, c, next := shared.Get(t), consumerOf(t, a.db, time.Hour), a.claiming("next", 0)
	outbox := fmt.Sprintf("{%s:%d}:outbox", a.ns, redis.Partition(first.Envelope.ID, apartPartitions))
	for began := time.Now(); s.Do("ZCARD", outbox) != int64(0); time.Sleep(50 * time.Millisecond) {
		exchange(t, c, nil, 0)
		if time.Since(began) > time.Minute {
			t.Fatal("the outbox is not emptied")
		}
	}
	if out := a.publish(next); out.State != broker.Stored {
		t.Errorf("after that: %+v", out)
	}
	if got := s.Do("GET", a.key); got != next.Envelope.ID {
		t.Errorf("the claim is %v's, want %s's", got, next.Envelope.ID)
	}
	a.check()
}

// A claim whose key is of another type stops what needs it, and says so.
func TestClaimOfAnotherTypeElsewhere(t *testing.T) {
	t.Parallel()
	a := newApart(t)
	mend := breakKey(t, a.key)
	defer mend()
	p := a.claiming("a", 0)
	out := publishAll(t, a.db, p, broker.Publication{Envelope: envelope("beside")})
	if out[0].State != broker.Refused || !strings.Contains(out[0].Err.Error(), a.key) || out[1].State != broker.Stored {
		t.Errorf("%+v", out)
	}
	mend()
	if out := a.publish(p); out.State != broker.Stored {
		t.Errorf("when the key is gone: %+v", out)
	}
	a.check()
}

func (a *apart) check() {
	a.Helper()
	if err := a.db.Check(a.Context()); err != nil {
		a.Error(err)
	}
}
