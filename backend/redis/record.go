package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/ledger"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// The records of tasks whose broker is another store: {tag}:s:ID. What a call
// makes of one is Go's to say (package ledger); the server writes it if nobody
// else has since, else it is read again.

// kindRecord begins a record's value: "r", its version, a space, and an Entry
// as JSON.
const kindRecord = 'r'

// kindStranger is said in place of a record of whose key another type is there.
const kindStranger = 'f'

// entry is a record as it was read.
type entry struct {
	*ledger.Entry        // nil: there is none
	version       string // "": there is none
	owned         bool   // the broker of this store has the task
	err           error  // it cannot be read: what is there is another's, or damaged
}

// recordKey is where the record of a task lies.
func (db *DB) recordKey(id string) string { return db.tags[db.partition(id)] + ":s:" + id }

func (db *DB) parseEntry(id, text string) (e entry) {
	switch {
	case text == "":
		return e
	case text[0] == kindStranger:
		e.err = wrongType(db.recordKey(id), nil)
		return e
	case text[0] != kindRecord:
		e.owned = true
		return e
	}
	version, data, ok := strings.Cut(text[1:], " ")
	e.version, e.Entry = version, new(ledger.Entry)
	err := errForeign
	if ok {
		err = json.Unmarshal([]byte(data), e.Entry)
	}
	if err != nil {
		return entry{err: fmt.Errorf("%w: the record in %s is damaged: %w", broker.ErrUnavailable, db.recordKey(id), err)}
	}
	e.Status.Result, e.Result = e.Result, nil
	return e
}

// recordStatus is a record as a Get's answer.
func (db *DB) recordStatus(id, text string) store.Found {
	e := db.parseEntry(id, text)
	if e.err == nil && e.Entry == nil {
		e.err = store.ErrNotFound
	}
	if e.err != nil {
		return store.Found{Err: e.err}
	}
	return store.Found{Status: e.Status}
}

// write is what is to become of a record. Without an entry, nothing.
type write struct {
	entry  *ledger.Entry
	sameTo bool // it is kept as long as before
	remove bool
}

func (w *write) args(id, version string, now time.Time) ([]string, error) {
	stored, till := *w.entry, "-2"
	if !w.sameTo {
		till, stored.Status.ExpiresAt = "-1", time.Time{}
		ms := keepMillis(w.entry.Keep())
		w.remove = w.remove || ms == 0
		if ms > 0 {
			stored.Status.ExpiresAt = now.Add(time.Duration(ms) * time.Millisecond)
			till = strconv.FormatInt(stored.Status.ExpiresAt.UnixMilli(), 10)
		}
	}
	if w.remove {
		return []string{id, version, "", "0", "0", ""}, nil
	}
	stored.Result, stored.Status.Result = stored.Status.Result, nil
	data, err := json.Marshal(&stored)
	if err != nil {
		return nil, fmt.Errorf("%w status of %s: %w", task.ErrInvalid, id, err)
	}
	enqueued := ""
	if version == "" {
		enqueued = string(appendPadded(nil, stored.Status.EnqueuedAt.UnixMilli(), 15))
	}
	return []string{id, version, rueidis.BinaryString(data), till, strconv.FormatInt(stored.Outbox, 10), enqueued}, nil
}

// changeTries is how often a batch is read again because somebody else had
// written.
const changeTries = 100

