package sqlite

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// publication is a publication made ready outside the transaction.
type publication struct {
	envelope *task.Envelope
	claims   []broker.Claim
	data     []byte
	refused  error // why it cannot be stored
}

func encodeAll(batch []broker.Publication) []publication {
	items := make([]publication, len(batch))
	for i := range batch {
		items[i] = encode(&batch[i])
	}
	return items
}

func encode(p *broker.Publication) publication {
	item := publication{envelope: p.Envelope, claims: p.Claims}
	switch {
	case p.Envelope == nil:
		item.refused = fmt.Errorf("%w publication: it has no envelope", task.ErrInvalid)
	case len(p.Limits) > 0:
		item.refused = fmt.Errorf("limits: %w", broker.ErrUnsupported)
	case p.Hold != "":
		item.refused = fmt.Errorf("hold: %w", broker.ErrUnsupported)
	case p.Group != nil:
		item.refused = fmt.Errorf("group: %w", broker.ErrUnsupported)
	default:
		if item.data, item.refused = encodeEnvelope(p.Envelope); item.refused == nil {
			item.refused = checkClaims(p.Claims)
		}
	}
	return item
}

func checkClaims(claims []broker.Claim) error {
	for _, c := range claims {
		switch {
		case c.Key == "":
			return fmt.Errorf("%w claim: its key is empty", task.ErrInvalid)
		case c.For < 0:
			return fmt.Errorf("%w claim %q: for %s, want a time from now, or 0", task.ErrInvalid, c.Key, c.For)
		}
	}
	return nil
}

func encodeEnvelope(e *task.Envelope) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	data, err := task.Encode(e)
	if err != nil {
		return nil, fmt.Errorf("%w envelope %s: %w", task.ErrInvalid, e.ID, err)
	}
	if len(data) > task.DefaultMaxSize {
		return nil, fmt.Errorf("%w: envelope %s has %d bytes, at most %d: store the payload elsewhere and pass a reference",
			task.ErrTooLarge, e.ID, len(data), task.DefaultMaxSize)
	}
	return data, nil
}

// publish stores one envelope with its claims, or says why not. An error is
// the store's.
func (t *tx) publish(p *publication) (out broker.Outcome, err error) {
	if p.refused != nil {
		return broker.Outcome{State: broker.Refused, Err: p.refused}, nil
	}
	if len(p.claims) > 0 {
		if out, err = t.claim(p); err != nil || out.State != 0 {
			return out, err
		}
	}
	stored, err := t.insert(p)
	if err != nil {
		return out, err
	}
	if stored {
		t.touched(p.envelope.ID)
		return broker.Outcome{State: broker.Stored}, nil
	}
	var r row
	found, err := t.one("by-id", func(s *sqlite3.Stmt) { scanRow(s, &r) }, p.envelope.ID)
	switch {
	case err != nil:
		return out, err
	case !found:
		return out, errors.New("an envelope was neither stored nor is there one of its id")
	case !r.gone(t.now):
		return broker.Outcome{State: broker.Exists, ExistingID: p.envelope.ID}, nil
	}
	if err := t.remove(&r); err != nil {
		return out, err
	}
	return t.publish(p)
}

// insert adds the row, and reports whether the id was new.
func (t *tx) insert(p *publication) (bool, error) {
	e := p.envelope
	seq, err := t.nextSeq()
	if err != nil {
		return false, err
	}
	queue, err := t.queueID(e.Queue)
	if err != nil {
		return false, err
	}
	where, at, flags := ready, t.now, 0
	if due := millis(e.NotBefore); due > t.now {
		where, at = delayed, due
	}
	if endless(p.claims) {
		flags |= flagClaims
	}
	if !task.KeepsArgs(e.Meta) {
		flags |= flagBare
	}
	s, err := t.stmt("insert")
	if err != nil {
		return false, err
	}
	bind := [...]int64{
		0, 0, queue, int64(task.MaxPriority - e.Priority), int64(where), int64(phaseOf(task.Queued)), at, 0,
		int64(e.Attempt), 0, 0, 0, int64(flags), 0, e.VisibilityTimeout.Milliseconds(), e.EnqueuedAt.UnixMilli(),
	}
	bind[0] = seq
	errs := s.BindText(2, e.ID)
	for i, v := range bind {
		if i == 1 {
			continue
		}
		errs = errors.Join(errs, s.BindInt64(i+1, v))
	}
	errs = errors.Join(errs, s.BindBlob(len(bind)+1, p.data))
	if errs == nil {
		errs = s.Exec()
	}
	if errs != nil {
		return false, failed("insert a task", errs)
	}
	if t.Changes() == 0 {
		return false, nil
	}
	t.add(queue, where, 1)
	if where == ready {
		t.wake(queue, 1)
	} else {
		t.comesDue(queue, at)
	}
	return true, nil
}

// endless reports whether a claim lasts as long as its task.
func endless(claims []broker.Claim) bool {
	for _, c := range claims {
		if c.For <= 0 {
			return true
		}
	}
	return false
}

// claim takes the keys of a publication, all or none. An outcome without a
// state means that it has them.
func (t *tx) claim(p *publication) (out broker.Outcome, err error) {
	id := p.envelope.ID
	var r row
	if found, err := t.byID(id, &r); err != nil || found {
		return broker.Outcome{State: broker.Exists, ExistingID: id}, err
	}
	for _, c := range p.claims {
		holder, err := t.holder(c.Key)
		if err != nil {
			return out, err
		}
		if holder != "" && holder != id {
			return broker.Outcome{State: broker.Duplicate, ExistingID: holder}, nil
		}
	}
	for _, c := range p.claims {
		end := int64(0)
		if c.For > 0 {
			end = until(t.now, c.For)
		}
		if err := t.exec("set-claim", c.Key, id, end); err != nil {
			return out, err
		}
	}
	return out, nil
}

// holder returns the id of the task that holds a key now, or "".
func (t *tx) holder(key string) (id string, err error) {
	end := int64(0)
	found, err := t.one("claim", func(s *sqlite3.Stmt) { id, end = s.ColumnText(0), s.ColumnInt64(1) }, key)
	if err != nil || !found || end > 0 && end <= t.now {
		return "", err
	}
	return id, nil
}
