package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// selection is what a consumer asks one partition for.
type selection struct {
	consumer *consumer
	queues   string // in the order to serve
	count    int
	bytes    int
	turn     int
	waits    bool // it believes that it is registered there as waiting
	called   bool // it was called from there
	holds    bool // it holds something
	strict   bool // the first delivery too must fit into bytes
}

// ask is what one exchange sends to one partition, by the indexes of the
// caller's slices.
type ask struct {
	partition int
	done      []int
	live      []int
	sel       *selection // nil: settles and renews alone
}

// answer is what comes back.
type answer struct {
	err              error // there is none; the rest is empty
	settled, renewed string
	revoked          []broker.Revoked
	deliveries       []broker.Delivery
	values           []string      // of the deliveries; see holding
	next             time.Duration // -1: nothing is to come
	more             bool
	patience         time.Duration // others keep the time for so long; below 0: it does not wait there
	skipped          int
	now              int64  // ms, by the server's clock
	foreign          string // a key that is not ours and was met; "": none
}

// maxIDs is how many settlements and renewals one script takes: Lua's stack
// bounds them.
const maxIDs = 3000

// exchangeCall makes the arguments of an ask.
func (db *DB) exchangeCall(a *ask, done []settlement, live []broker.Renewal, renewals [][]string) call {
	args := make([]string, 0, 12+5*len(a.done)+6*len(a.live))
	if s := a.sel; s != nil {
		believes := ""
		if s.waits {
			believes = "w"
		}
		if s.called {
			believes += "c"
		}
		if s.holds {
			believes += "n"
		}
		if s.strict {
			believes += "s"
		}
		c := s.consumer
		args = append(args, c.name, c.worker, c.lease, strconv.Itoa(s.count), strconv.Itoa(s.bytes),
			s.queues, c.queues, strconv.Itoa(s.turn), believes)
	} else {
		args = append(args, "", "", "", "", "", "", "", "", "")
	}
	args = append(args, strconv.Itoa(len(a.done)), strconv.Itoa(len(a.live)))
	for _, i := range a.done {
		args = append(args, done[i].id)
	}
	for _, i := range a.live {
		args = append(args, live[i].Receipt.ID)
	}
	for _, i := range a.done {
		args = append(args, done[i].args...)
	}
	for _, i := range a.live {
		args = append(args, renewals[i]...)
	}
	return call{db.scripts.exchange, a.partition, args}
}

// exchanges runs asks side by side. There is an error when none of them was
// answered, or ctx has ended; else each answer says whether it is one.
func (db *DB) exchanges(ctx context.Context, asks []ask, done []settlement, live []broker.Renewal, renewals [][]string) ([]answer, error) {
	calls := make([]call, len(asks))
	for i := range asks {
		calls[i] = db.exchangeCall(&asks[i], done, live, renewals)
	}
	began := time.Now()
	msgs, errs := db.runAll(ctx, calls)
	ended := time.Now()
	answers := make([]answer, len(asks))
	var failed error
	answered := 0
	for i := range msgs {
		err := errs[i]
		if err == nil {
			if err = answers[i].read(&msgs[i], &asks[i]); err != nil {
				err = fmt.Errorf("script exchange: %w: %w", broker.ErrUnavailable, err)
			}
		}
		if answers[i].err = err; err == nil {
			answered++
			db.heardTime(answers[i].now, began, ended)
		}
		failed = cmp.Or(failed, err)
	}
	if answered > 0 && ctx.Err() == nil {
		failed = nil
	}
	return answers, failed
}

