package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

const (
	// deadPage is how many dead letters one script replays or purges, so that it
	// holds nobody up for long.
	deadPage = 500
	// namedMost is how many entries an answer names; see broker.Replayed.
	namedMost = 1000
)

// DeadLetters implements broker.Broker.
func (b *redisBroker) DeadLetters() broker.DeadLetters { return b }

// deadEntry is a dead letter with its place in the order of deaths.
type deadEntry struct {
	broker.DeadLetter
	id string
	at int64 // ms
}

func compareDead(a, b *deadEntry) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.id, b.id))
}

// deadCursor names the entry that comes before a page; the zero one is before
// the first.
type deadCursor struct {
	at int64
	id string
}

func (c deadCursor) String() string { return strconv.FormatInt(c.at, 10) + "." + c.id }

func parseDeadCursor(s string) (c deadCursor, err error) {
	if s == "" {
		return c, nil
	}
	at, id, _ := strings.Cut(s, ".")
	if c.at, err = strconv.ParseInt(at, 10, 64); err != nil || task.ValidateID(id) != nil {
		return c, fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, s)
	}
	c.id = id
	return c, nil
}

// graveyard walks through the dead letters of all partitions in their order.
type graveyard struct {
	db     *DB
	filter broker.DeadFilter
	oldest bool // first; else the newest
	parts  []gravePart
	now    int64 // by the server's clock, when the walk began
}

// gravePart is what was read of one partition and is yet to be shown.
type gravePart struct {
	from deadCursor
	read []deadEntry
	end  bool
}

func (db *DB) graveyard(f broker.DeadFilter, oldest bool, from deadCursor) *graveyard {
	g := &graveyard{db: db, filter: f, oldest: oldest, parts: make([]gravePart, len(db.tags))}
	for i := range g.parts {
		g.parts[i].from = from
	}
	return g
}

// next returns the next entry that the filter selects, or nil after the last.
func (g *graveyard) next(ctx context.Context) (*deadEntry, error) {
	best := -1
	for i := range g.parts {
		if err := g.fill(ctx, i); err != nil {
			return nil, err
		}
		if len(g.parts[i].read) == 0 {
			continue
		}
		if best < 0 || g.order(&g.parts[i].read[0], &g.parts[best].read[0]) < 0 {
			best = i
		}
	}
	if best < 0 {
		return nil, nil
	}
	p := &g.parts[best]
	e := &p.read[0]
	p.read = p.read[1:]
	return e, nil
}

func (g *graveyard) order(a, b *deadEntry) int {
	if g.oldest {
		return compareDead(a, b)
	}
	return compareDead(b, a)
}

// fill reads on in a partition of which everything was shown.
func (g *graveyard) fill(ctx context.Context, partition int) error {
	p := &g.parts[partition]
	for len(p.read) == 0 && !p.end {
		args := g.pageArgs(partition)
		if args == nil {
			p.end = true
			return nil
		}
		m, err := g.db.run(ctx, g.db.scripts.deadlist, partition, args)
		if err != nil {
			return err
		}
		all, more, err := g.readDead(&m)
		if err != nil {
			return err
		}
		if len(g.filter.IDs) > 0 {
			slices.SortFunc(all, func(a, b deadEntry) int { return g.order(&a, &b) })
			all = slices.DeleteFunc(all, func(e deadEntry) bool {
				return p.from.id != "" && g.order(&e, &deadEntry{at: p.from.at, id: p.from.id}) <= 0
			})
			more = false
		}
		if len(all) > 0 {
			last := &all[len(all)-1]
			p.from = deadCursor{last.at, last.id}
		}
		p.end = !more
		for i := range all {
			if g.filter.Match(&all[i].DeadLetter) {
				p.read = append(p.read, all[i])
			}
		}
	}
	return nil
}

// pageArgs are the arguments of the next page; nil: there is nothing to read.
func (g *graveyard) pageArgs(partition int) []string {
	if len(g.filter.IDs) == 0 {
		order := "new"
		if g.oldest {
			order = "old"
		}
		from := g.parts[partition].from
		return []string{order, strconv.Itoa(deadPage), strconv.FormatInt(from.at, 10), from.id}
	}
	args := []string{"ids"}
	seen := make(map[string]bool)
	for _, id := range g.filter.IDs {
		if !seen[id] && task.ValidateID(id) == nil && g.db.partition(id) == partition {
			seen[id] = true
			args = append(args, id)
		}
	}
	if len(args) == 1 {
		return nil
	}
	return args
}

