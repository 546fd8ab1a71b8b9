package redis_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// breakKey puts a key of another type in the place of ours, and returns what undoes
// that.
func breakKey(t *testing.T, key string) (mend func()) {
	t.Helper()
	s := shared.Get(t)
	there := s.Do("EXISTS", key) == int64(1)
	if there {
		s.Do("RENAME", key, key+":kept")
	}
	if strings.Contains(key, ":claim:") || !strings.Contains(key, "}:") {
		s.Do("RPUSH", key, "of another type")
	} else {
		s.Do("SET", key, "of another type")
	}
	return sync.OnceFunc(func() {
		s.Do("DEL", key)
		if there {
			s.Do("RENAME", key+":kept", key)
		}
	})
}

// TestKeysOfAnotherType: one that belongs to a queue, a task or a claim stops what
// needs it, and says so, and nothing else. When it is gone, nothing is lost.
func TestKeysOfAnotherType(t *testing.T) {
	for key, stops := range map[string]string{ // what is refused meanwhile
		"q:q:5":    "",
		"b:q:5":    "",
		"d:q":      "delay retry followup",
		"e:first":  "",
		"c:second": "",
		"claim:k":  "claim",
		"t:other":  "",
		"j:MINUTE": "",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			aKeyOfAnotherType(t, key, stops)
		})
	}
}

func aKeyOfAnotherType(t *testing.T, key, stops string) {
	var logged logs
	m := meddled{T: t, stops: stops, at: time.Now()}
	ns := namespace()
	m.db = open(t, redis.Config{Namespace: ns, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	m.key = "{" + ns + ":0}:" + strings.Replace(key, "MINUTE", fmt.Sprintf("m%012d", m.at.Unix()-m.at.Unix()%60), 1)
	c, err := m.db.Broker().Open(t.Context(), broker.Subscription{Worker: "w", Queues: []string{"q", "beside"}, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	publishAll(t, m.db, m.in("q", "first"))
	first := exchange(t, c, nil, 1).Deliveries[0]
	mend := breakKey(t, m.key)
	defer mend()

	m.publish()
	m.end(first.Receipt)
	got := exchange(t, c, nil, 10).Deliveries
	var ids []string
	for _, d := range got {
		ids = append(ids, d.Receipt.ID)
		m.settle("release", broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Queued}})
	}
	if !slices.Contains(ids, "beside") {
		t.Error("the other queue is not served")
	}
	// It is told when what waits for it is moved into the line again.
	for began := time.Now(); key == "q:q:5" && !strings.Contains(logged.String(), m.key+" is another program's"); time.Sleep(10 * time.Millisecond) {
		exchange(t, c, nil, 0)
		if time.Since(began) > 30*time.Second {
			t.Fatalf("the log does not say which key and what to do: %s", logged.String())
		}
	}
	mend()
	left := map[string]bool{"plain": true, "beside": true}
	if stops != "claim" {
		left["second"] = true
	}
	for began := time.Now(); len(left) > 0; time.Sleep(10 * time.Millisecond) {
		for _, d := range exchange(t, c, nil, 10).Deliveries {
			if !left[d.Receipt.ID] {
				t.Errorf("received %s", d.Receipt.ID)
			}
			delete(left, d.Receipt.ID)
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("lost: %v; the log: %s", left, logged.String())
		}
	}
	if err := m.db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// meddled is a store in which a key is of another type.
type meddled struct {
	*testing.T
	db    *redis.DB
	key   string
	stops string // what cannot be done meanwhile
	at    time.Time
}

func (m *meddled) in(queue, id string) broker.Publication {
	e := envelope(id)
	e.Queue, e.EnqueuedAt = queue, m.at
	return broker.Publication{Envelope: e}
}

func (m *meddled) late() broker.Publication {
	p := m.in("q", "late")
	p.Envelope.NotBefore = m.at.Add(time.Hour)
	return p
}

// refused checks that what cannot be done is refused, with a word of the key, and
// that all else is done.
func (m *meddled) refused(what string, err error) {
	m.Helper()
	if strings.Contains(m.stops, what) != (err != nil) || err != nil && (!errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), m.key)) {
		m.Errorf("%s, while %s is of another type: %v", what, m.key, err)
	}
}

func (m *meddled) publish() {
	second := m.in("q", "second")
	second.Claims = []broker.Claim{{Key: "k"}}
	out := publishAll(m.T, m.db, m.in("beside", "beside"), m.late(), m.in("q", "plain"), second)
	for i, what := range []string{"beside", "delay", "plain", "claim"} {
		m.refused(what, out[i].Err)
	}
}

func (m *meddled) settle(what string, s broker.Settlement) {
	m.Helper()
	errs, err := m.db.Broker().Settle(m.Context(), []broker.Settlement{s})
	if err != nil {
		m.Fatal(err)
	}
	m.refused(what, errs[0])
}

// end settles a task: as one that is to be retried in an hour, and where that is
// refused as one that succeeded, with a follow-up that is for later, and without.
func (m *meddled) end(r broker.Receipt) {
	m.settle("retry", broker.Settlement{Receipt: r, Outcome: task.Outcome{
		State: task.Retried, NotBefore: m.at.Add(time.Hour), Error: &task.Error{Type: "e"}, Attempt: 1,
	}})
	if !strings.Contains(m.stops, "retry") {
		return
	}
	done := broker.Settlement{Receipt: r, Outcome: task.Outcome{State: task.Succeeded, Keep: time.Hour}}
	done.Followups = []broker.Publication{m.late()}
	m.settle("followup", done)
	done.Followups = nil
	m.settle("success", done)
}

// logs is a log that may be read meanwhile.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// While one partition fails, the others are served, each outcome has its own
// answer, and nothing is lost: neither what was taken of the others nor what was to
// be settled in the one.
func TestExchangeWithABrokenPartition(t *testing.T) {
	for _, key := range []string{"run", "lease", "due", "filled", "pauses"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			withBrokenPartition(t, key)
		})
	}
}