// each changes the record of each item of a batch: fn is given what there is
// and says what is to become of it, or why not. It may be called again.
func (s *results) each(ctx context.Context, what string, n int, id func(i int) string, fn func(i int, e entry, now time.Time) (write, error)) ([]error, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	errs := make([]error, n)
	todo := make([]int, n)
	for i := range todo {
		todo[i] = i
	}
	for try := 0; len(todo) > 0; try++ {
		if try == changeTries {
			return nil, fmt.Errorf("%s: %w: others write the same records all the time", what, broker.ErrUnavailable)
		}
		var now, later []int
		seen := make(map[string]bool, len(todo))
		for _, i := range todo {
			if seen[id(i)] || len(now) == getPage {
				later = append(later, i)
				continue
			}
			seen[id(i)] = true
			now = append(now, i)
		}
		again, err := s.changeOnce(ctx, now, id, fn, errs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if len(again) == 0 {
			try = -1
		}
		todo = slices.Concat(again, later)
	}
	return errs, nil
}

// changeOnce reads and writes the records of the items, which are of different
// tasks, and returns those that somebody else had changed.
func (s *results) changeOnce(ctx context.Context, items []int, id func(i int) string, fn func(i int, e entry, now time.Time) (write, error), errs []error) (again []int, err error) {
	entries, now, err := s.entries(ctx, items, id)
	if err != nil {
		return nil, err
	}
	args := make([][]string, len(items))
	var changed []int
	for k, i := range items {
		if errs[i] = entries[k].err; errs[i] != nil {
			continue
		}
		w, refused := fn(i, entries[k], now)
		if errs[i] = refused; refused != nil || w.entry == nil {
			continue
		}
		if args[k], errs[i] = w.args(id(i), entries[k].version, now); errs[i] == nil {
			changed = append(changed, k)
		}
	}
	shares := s.db.sharesOf(changed, 0, func(k int) string { return id(items[k]) })
	all := flat(func(k int) []string { return args[k] })
	err = s.db.spread(ctx, s.db.scripts.setrecords, shares, all, func(m *rueidis.RedisMessage, wrote []int) error {
		said, err := letters(m, wrote)
		for at := range said {
			switch i := items[wrote[at]]; said[at] {
			case 'c':
				again = append(again, i)
			case kindStranger:
				errs[i] = wrongType(s.db.recordKey(id(i)), nil)
			}
		}
		return err
	})
	return again, err
}

// entries reads the records of the items, and the time.
func (s *results) entries(ctx context.Context, items []int, id func(i int) string) ([]entry, time.Time, error) {
	list := make([]entry, len(items))
	var now time.Time
	shares := s.db.shares(len(items), 0, func(k int) string { return id(items[k]) })
	args := flat(func(k int) []string { return []string{id(items[k])} })
	err := s.db.spread(ctx, s.db.scripts.getrecords, shares, args, func(m *rueidis.RedisMessage, at []int) error {
		ms, texts, err := timed(m, at)
		now = moment(ms)
		for j := range texts {
			text, err := texts[j].ToString()
			if err != nil {
				return err
			}
			list[at[j]] = s.db.parseEntry(id(items[at[j]]), text)
		}
		return err
	})
	return list, now, err
}

// Create implements store.Results.
func (s *results) Create(ctx context.Context, batch []task.Status) ([]error, error) {
	return s.each(ctx, "create statuses", len(batch), func(i int) string { return batch[i].ID },
		func(i int, e entry, _ time.Time) (write, error) {
			if e.Entry != nil || e.owned {
				return write{}, store.ErrExists
			}
			return write{entry: &ledger.Entry{Status: batch[i]}}, nil
		})
}

// known returns the entry that a call from outside may change; one that is
// missing is made from the envelope, if there is one.
func (e entry) known(id string, envelope *task.Envelope) (*ledger.Entry, error) {
	switch {
	case e.owned:
		return nil, store.ErrStale // the broker of this store has it
	case e.Entry != nil:
		return e.Entry, nil
	case envelope == nil:
		return nil, store.ErrNotFound
	default:
		return ledger.New(id, envelope), nil
	}
}

// Update implements store.Results.
func (s *results) Update(ctx context.Context, batch []store.Update) ([]store.Answer, error) {
	answers := make([]store.Answer, len(batch))
	errs, err := s.each(ctx, "update statuses", len(batch), func(i int) string { return batch[i].ID },
		func(i int, e entry, now time.Time) (write, error) {
			u := &batch[i]
			answers[i] = store.Answer{}
			envelope := u.Envelope
			if !u.Start {
				envelope = nil
			}
			v, err := e.known(u.ID, envelope)
			if err != nil {
				return write{}, err
			}
			if answers[i].Stored, err = v.Update(u, now); err != nil {
				return write{}, err
			}
			if answers[i].Stored != nil {
				return write{entry: v, sameTo: true}, nil
			}
			return write{entry: v}, nil
		})
	if err != nil {
		return nil, err
	}
	for i := range errs {
		answers[i].Err = errs[i]
	}
	return answers, nil
}

// Record implements store.Results.
func (s *results) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	return s.each(ctx, "record outcomes", len(batch), func(i int) string { return batch[i].ID },
		func(i int, e entry, now time.Time) (write, error) {
			v, err := e.known(batch[i].ID, batch[i].Envelope)
			if err != nil {
				return write{}, err
			}
			changed, err := v.Apply(&batch[i], now)
			if err != nil || !changed {
				return write{}, err
			}
			return write{entry: v}, nil
		})
}

// Clear implements store.Results.
func (s *results) Clear(ctx context.Context, batch []store.Key) error {
	_, err := s.each(ctx, "clear outboxes", len(batch), func(i int) string { return batch[i].ID },
		func(i int, e entry, _ time.Time) (write, error) {
			if e.Entry == nil || !e.Clear(batch[i].Epoch) {
				return write{}, nil
			}
			return write{entry: e.Entry}, nil
		})
	return err
}