// read takes the exchange script's answer apart.
func (a *answer) read(m *rueidis.RedisMessage, q *ask) error {
	list, err := m.ToArray()
	if err != nil || len(list) < 8 || len(list)%3 != 2 {
		return fmt.Errorf("the server's answer is of another form (%w)", err)
	}
	texts := [4]string{}
	for i := range texts {
		if texts[i], err = list[i].ToString(); err != nil {
			return err
		}
	}
	numbers := [4]int64{}
	for i := range numbers {
		if numbers[i], err = list[4+i].AsInt64(); err != nil {
			return err
		}
	}
	a.settled, a.renewed = texts[0], texts[1]
	if len(a.settled) != len(q.done) || len(a.renewed) != len(q.live) {
		return errForeign
	}
	a.next, a.more, a.skipped = time.Duration(numbers[0])*time.Millisecond, numbers[1] == 1, int(numbers[3])
	if numbers[0] < 0 {
		a.next = -1
	}
	a.patience = time.Duration(numbers[2]) * time.Millisecond
	a.revoked = readNews(texts[2])
	epoch, err := a.readMarks(texts[3])
	if err != nil {
		return err
	}
	if len(list) == 8 {
		return nil
	}
	a.deliveries, a.values = make([]broker.Delivery, 0, len(list)/3-2), make([]string, 0, len(list)/3-2)
	for i := 8; i < len(list); i += 3 {
		if err := a.delivery(list[i:i+3], epoch, q.sel); err != nil {
			return err
		}
		epoch++
	}
	return nil
}

// readMarks reads the first epoch, the server's time, and a key that is not ours.
func (a *answer) readMarks(text string) (epoch int64, err error) {
	words := strings.SplitN(text, " ", 3)
	if len(words) < 2 {
		return 0, errForeign
	}
	n := numbers{}
	epoch, a.now = n.int(words[0]), n.int(words[1])
	if len(words) == 3 {
		a.foreign = words[2]
	}
	return epoch, n.err
}

// keepWhole is up to which size an ended task keeps its value whole; see trim in
// lua/common.lua.
const keepWhole = 1500

// delivery adds one delivery: its id, value, and run record.
func (a *answer) delivery(m []rueidis.RedisMessage, epoch int64, sel *selection) error {
	id, err := m[0].ToString()
	if err != nil {
		return err
	}
	v, err := m[1].ToString()
	if err != nil {
		return err
	}
	line, err := m[2].ToString()
	if err != nil {
		return err
	}
	d := broker.Delivery{Receipt: broker.Receipt{ID: id, Epoch: epoch}, Lease: sel.consumer.sub.Lease}
	p, err := parseValue(v)
	if err != nil {
		p = value{envelope: v[min(len(v), strings.IndexByte(v, '\n')+1):]}
		d.Malformed = fmt.Errorf("%w value: %w", task.ErrInvalid, err)
	}
	d.Size, d.Queue, d.Attempt = p.size(id), p.queue, p.attempt
	if p.flag&flagDelayed != 0 {
		d.NotBefore = moment(p.notBefore)
	}
	if line != "" {
		r, err := parseRun(line)
		if err != nil {
			return err
		}
		d.Queue, d.Attempt, d.RetryBase, d.Starts, d.Replays = r.queue, r.attempt, r.base, r.starts, r.replays
		d.Redelivered, d.Reserved = r.has(runRedelivered), r.has(runReserved)
		d.NotBefore, d.Lease = moment(r.notBefore), time.Duration(r.lease)*time.Millisecond
	}
	if d.Malformed == nil {
		d.Envelope, d.Malformed = p.decode(id)
		if d.Malformed == nil && d.Envelope.ID != id {
			d.Malformed = fmt.Errorf("%w envelope: it is stored as %s and says %s", task.ErrInvalid, id, d.Envelope.ID)
		}
	}
	if d.Malformed != nil {
		d.Envelope = &task.Envelope{ID: id}
	}
	a.deliveries = append(a.deliveries, d)
	if p.flag == flagBare {
		v, p.flag = p.cut(v), 0
	}
	if line != "" || p.flag != 0 || len(v) > keepWhole || d.Malformed != nil {
		v = ""
	}
	a.values = append(a.values, v)
	return nil
}

