package redis

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A listing with a filter may look at a hundred thousand tasks to show none. So the
// values alone are read first, which is a fraction of the work, and what can
// be seen in one passes over the others unread. What a value does not say for
// certain is left to the status, and store.Query.Match has the last word on each.

// sieve is what a query says of values.
type sieve struct {
	query             store.Query
	all               bool // nothing is passed over
	live              bool // a task that has not ended may fit
	succeeded         bool // and so on
	cancelled, failed bool
}

func newSieve(q store.Query) sieve {
	s := sieve{query: q}
	s.all = len(q.States) == 0 && q.Name == "" && q.Queue == "" && q.Error == "" && q.Args == ""
	s.live = len(q.States) == 0
	s.succeeded, s.cancelled, s.failed = s.live, s.live, s.live
	for _, state := range q.States {
		switch state {
		case task.Succeeded:
			s.succeeded = true
		case task.Cancelled:
			s.cancelled = true
		case task.Failed:
			s.failed = true
		default:
			s.live = true
		}
	}
	return s
}

// sift returns the indexes of the tasks that may fit. A server that does not answer
// says nothing against any of them.
func (l *lister) sift(ctx context.Context, refs []ref) ([]int, error) {
	fits := make([]int, 0, len(refs))
	if l.sieve.all {
		for i := range refs {
			fits = append(fits, i)
		}
		return fits, nil
	}
	shares := l.db.shares(len(refs), 0, func(i int) string { return refs[i].id })
	cmds := make(rueidis.Commands, len(shares))
	for k, part := range shares {
		keys := make([]string, len(part.items))
		for n, i := range part.items {
			keys[n] = taskKey(l.db.tags[part.partition], refs[i].id)
		}
		cmds[k] = l.db.client.B().Mget().Key(keys...).Build()
	}
	bound, cancel := bounded(ctx)
	defer cancel()
	for k, r := range l.db.sideBySide(bound, cmds...) {
		items := shares[k].items
		values, err := r.ToArray()
		for n, i := range items {
			if err != nil || len(values) != len(items) || l.sieve.mayFit(&values[n]) {
				fits = append(fits, i)
			}
		}
	}
	slices.Sort(fits)
	return fits, ctx.Err()
}

func (s *sieve) mayFit(m *rueidis.RedisMessage) bool {
	v, err := m.ToString() // an error where there is none, or one that is no string
	return err != nil || s.fits(v)
}

// fits reports whether a task with that value may be wanted.
func (s *sieve) fits(v string) bool {
	if len(v) < 2 {
		return true
	}
	switch v[0] {
	case kindLive:
		return s.live && s.fitsTask(v)
	case kindSucceeded, kindCancelled, kindDead:
		if int(v[1]-'@')&endHidden != 0 || len(v) < 9 {
			return true // the record of another broker's task may stand behind it
		}
	default:
		return true
	}
	if !(v[0] == kindSucceeded && s.succeeded || v[0] == kindCancelled && s.cancelled || v[0] == kindDead && s.failed) {
		return false
	}
	n, err := strconv.Atoi(v[2:9])
	if err != nil || n < 0 || len(v) < 9+n {
		return true
	}
	rest := v[9+n:]
	if int(v[1]-'@')&endRun != 0 {
		_, rest, _ = strings.Cut(rest, "\n")
	}
	return s.fitsTask(rest)
}

// maxWholeArgs is how long args are that a status shows as they are.
const maxWholeArgs = 1024

// fitsTask is fits for what every value has: a line and an envelope.
func (s *sieve) fitsTask(v string) bool {
	q := &s.query
	line, envelope, ok := strings.Cut(v, "\n")
	if !ok || len(line) < 3 || line[0] != kindLive {
		return true
	}
	flag := int(line[1]) - '@'
	if q.Error != "" && flag&flagErrors == 0 {
		return false
	}
	if q.Queue != "" {
		words := strings.SplitN(line, " ", 5)
		if len(words) == 5 && !broker.Match(q.Queue, words[3]) {
			return false
		}
	}
	if q.Args != "" && flag&flagCut == 0 && !strings.Contains(envelope, q.Args) {
		n, err := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
		if err == nil && n <= maxWholeArgs {
			return false
		}
	}
	return q.Name == "" || fitsName(q.Name, envelope)
}

// fitsName looks for a name in its place, where it is as plain as names are.
func fitsName(pattern, envelope string) bool {
	rest, ok := strings.CutPrefix(envelope, leanStart+`"`)
	if !ok {
		return true
	}
	name, _, ok := strings.Cut(rest, `"`)
	return !ok || strings.Contains(name, `\`) || !utf8.ValidString(name) || broker.Match(pattern, name)
}
