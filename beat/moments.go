package beat

import (
	"errors"
	"time"

	"github.com/stemjobs/stem/schedule"
)

// moments are when an entry is due, and when it fires for that.
type moments struct {
	id     string
	spec   schedule.Spec // within StartAt and EndAt
	jitter time.Duration
}

func (e *Entry) moments(l *schedule.Loader) (*moments, error) {
	spec, err := l.Spec(e.Spec)
	if err != nil {
		return nil, &FieldError{Field: "spec", Err: err}
	}
	bounded, err := schedule.Between(spec, e.StartAt, e.EndAt)
	if err != nil {
		field := "startAt"
		var wrong *schedule.Error
		if errors.As(err, &wrong) {
			field = wrong.Field
		}
		return nil, &FieldError{Field: field, Err: err}
	}
	return &moments{id: e.ID, spec: bounded, jitter: e.Jitter}, nil
}

// at is when the moment fires: due, and its jitter.
func (m *moments) at(due time.Time) time.Time {
	if due.IsZero() {
		return due
	}
	return due.Add(schedule.Jitter(m.id, due, m.jitter))
}

// next is the first moment after another; zero: there is none.
func (m *moments) next(after time.Time) time.Time {
	t, ok := m.spec.Next(after)
	if !ok {
		return time.Time{}
	}
	return t.UTC()
}

// maxWalk is how many moments are counted one by one. A longer row of missed
// ones is leapt over, and counted as at least so many.
const maxWalk = 20_000

// missed are the moments that are due at once.
type missed struct {
	first  time.Time   // the oldest
	newest []time.Time // the newest of them, oldest first, first included when there are few
	passed int         // how many are older than those of newest
	more   bool        // passed counts some of them only
}

// due collects the moments from first on whose time to fire has come; the newest
// keep of them one by one. first is one itself, and has come: the store says so.
func (m *moments) due(first, now time.Time, keep int) missed {
	out := missed{first: first}
	take := func(t time.Time) {
		out.newest = append(out.newest, t)
		if len(out.newest) >= 2*keep { // cut in bulk
			out.cut(keep)
		}
	}
	walked := 0
	for t := first; t.Equal(first) || !t.IsZero() && !m.at(t).After(now); t = m.next(t) {
		if walked++; walked > maxWalk+keep {
			if later := m.leap(t, now, keep); later.After(t) {
				out.passed += len(out.newest)
				out.newest, out.more, t = out.newest[:0], true, later
			}
			walked = 0
		}
		take(t)
	}
	out.cut(keep)
	return out
}

// cut drops the oldest but keep.
func (o *missed) cut(keep int) {
	if n := len(o.newest) - keep; n > 0 {
		o.newest = append(o.newest[:0], o.newest[n:]...)
		o.passed += n
	}
}

// leap returns a moment not before t after which, until now, there are more than
// keep moments, if so many there are, and hardly more than needed.
func (m *moments) leap(t, now time.Time, keep int) time.Time {
	for back := max(time.Second, 2*m.jitter); ; back *= 2 {
		from := now.Add(-back)
		if back > maxLeap || !from.After(t) {
			return t
		}
		n, last := 0, from
		for n <= keep {
			next := m.next(last)
			if next.IsZero() || m.at(next).After(now) {
				break
			}
			n, last = n+1, next
		}
		if n > keep {
			return m.next(from)
		}
	}
}

// maxLeap bounds what a duration is doubled to.
const maxLeap = 100 * 366 * 24 * time.Hour
