package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// tasks is the broker of a DB: one client's access to it.
type tasks struct {
	db     *DB
	closed bool
}

// claim says which task holds a key, and until when; 0: until it is released.
type claim struct {
	id    string
	until int64
}

// Publish stores a batch; see broker.Broker.
func (t *tasks) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	outcomes := make([]broker.Outcome, len(batch))
	records := make([]*record, len(batch))
	for i := range batch {
		size, err := inspect(&batch[i])
		if err != nil {
			outcomes[i] = broker.Outcome{State: broker.Refused, Err: err}
			continue
		}
		records[i] = newRecord(batch[i].Envelope, size)
	}
	now, err := t.db.enter(ctx, &t.closed)
	if err != nil {
		return nil, fmt.Errorf("publish to memory: %w", err)
	}
	defer t.db.leave()
	for i, r := range records {
		if r != nil {
			outcomes[i] = t.db.publish(&batch[i], r, now)
		}
	}
	return outcomes, nil
}

// inspect returns an envelope's size, or why the publication is refused.
func inspect(p *broker.Publication) (size int, err error) {
	switch {
	case p.Envelope == nil:
		return 0, fmt.Errorf("%w publication: it has no envelope", task.ErrInvalid)
	case len(p.Limits) > 0:
		return 0, fmt.Errorf("limits: %w", broker.ErrUnsupported)
	case p.Hold != "":
		return 0, fmt.Errorf("holds: %w", broker.ErrUnsupported)
	case p.Group != nil:
		return 0, fmt.Errorf("groups: %w", broker.ErrUnsupported)
	}
	for _, c := range p.Claims {
		if c.Key == "" || c.For < 0 {
			return 0, fmt.Errorf("%w claim %q for %s: want a key, and a time that is not negative", task.ErrInvalid, c.Key, c.For)
		}
	}
	if err := p.Envelope.Validate(); err != nil {
		return 0, err
	}
	return sizeOf(p.Envelope)
}

func sizeOf(e *task.Envelope) (int, error) {
	n := task.EncodedSize(e)
	if n > task.DefaultMaxSize {
		return 0, fmt.Errorf("envelope of %d bytes: %w: at most %d; store the payload elsewhere and pass a reference",
			n, task.ErrTooLarge, task.DefaultMaxSize)
	}
	return n, nil
}

// publish stores one task, which inspect has passed.
func (db *DB) publish(p *broker.Publication, r *record, now time.Time) broker.Outcome {
	if db.find(r.id, now) != nil {
		return broker.Outcome{State: broker.Exists, ExistingID: r.id}
	}
	for _, c := range p.Claims {
		if id := db.claimant(c, r.id, now); id != "" {
			return broker.Outcome{State: broker.Duplicate, ExistingID: id}
		}
	}
	for _, c := range p.Claims {
		db.take(c, r, now)
	}
	r.q = db.queue(r.env.Queue)
	db.add(r)
	if due := dueAt(r.notBefore(), now); due != 0 {
		db.delay(r, due)
	} else {
		r.setNotBefore(time.Time{}) // a moment in the past is now
		db.ready(r, now.UnixNano())
	}
	db.notify(r)
	return broker.Outcome{State: broker.Stored}
}

// dueAt is the moment until which a task is delayed, 0 if it is not.
func dueAt(notBefore, now time.Time) int64 {
	if notBefore.IsZero() || !notBefore.After(now) {
		return 0
	}
	return momentOf(notBefore)
}

// claimant is the id of the task that keeps id from taking a claim; empty:
// none does.
func (db *DB) claimant(c broker.Claim, id string, now time.Time) string {
	held, ok := db.claims[c.Key]
	switch {
	case !ok, held.until != 0 && held.until <= now.UnixNano():
		return ""
	case held.until == 0 && held.id == id:
		return "" // its own, of a life that has ended
	}
	return held.id
}

func (db *DB) take(c broker.Claim, r *record, now time.Time) {
	if len(db.claims) >= db.claimLimit {
		db.dropClaims(now)
	}
	if c.For == 0 {
		x := r.more()
		x.claims = append(x.claims, c.Key)
		db.claims[c.Key] = claim{id: r.id}
		return
	}
	db.claims[c.Key] = claim{id: r.id, until: after(now.UnixNano(), c.For)}
}

// dropClaims forgets the claims whose time is over.
func (db *DB) dropClaims(now time.Time) {
	for key, c := range db.claims {
		if c.until != 0 && c.until <= now.UnixNano() {
			delete(db.claims, key)
		}
	}
	db.claimLimit = max(1024, 2*len(db.claims))
}

// release ends a claim that the task of that id holds.
func (db *DB) release(key, id string) {
	if db.claims[key].id == id {
		delete(db.claims, key)
	}
}

// endClaims ends what a task holds that has no time of its own.
func (db *DB) endClaims(r *record) {
	if r.extra == nil {
		return
	}
	for _, key := range r.extra.claims {
		db.release(key, r.id)
	}
	r.extra.claims = nil
}

// find returns the record of that id, nil if there is none or its retention
// has ended.
func (db *DB) find(id string, now time.Time) *record {
	r := db.records[id]
	if r == nil || r.expires == 0 || r.expires > now.UnixNano() {
		return r
	}
	db.remove(r)
	return nil
}

func (db *DB) add(r *record) {
	db.records[r.id] = r
	db.timeline.add(r)
}

// remove forgets a record that is in no queue.
func (db *DB) remove(r *record) {
	if r.index >= 0 {
		db.finished.remove(r.index)
	}
	db.endClaims(r)
	delete(db.records, r.id)
	db.timeline.remove(r)
	db.notify(r)
	// Its bucket may keep the record for a while: let go of what it holds.
	*r = record{id: r.id, at: r.at, index: -1, removed: true}
}