// Requeue implements store.Results.
func (s *results) Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error) {
	return s.each(ctx, "requeue statuses", len(batch), func(i int) string { return batch[i].ID },
		func(i int, e entry, _ time.Time) (write, error) {
			v, err := e.known(batch[i].ID, nil)
			if err != nil {
				return write{}, err
			}
			changed, err := v.Requeue(&batch[i])
			if err != nil || !changed {
				return write{}, err
			}
			return write{entry: v}, nil
		})
}

// Delete implements store.Results. A dead letter stays with the broker; its
// status is gone.
func (s *results) Delete(ctx context.Context, ids ...string) ([]error, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	errs := make([]error, len(ids))
	var elsewhere []int
	shares := s.db.shares(len(ids), 0, func(i int) string { return ids[i] })
	args := flat(func(i int) []string { return ids[i : i+1] })
	err := s.db.spread(ctx, s.db.scripts.delete, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		said, err := letters(m, items)
		for at := range said {
			switch said[at] {
			case 'n':
				errs[items[at]] = store.ErrNotFinished
			case 'u':
				elsewhere = append(elsewhere, items[at])
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("delete statuses: %w", err)
	}
	refused, err := s.deleteRecords(ctx, elsewhere, ids)
	if err != nil {
		return nil, err
	}
	for k, i := range elsewhere {
		errs[i] = refused[k]
	}
	return errs, nil
}

func (s *results) deleteRecords(ctx context.Context, items []int, ids []string) ([]error, error) {
	return s.each(ctx, "delete statuses", len(items), func(k int) string { return ids[items[k]] },
		func(_ int, e entry, _ time.Time) (write, error) {
			switch {
			case e.Entry == nil:
				return write{}, store.ErrNotFound
			case !e.Status.State.Terminal() || e.Outbox > 0:
				return write{}, store.ErrNotFinished
			}
			return write{entry: e.Entry, remove: true}, nil
		})
}

// ListOutboxes implements store.Outboxes: partition by partition, the oldest
// first.
func (s *results) ListOutboxes(ctx context.Context, before time.Time, p broker.Page) ([]store.Record, string, error) {
	if err := s.check(ctx); err != nil {
		return nil, "", err
	}
	part, from, err := parseOutboxCursor(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	var page []store.Record
	for ; part < len(s.db.tags); part, from = part+1, (deadCursor{}) {
		for {
			found, err := s.outboxesAfter(ctx, part, from, before, p.Size()-len(page))
			if err != nil {
				return nil, "", fmt.Errorf("list outboxes: %w", err)
			}
			if len(found) == 0 {
				break
			}
			from = found[len(found)-1]
			records, err := s.outboxRecords(ctx, found)
			if err != nil {
				return nil, "", fmt.Errorf("list outboxes: %w", err)
			}
			page = append(page, records...)
			if len(page) >= p.Size() {
				return page, strconv.Itoa(part) + "." + from.String(), nil
			}
		}
	}
	return page, "", nil
}

func parseOutboxCursor(text string) (part int, from deadCursor, err error) {
	if text == "" {
		return 0, from, nil
	}
	number, rest, _ := strings.Cut(text, ".")
	part, err = strconv.Atoi(number)
	if err == nil {
		from, err = parseDeadCursor(rest)
	}
	if err != nil || part < 0 {
		return 0, from, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, text)
	}
	return part, from, nil
}

// outboxesAfter finds the next tasks that have an outbox.
func (s *results) outboxesAfter(ctx context.Context, part int, from deadCursor, before time.Time, n int) (found []deadCursor, err error) {
	key := s.db.tags[part] + ":s-outbox"
	for skip := int64(0); len(found) < n; skip += int64(getPage) {
		list, err := s.db.do(ctx, s.db.client.B().Zrangebyscore().Key(key).
			Min(strconv.FormatInt(from.at, 10)).Max("("+strconv.FormatInt(before.UnixMilli(), 10)).
			Withscores().Limit(skip, int64(getPage)).Build()).AsZScores()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, unavailable(err)
		}
		for _, z := range list {
			c := deadCursor{int64(z.Score), z.Member}
			if (c.at > from.at || c.id > from.id) && len(found) < n {
				found = append(found, c)
			}
		}
		if len(list) < getPage {
			break
		}
	}
	return found, nil
}

func (s *results) outboxRecords(ctx context.Context, found []deadCursor) ([]store.Record, error) {
	items := make([]int, len(found))
	for i := range items {
		items[i] = i
	}
	entries, _, err := s.entries(ctx, items, func(i int) string { return found[i].id })
	if err != nil {
		return nil, err
	}
	var page []store.Record
	for i, e := range entries {
		if e.Entry == nil || e.Outcome == nil || e.Outbox == 0 {
			continue
		}
		r := e.Outcome.Record(found[i].id)
		r.Epoch = e.Status.Epoch
		page = append(page, *r)
	}
	return page, nil
}