// readNews reads what a consumer is told of revocations: a line "ID EPOCH
// TERMINATE REASON" each.
func readNews(text string) (list []broker.Revoked) {
	for line := range strings.Lines(text) {
		w := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(w) < 4 {
			continue
		}
		epoch, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil {
			continue
		}
		v := broker.Revoked{Receipt: broker.Receipt{ID: w[0], Epoch: epoch}, Terminate: w[2] == "1"}
		if json.Unmarshal([]byte(w[3]), &v.Reason) != nil {
			v.Reason = task.ReasonRevoked
		}
		list = append(list, v)
	}
	return list
}

// verdicts writes a partition's letters to where the caller's items are. Of what
// was not answered nobody knows what became: each item has the error.
func (a *answer) verdicts(letters string, at []int, errs []error) {
	for k, i := range at {
		if a.err != nil {
			errs[i] = a.err
			continue
		}
		switch letters[k] {
		case 'l':
			errs[i] = broker.ErrLeaseLost
		case 'f':
			errs[i] = wrongType(a.foreign, nil)
		}
	}
}

// settleAndRenew settles and renews without a consumer.
func (db *DB) settleAndRenew(ctx context.Context, done []broker.Settlement, live []broker.Renewal) (settled, renewed []error, err error) {
	items, renewals, settled, renewed := db.prepareAll(done, live, nil)
	for _, asks := range db.asks(items, live, renewed) {
		answers, err := db.exchanges(ctx, asks, items, live, renewals)
		if err != nil {
			return nil, nil, err
		}
		for i := range asks {
			answers[i].verdicts(answers[i].settled, asks[i].done, settled)
			answers[i].verdicts(answers[i].renewed, asks[i].live, renewed)
		}
	}
	db.deliver(ctx, parcelsOf(db, items, settled))
	return settled, renewed, nil
}

// parcelsOf lists what the settlements that were applied wrote to outboxes.
func parcelsOf(db *DB, items []settlement, settled []error) (parcels []parcel) {
	for i := range items {
		if settled[i] != nil {
			continue
		}
		for _, e := range items[i].sent {
			parcels = append(parcels, parcel{db.partition(items[i].id), e})
		}
	}
	return parcels
}

// prepareAll makes the arguments of settlements and renewals, and the slices
// for their answers, which have the errors of those that are refused.
func (db *DB) prepareAll(done []broker.Settlement, live []broker.Renewal, held map[string]holding) (items []settlement, renewals [][]string, settled, renewed []error) {
	now := db.clock()
	items, settled = make([]settlement, len(done)), make([]error, len(done))
	for i := range done {
		value := ""
		if h := held[done[i].Receipt.ID]; h.epoch == done[i].Receipt.Epoch {
			value = h.value
		}
		items[i] = db.newSettlement(&done[i], value, now)
		settled[i] = items[i].refused
	}
	renewals, renewed = make([][]string, len(live)), make([]error, len(live))
	for i := range live {
		renewals[i], renewed[i] = renewalArgs(nil, &live[i])
	}
	return items, renewals, settled, renewed
}

// asks spreads settlements and renewals over partitions, in rounds of what one
// script takes.
func (db *DB) asks(items []settlement, live []broker.Renewal, renewed []error) [][]ask {
	var rounds [][]ask
	at := make([]int, len(db.tags)) // rounds of each partition
	add := func(id string) *ask {
		p := db.partition(id)
		for {
			if at[p] == len(rounds) {
				rounds = append(rounds, nil)
			}
			round := rounds[at[p]]
			k := -1
			for i := range round {
				if round[i].partition == p {
					k = i
				}
			}
			if k < 0 {
				rounds[at[p]] = append(round, ask{partition: p})
				k = len(round)
			}
			a := &rounds[at[p]][k]
			if len(a.done)+len(a.live) < maxIDs {
				return a
			}
			at[p]++
		}
	}
	for i := range items {
		if items[i].refused == nil {
			a := add(items[i].id)
			a.done = append(a.done, i)
		}
	}
	for i := range live {
		if renewed[i] == nil {
			a := add(live[i].Receipt.ID)
			a.live = append(a.live, i)
		}
	}
	return rounds
}