func withBrokenPartition(t *testing.T, key string) {
	const partitions, total, held, broken = 3, 60, 15, 1
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns, Partitions: partitions})
	for _, p := range publications(total) {
		p.Envelope.Queue = "q"
		publishAll(t, db, p)
	}
	c := consumerOf(t, db, time.Hour)
	var done []broker.Settlement
	state := make(map[string]error) // of what was settled
	take := func(x broker.Batch) {
		for _, d := range x.Deliveries {
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{State: task.Succeeded, Keep: time.Hour}})
		}
	}
	take(exchange(t, c, nil, held))
	settled := func(errs []error) {
		t.Helper()
		var again []broker.Settlement
		for i, err := range errs {
			id := done[i].Receipt.ID
			// A settlement alone may need none of the keys that are broken.
			if bad := redis.Partition(id, partitions) == broken; err != nil && (!bad || !errors.Is(err, broker.ErrUnavailable)) {
				t.Errorf("settling %s of partition %d: %v", id, redis.Partition(id, partitions), err)
			}
			if state[id] = err; err != nil {
				again = append(again, done[i])
			}
		}
		done = again
	}
	mend := breakKey(t, fmt.Sprintf("{%s:%d}:%s", ns, broken, key))
	defer mend()
	for range 20 {
		n := len(done)
		x, err := c.Exchange(t.Context(), done, nil, broker.Want{Count: 5})
		if err != nil {
			t.Fatalf("a sound partition is not served: %v", err)
		}
		settled(x.Settled[:n])
		take(x)
	}
	stranger := func(p int) broker.Settlement {
		return broker.Settlement{Receipt: broker.Receipt{ID: idIn(partitions, p), Epoch: 1}, Outcome: task.Outcome{State: task.Succeeded}}
	}
	errs, err := db.Broker().Settle(t.Context(), []broker.Settlement{stranger(broken), stranger(0), stranger(2)})
	if err != nil || !errors.Is(errs[0], broker.ErrUnavailable) || !strings.Contains(errs[0].Error(), ":"+key+" is another program's") ||
		!errors.Is(errs[1], broker.ErrLeaseLost) || !errors.Is(errs[2], broker.ErrLeaseLost) {
		t.Errorf("Settle: %v, %v; want the broken key named, and lost leases of the others", errs, err)
	}
	mend()
	for began := time.Now(); len(state) < total || len(done) > 0; time.Sleep(10 * time.Millisecond) {
		n := len(done)
		x, err := c.Exchange(t.Context(), done, nil, broker.Want{Count: 5})
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range x.Settled[:n] {
			// The step that failed may have settled it.
			if err != nil && (!errors.Is(err, broker.ErrLeaseLost) || state[done[i].Receipt.ID] == nil) {
				t.Errorf("settle afterwards: %v", err)
			}
			state[done[i].Receipt.ID] = nil
		}
		done = done[n:]
		take(x)
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d of %d tasks were received and settled", len(state)-len(done), total)
		}
	}
}

// idIn is an id that lies in that partition.
func idIn(partitions, p int) string {
	for {
		if id := task.NewID(); redis.Partition(id, partitions) == p {
			return id
		}
	}
}
