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

	"github.com/stemjobs/stem/store"
)

// The journal names what was enqueued when, in lists of a minute or a second:
// see write_journal in lua/common.lua. A listing goes back through it, second by
// second, puts each in order, and then reads the tasks. An entry whose task is
// gone, or was enqueued again at another moment, is passed over.

// ref is one entry of the journal.
type ref struct {
	at int64 // ms: enqueuedAt
	id string
}

// newestFirst orders a listing.
func newestFirst(a, b ref) int { return cmp.Or(cmp.Compare(b.at, a.at), strings.Compare(b.id, a.id)) }

// journal goes back through one partition's.
type journal struct {
	db        *DB
	partition int
	since     int64 // ms: nothing before it
	before    ref   // everything shown comes after it in the listing

	minute int64    // the one being read, in ms
	first  []ref    // of its own list, the newest first
	names  []string // of its seconds, the newest first
	read   []ref    // what is to be shown next, the newest first
	end    bool     //
}

// next fills read with what comes next, unless the journal is at its end.
func (j *journal) next(ctx context.Context) error {
	for len(j.read) == 0 && !j.end {
		if err := j.more(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) more(ctx context.Context) error {
	switch {
	case len(j.names) > 0:
		name := j.names[0]
		j.names = j.names[1:]
		second, err := strconv.ParseInt(name[1:], 10, 64)
		if err != nil {
			return nil // nobody of Stem's named it
		}
		list, err := j.list(ctx, name, second*1000-second*1000%60000)
		if err != nil {
			return err
		}
		j.show(append(list, j.cut(second*1000)...))
		return nil
	case len(j.first) > 0:
		j.show(j.cut(0))
		return nil
	default:
		return j.turn(ctx)
	}
}

// cut takes from the minute's own list what is not before a moment.
func (j *journal) cut(from int64) []ref {
	n := slices.IndexFunc(j.first, func(r ref) bool { return r.at < from })
	if n < 0 {
		n = len(j.first)
	}
	part := j.first[:n]
	j.first = j.first[n:]
	return part
}

// show puts in order what is to be shown, without what a page before had.
func (j *journal) show(list []ref) {
	list = slices.DeleteFunc(slices.Clone(list), func(r ref) bool {
		return r.at < j.since || newestFirst(r, j.before) <= 0
	})
	slices.SortFunc(list, newestFirst)
	j.read = slices.Compact(list)
}

// turn goes to the next minute that has anything.
func (j *journal) turn(ctx context.Context) error {
	key := j.db.tags[j.partition] + ":journal"
	b := j.db.client.B()
	newest := strconv.FormatInt(j.before.at/1000, 10)
	if j.minute > 0 {
		newest = "(" + strconv.FormatInt(j.minute/1000, 10)
	}
	last, err := j.db.do(ctx, b.Zrevrangebyscore().Key(key).Max(newest).Min("-inf").Withscores().Limit(0, 1).Build()).AsZScores()
	if err != nil && !rueidis.IsRedisNil(err) {
		return unavailable(err)
	}
	if len(last) == 0 || int64(last[0].Score)*1000+60000 <= j.since {
		j.end = true
		return nil
	}
	j.minute = int64(last[0].Score) / 60 * 60000
	names, err := j.db.do(ctx, b.Zrevrangebyscore().Key(key).
		Max(strconv.FormatInt(j.minute/1000+59, 10)).Min(strconv.FormatInt(j.minute/1000, 10)).Build()).AsStrSlice()
	if err != nil && !rueidis.IsRedisNil(err) {
		return unavailable(err)
	}
	j.names = nil
	for _, name := range names {
		if !strings.HasPrefix(name, "m") {
			j.names = append(j.names, name)
			continue
		}
		if j.first, err = j.list(ctx, name, j.minute); err != nil {
			return err
		}
		slices.SortFunc(j.first, newestFirst)
	}
	return nil
}

// journalPage is how many entries one command reads. A list that is read in one
// piece is not swept meanwhile.
const journalPage = 50_000

// list reads a list of the journal.
func (j *journal) list(ctx context.Context, name string, minute int64) ([]ref, error) {
	var out []ref
	key := j.db.tags[j.partition] + ":j:" + name
	for from := int64(0); ; from += journalPage {
		entries, err := j.db.do(ctx, j.db.client.B().Lrange().Key(key).Start(from).Stop(from+journalPage-1).Build()).AsStrSlice()
		if err != nil {
			return nil, unavailable(err)
		}
		for _, e := range entries {
			if len(e) <= 5 {
				continue
			}
			digits, err := strconv.ParseInt(e[:5], 10, 64)
			if err != nil {
				continue
			}
			r := ref{at: momentOf(minute, digits), id: e[5:]}
			if rest, ok := strings.CutPrefix(r.id, "="); ok {
				r.id = beginning(r.at) + rest
			}
			out = append(out, r)
		}
		if len(entries) < journalPage {
			return out, nil
		}
	}
}

// momentOf is the ms within a minute whose last five digits are given.
func momentOf(minute, digits int64) int64 {
	at := minute - minute%100_000 + digits
	if at < minute {
		at += 100_000
	}
	return at
}

// beginning is how ids begin that were made in that minute or so; see journal in
// lua/common.lua.
func beginning(ms int64) string { return fmt.Sprintf("%08x-", ms>>16) }

// List implements store.Results.
func (s *results) List(ctx context.Context, q store.Query) (store.List, error) {
	if err := s.check(ctx); err != nil {
		return store.List{}, err
	}
	after, err := store.ParseCursor(q.Cursor)
	if err != nil {
		return store.List{}, err
	}
	l := lister{results: s, query: q, sieve: newSieve(q)}
	l.open(after)
	if err := l.run(ctx); err != nil {
		return store.List{}, fmt.Errorf("list statuses: %w", err)
	}
	return l.list, nil
}

// lister makes one page of a listing from the journals of all partitions.
type lister struct {
	*results
	query    store.Query
	sieve    sieve
	journals []*journal
	list     store.List
}

// latest is later than any task.
const latest = int64(1) << 52

func (l *lister) open(after store.Cursor) {
	before, since := ref{at: latest}, int64(0)
	if after.ID != "" {
		before = ref{after.At.UnixMilli(), after.ID}
	}
	if u := l.query.Until; !u.IsZero() && dueMillis(u) <= before.at {
		before = ref{at: dueMillis(u)} // an empty id comes after all others of its moment
	}
	if !l.query.Since.IsZero() {
		since = l.query.Since.UnixMilli()
	}
	for p := range l.db.tags {
		l.journals = append(l.journals, &journal{db: l.db, partition: p, since: since, before: before})
	}
}

// next returns up to n entries, the newest first.
func (l *lister) next(ctx context.Context, n int) (refs []ref, err error) {
	for len(refs) < n {
		var best *journal
		for _, j := range l.journals {
			if err := j.next(ctx); err != nil {
				return nil, err
			}
			if len(j.read) > 0 && (best == nil || newestFirst(j.read[0], best.read[0]) < 0) {
				best = j
			}
		}
		if best == nil {
			break
		}
		refs = append(refs, best.read[0])
		best.read = best.read[1:]
	}
	return refs, nil
}

func (l *lister) run(ctx context.Context) error {
	n := max(2*l.query.Size(), 100)
	for {
		refs, err := l.next(ctx, min(n, getPage, store.ScanLimit-l.list.Looked))
		if err != nil || len(refs) == 0 {
			return err
		}
		fits, err := l.sift(ctx, refs)
		if err != nil {
			return err
		}
		if full, err := l.page(ctx, refs, fits); full || err != nil {
			return err
		}
		n = getPage
	}
}

// page looks at what comes next, and reports whether the listing is at its end.
// Those whose index is in fits are read, no more at a time than may be wanted.
func (l *lister) page(ctx context.Context, refs []ref, fits []int) (full bool, err error) {
	size := l.query.Size()
	var found []store.Found
	for i, r := range refs {
		l.list.Looked++
		if len(fits) > 0 && fits[0] == i {
			if len(found) == 0 {
				ids := make([]string, min(len(fits), max(2*(size-len(l.list.Statuses)), 100)))
				for k := range ids {
					ids[k] = refs[fits[k]].id
				}
				if found, err = l.Get(ctx, ids...); err != nil {
					return false, err
				}
			}
			l.look(&found[0], r)
			found, fits = found[1:], fits[1:]
		}
		if len(l.list.Statuses) == size || l.list.Looked == store.ScanLimit {
			l.list.Cursor = store.Cursor{At: time.UnixMilli(r.at), ID: r.id}.String()
			l.list.Truncated = len(l.list.Statuses) < size
			return true, l.last(ctx, i == len(refs)-1)
		}
	}
	return false, nil
}

func (l *lister) look(f *store.Found, r ref) {
	if f.Err == nil && f.Status.EnqueuedAt.UnixMilli() == r.at && l.query.Match(&f.Status) {
		l.list.Statuses = append(l.list.Statuses, f.Status)
	}
}

// last drops the cursor of a page after which there is nothing.
func (l *lister) last(ctx context.Context, all bool) error {
	if !all {
		return nil
	}
	rest, err := l.next(ctx, 1)
	if err == nil && len(rest) == 0 {
		l.list.Cursor, l.list.Truncated = "", false
	}
	return err
}
