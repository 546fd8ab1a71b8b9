package redis

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// lot is what the plain script stores together: tasks of one line and of one list
// of the journal.
type lot struct {
	queue    string
	priority int
	list     journalList
}

// lotMost is how many values Lua can hand to one command, and some room.
const lotMost = 4000

// journalList is a list of the journal: of the second, or the minute, that begins
// with a second since 1970.
type journalList struct {
	minute bool
	begin  int64
}

func (l journalList) name() string {
	if l.minute {
		return fmt.Sprintf("m%012d", l.begin)
	}
	return fmt.Sprintf("s%012d", l.begin)
}

// crowd has for each partition the last minute whose list was long, so that what
// follows goes to those of its seconds. Other processes may add to it meanwhile,
// and have their own.
type crowd []atomic.Int64

// list is where the journal notes what was enqueued in a second.
func (c crowd) list(partition int, second int64) journalList {
	if minute := minuteOf(second); c[partition].Load() != minute {
		return journalList{true, minute}
	}
	return journalList{false, second}
}

func (c crowd) note(partition int, second int64) { c[partition].Store(minuteOf(second)) }

func minuteOf(second int64) int64 { return second - second%60 }

// plain reports whether the plain script can store the items. It takes them line by
// line, so the first of an id that is there twice might not be the one that counts.
func plain(batch []broker.Publication, items []int) bool {
	first, mixed := batch[items[0]].Envelope, false
	for _, i := range items {
		e := batch[i].Envelope
		if len(batch[i].Claims) > 0 || !e.NotBefore.IsZero() || e.VisibilityTimeout > 0 || e.Attempt > 0 {
			return false
		}
		mixed = mixed || e.Queue != first.Queue || e.Priority != first.Priority || e.EnqueuedAt.Unix() != first.EnqueuedAt.Unix()
	}
	return !mixed || !repeats(batch, items)
}

// repeats reports whether an id is there twice.
func repeats(batch []broker.Publication, items []int) bool {
	seen := make(map[string]struct{}, len(items))
	for _, i := range items {
		seen[batch[i].Envelope.ID] = struct{}{}
	}
	return len(seen) < len(items)
}

// appendPlain appends the call of the plain script that stores the items, and
// returns them in its order.
func (db *DB) appendPlain(calls []call, partition int, batch []broker.Publication, items []int, data [][]byte, now int64) ([]int, []call) {
	args, order := make([]string, 0, 3+2*len(items)), make([]int, 0, len(items))
	add := func(l lot, items []int) {
		args = append(args, l.queue+":"+strconv.Itoa(l.priority), l.list.name(), strconv.Itoa(len(items)))
		for _, i := range items {
			e := batch[i].Envelope
			args = append(args, e.ID, rueidis.BinaryString(newValue(e, data[i], now)))
		}
		order = append(order, items...)
	}
	lotOf := func(i int) lot {
		e := batch[i].Envelope
		return lot{e.Queue, e.Priority, db.crowd.list(partition, e.EnqueuedAt.Unix())}
	}
	if len(items) == 1 {
		add(lotOf(items[0]), items)
		return order, append(calls, call{db.scripts.plain, partition, args})
	}
	var lots []lot
	of := make(map[lot][]int)
	for _, i := range items {
		l := lotOf(i)
		if of[l] == nil {
			lots = append(lots, l)
		}
		if of[l] = append(of[l], i); len(of[l]) == lotMost {
			add(l, of[l])
			of[l] = of[l][:0:0]
		}
	}
	for _, l := range lots {
		if len(of[l]) > 0 {
			add(l, of[l])
		}
	}
	return order, append(calls, call{db.scripts.plain, partition, args})
}

// publishedPlain reads what the plain script says of the items.
func (db *DB) publishedPlain(m rueidis.RedisMessage, partition int, items []int, batch []broker.Publication, out []broker.Outcome) error {
	reply, err := m.ToString()
	if err != nil {
		return fmt.Errorf("%w: the server's answer is of another form (%w)", broker.ErrUnavailable, err)
	}
	places, crowded := strings.CutPrefix(reply, "c")
	if crowded {
		db.crowd.note(partition, batch[items[len(items)-1]].Envelope.EnqueuedAt.Unix())
	}
	for _, i := range items {
		out[i] = broker.Outcome{State: broker.Stored}
	}
	for word := range strings.FieldsSeq(places) {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > len(items) {
			return fmt.Errorf("%w: the server's answer has the place %q, of %d", broker.ErrUnavailable, word, len(items))
		}
		i := items[n-1]
		out[i] = broker.Outcome{State: broker.Exists, ExistingID: batch[i].Envelope.ID}
	}
	return nil
}