// readDead reads the deadlist script's answer.
func (g *graveyard) readDead(m *rueidis.RedisMessage) (all []deadEntry, more bool, err error) {
	list, err := m.ToArray()
	if err != nil || len(list) < 2 || len(list)%4 != 2 {
		return nil, false, fmt.Errorf("%w (%w)", errForeign, err)
	}
	now, err := list[0].AsInt64()
	if err != nil {
		return nil, false, err
	}
	if g.now == 0 {
		g.now = now
	}
	flag, err := list[1].ToString()
	if err != nil {
		return nil, false, err
	}
	for i := 2; i < len(list); i += 4 {
		e, err := readDeadLetter(list[i : i+4])
		if err != nil {
			return nil, false, err
		}
		all = append(all, e)
	}
	return all, flag == "1", nil
}

func readDeadLetter(m []rueidis.RedisMessage) (e deadEntry, err error) {
	if e.id, err = m[0].ToString(); err != nil {
		return e, err
	}
	if e.at, err = m[1].AsInt64(); err != nil {
		return e, err
	}
	text, err := m[2].ToString()
	if err != nil {
		return e, err
	}
	errs, err := m[3].AsStrSlice()
	if err != nil {
		return e, err
	}
	v, err := parseValue(text)
	if err != nil {
		e.DeadLetter = broker.DeadLetter{Envelope: &task.Envelope{ID: e.id}, Raw: []byte(text), DeadAt: moment(e.at)}
		return e, nil
	}
	e.DeadLetter = broker.DeadLetter{
		Queue: v.queue, Reason: v.ended.Reason, Attempt: v.attempt, DeadAt: moment(e.at), Errors: parseErrors(errs),
	}
	if r := v.run; r != nil {
		e.Queue, e.Attempt, e.Epoch = r.queue, r.attempt, r.epoch
		e.ReplayCount, e.LastReplayAt = r.replays, moment(r.replayed)
	}
	if n := len(e.Errors); n > 0 {
		e.Error = &e.Errors[n-1]
	}
	if e.Envelope, err = v.decode(e.id); err != nil || e.Envelope.ID != e.id {
		e.Envelope, e.Raw = &task.Envelope{ID: e.id}, v.whole(e.id)
	}
	return e, nil
}

// ListDeadLetters implements broker.DeadLetters: newest first.
func (b *redisBroker) ListDeadLetters(ctx context.Context, f broker.DeadFilter, p broker.Page) ([]broker.DeadLetter, string, error) {
	if err := b.check(ctx); err != nil {
		return nil, "", err
	}
	from, err := parseDeadCursor(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	var list []broker.DeadLetter
	g := b.db.graveyard(f, false, from)
	for {
		e, err := g.next(ctx)
		switch {
		case err != nil:
			return nil, "", fmt.Errorf("list dead letters: %w", err)
		case e == nil:
			return list, "", nil
		}
		list = append(list, e.DeadLetter)
		if len(list) == p.Size() {
			return list, deadCursor{e.at, e.id}.String(), nil
		}
	}
}

// walk calls fn with pages of what the filter selects, oldest first, up to a
// limit, and returns how many fn found dead still. What dies while it walks is
// left for the next time.
func (b *redisBroker) walk(ctx context.Context, f broker.DeadFilter, limit int, fn func([]*deadEntry) (int, error)) (n int, err error) {
	if err := b.check(ctx); err != nil {
		return 0, err
	}
	g := b.db.graveyard(f, true, deadCursor{})
	for limit <= 0 || n < limit {
		size := deadPage
		if limit > 0 {
			size = min(size, limit-n)
		}
		var page []*deadEntry
		for len(page) < size {
			e, err := g.next(ctx)
			if err != nil {
				return n, err
			}
			if e == nil || e.at > g.now {
				break
			}
			page = append(page, e)
		}
		if len(page) == 0 {
			break
		}
		were, err := fn(page)
		n += were
		if err != nil {
			return n, err
		}
		if len(page) < size {
			break
		}
	}
	return n, nil
}

// change runs a script over a page, partition by partition, and calls was with
// each entry and the script's answer for it.
func (b *redisBroker) change(ctx context.Context, s *script, first []string, page []*deadEntry, was func(e *deadEntry, m *rueidis.RedisMessage, now int64) error) error {
	shares := b.db.shares(len(page), 0, func(i int) string { return page[i].id })
	of := flat(func(i int) []string { return []string{page[i].id, strconv.FormatInt(page[i].at, 10)} })
	args := func(items []int) []string { return append(slices.Clone(first), of(items)...) }
	return b.db.spread(ctx, s, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		now, list, err := timed(m, items)
		if err != nil {
			return err
		}
		for at, i := range items {
			if list[at].IsNil() {
				continue
			}
			if err := was(page[i], &list[at], now); err != nil {
				return err
			}
		}
		return nil
	})
}

