package pair

import (
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// held is what a join remembers of a delivery that it handed out. Another
// process's it does not know; nothing but speed depends on it.
type held struct {
	by       *consumer      // nil: handed out elsewhere
	receipt  broker.Receipt // as it was handed out
	envelope *task.Envelope
	lease    time.Duration
	until    time.Time          // by this process's clock the lease lasts at least so long
	counted  bool               // the broker counted its start
	shown    bool               // the result store knows of its start
	reserved bool               // it came with a slot of a rate limit, which the result store shows
	revoked  *broker.Revocation // somebody asked that it ends

	// settling is its outcome, from when it may be recorded until the broker
	// has confirmed the settlement: that and no other is to be settled. With
	// stored it is recorded for sure.
	settling *broker.Settlement
	stored   bool
}

// trusted reports whether nobody else can have taken the task by now.
func (h *held) trusted(now time.Time) bool {
	margin := min(h.lease/4, 2*time.Second)
	return h.by != nil && now.Before(h.until.Add(-margin))
}

const (
	minSweep = 10_000      // as long as fewer are held, nothing is looked through
	oldLease = time.Minute // so long after its lease, what is held is forgotten
)

// hold remembers deliveries of a call that began at that moment, and gives
// their receipts the join's own form.
func (j *Joined) hold(c *consumer, deliveries []broker.Delivery, began time.Time) {
	if len(deliveries) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range deliveries {
		d := &deliveries[i]
		k := keyOf(d.Receipt)
		d.Receipt = mark(d.Receipt, d.Attempt, d.Replays)
		j.held[k] = &held{
			by: c, receipt: d.Receipt, envelope: d.Envelope, reserved: d.Reserved,
			lease: d.Lease, until: began.Add(d.Lease),
		}
	}
	if len(j.held) < j.sweep {
		return
	}
	for k, h := range j.held {
		if began.After(h.until.Add(oldLease)) {
			delete(j.held, k)
		}
	}
	j.sweep = max(minSweep, 2*len(j.held))
}

// edit changes what is remembered of a delivery, if anything is.
func (j *Joined) edit(k store.Key, change func(h *held)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.held[k]; h != nil {
		change(h)
	}
}

// forget drops all that a consumer holds.
func (j *Joined) forget(c *consumer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, h := range j.held {
		if h.by == c {
			delete(j.held, k)
		}
	}
}

func keyOf(r broker.Receipt) store.Key { return store.Key{ID: r.ID, Epoch: r.Epoch} }

// A receipt of a join carries, after the broker's own token, which attempt and
// which replay it is of, so that any process can tell a stored outcome of this
// execution from that of an earlier one. Both are mostly zero and left out.
const tokenMark = ".."

func mark(r broker.Receipt, attempt, replays int) broker.Receipt {
	if attempt != 0 || replays != 0 || strings.Contains(r.Token, tokenMark) {
		r.Token += tokenMark + strconv.Itoa(attempt) + "." + strconv.Itoa(replays)
	}
	return r
}

// unmark takes a receipt apart. What is not of a join's making stays as it is;
// the broker will refuse it.
func unmark(r broker.Receipt) (inner broker.Receipt, attempt, replays int) {
	at := strings.LastIndex(r.Token, tokenMark)
	if at < 0 {
		return r, 0, 0
	}
	a, b, _ := strings.Cut(r.Token[at+len(tokenMark):], ".")
	attempt, err1 := strconv.Atoi(a)
	replays, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil {
		return r, 0, 0
	}
	r.Token = r.Token[:at]
	return r, attempt, replays
}
