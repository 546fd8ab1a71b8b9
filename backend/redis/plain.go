package redis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// lot is what the plain script stores together: tasks of one line and of one list
// of the journal.
type lot struct {
	line
	items []int
}

type line struct {
	queue    string
	priority int
	list     journalList
}

// lotMost is how many keys with their values Lua can hand to one command, and much
// room.
const lotMost = 2000

// journalList is a list of the journal: of the second, or the minute, that begins
// with a second since 1970.
type journalList struct {
	minute bool
	begin  int64
}

func (l journalList) name() string {
	letter := byte('s')
	if l.minute {
		letter = 'm'
	}
	return string(appendPadded([]byte{letter}, l.begin, 12))
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
// line and all at once, so an id that is there twice needs the other, as does one
// whose key is another: see task_key in lua/common.lua.
func plain(batch []broker.Publication, items []int) bool {
	for _, i := range items {
		e := batch[i].Envelope
		if e.ID[0] == ':' || len(batch[i].Claims) > 0 || !e.NotBefore.IsZero() || e.VisibilityTimeout > 0 || e.Attempt > 0 {
			return false
		}
	}
	return !repeats(batch, items)
}

// repeats reports whether an id is there twice.
func repeats(batch []broker.Publication, items []int) bool {
	rising := true // as ids are that one process made
	for k := 1; k < len(items) && rising; k++ {
		rising = batch[items[k]].Envelope.ID > batch[items[k-1]].Envelope.ID
	}
	if rising {
		return false
	}
	ids := make([]string, len(items))
	for k, i := range items {
		ids[k] = batch[i].Envelope.ID
	}
	slices.Sort(ids)
	return len(slices.Compact(ids)) < len(items)
}

// appendPlain appends the call of the plain script that stores the items, and
// returns them in its order.
func (db *DB) appendPlain(calls []call, partition int, batch []broker.Publication, items []int, data [][]byte, now int64) ([]int, []call) {
	size := 0
	for _, i := range items {
		size += len(data[i])
	}
	lots := db.lots(partition, batch, items)
	args, order, values := make([]string, 0, 3*len(lots)+2*len(items)), make([]int, 0, len(items)), make([]byte, 0, size)
	for _, l := range lots {
		args = append(args, l.queue+":"+strconv.Itoa(l.priority), l.list.name(), strconv.Itoa(len(l.items)))
		for _, i := range l.items {
			e, from := batch[i].Envelope, len(values)
			values = appendValue(values, e, data[i], now)
			args = append(args, e.ID, rueidis.BinaryString(values[from:]))
		}
		order = append(order, l.items...)
	}
	return order, append(calls, call{db.scripts.plain, partition, args})
}

// lots sorts the items of a partition.
func (db *DB) lots(partition int, batch []broker.Publication, items []int) (lots []lot) {
	of := func(i int) line {
		e := batch[i].Envelope
		return line{e.Queue, e.Priority, db.crowd.list(partition, e.EnqueuedAt.Unix())}
	}
	first, one := of(items[0]), true
	for _, i := range items[1:] {
		one = one && of(i) == first
	}
	if one && len(items) <= lotMost { // as they are most of the time
		return []lot{{first, items}}
	}
	place := make(map[line]int) // of the lot that has room
	for _, i := range items {
		l := of(i)
		k, ok := place[l]
		if !ok || len(lots[k].items) == lotMost {
			k, place[l] = len(lots), len(lots)
			lots = append(lots, lot{line: l})
		}
		lots[k].items = append(lots[k].items, i)
	}
	return lots
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