// ReplayDeadLetters implements broker.DeadLetters. An error after some pages
// leaves those replayed, and the others dead.
func (b *redisBroker) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	var out broker.Replayed
	args, err := replayArgs(f, o)
	if err != nil {
		return out, fmt.Errorf("replay dead letters: %w", err)
	}
	out.Count, err = b.walk(ctx, f, o.Limit, func(page []*deadEntry) (n int, err error) {
		add := func(t broker.ReplayedTask) {
			t.Envelope = o.Edited
			if n++; len(out.Entries) < namedMost {
				out.Entries = append(out.Entries, t)
			}
		}
		for _, e := range page {
			if o.Edited != nil {
				if err := e.CheckEdit(o.Edited); err != nil {
					return 0, err
				}
			}
			if o.DryRun {
				add(broker.ReplayedTask{
					ID: e.id, Queue: e.Queue, Epoch: e.Epoch + 1, ReplayCount: e.ReplayCount + 1, ReplayedAt: time.Now().UTC(),
				})
			}
		}
		if o.DryRun {
			return n, nil
		}
		err = b.change(ctx, b.db.scripts.deadreplay, args, page, func(e *deadEntry, m *rueidis.RedisMessage, now int64) error {
			list, err := m.ToArray()
			if err != nil || len(list) != 3 {
				return fmt.Errorf("%w (%w)", errForeign, err)
			}
			epoch, err := list[0].AsInt64()
			if err != nil {
				return err
			}
			replays, err := list[1].AsInt64()
			if err != nil {
				return err
			}
			add(broker.ReplayedTask{ID: e.id, Queue: e.Queue, Epoch: epoch, ReplayCount: int(replays), ReplayedAt: moment(now)})
			return nil
		})
		return n, err
	})
	if err != nil {
		return out, fmt.Errorf("replay dead letters: %w", err)
	}
	return out, nil
}

// valueStart is where in a value the part begins that is the publisher's: after
// its flag and the moment when it was stored.
const valueStart = len("w@0123456789012 ")

// replayArgs are the arguments of the deadreplay script that hold for all.
func replayArgs(f broker.DeadFilter, o broker.ReplayOptions) ([]string, error) {
	if err := o.Check(f); err != nil {
		return nil, err
	}
	args := []string{strconv.FormatInt(dueMillis(o.NotBefore), 10), ""}
	if o.Edited != nil {
		data, err := encode(o.Edited)
		if err != nil {
			return nil, err
		}
		args[1] = rueidis.BinaryString(newValue(o.Edited, data, 0)[valueStart:])
	}
	return args, nil
}

// dueMillis is the first whole millisecond that is not before t; 0: none.
func dueMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Add(time.Millisecond - 1).UnixMilli()
}

// PurgeDeadLetters implements broker.DeadLetters. Their statuses go with them.
func (b *redisBroker) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	var out broker.Purged
	var err error
	out.Count, err = b.walk(ctx, f, o.Limit, func(page []*deadEntry) (n int, err error) {
		add := func(id string) {
			if n++; len(out.IDs) < namedMost {
				out.IDs = append(out.IDs, id)
			}
		}
		if o.DryRun {
			for _, e := range page {
				add(e.id)
			}
			return n, nil
		}
		err = b.change(ctx, b.db.scripts.deadpurge, nil, page, func(e *deadEntry, _ *rueidis.RedisMessage, _ int64) error {
			add(e.id)
			return nil
		})
		return n, err
	})
	if err != nil {
		return out, fmt.Errorf("purge dead letters: %w", err)
	}
	return out, nil
}
