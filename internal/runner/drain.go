package runner

import (
	"time"

	"github.com/stemjobs/stem/task"
)

// lastWord is how long the last outcomes of a stop may take to be stored.
const lastWord = time.Second

// stopping is how far a stop has come. It belongs to the fetcher.
type stopping struct {
	warm, soft, left bool // begun: a warm stop, a soft one, the end of waiting
	softAt, leaveAt  time.Duration
	giveUpAt         time.Duration
	report           Report
}

// next is the moment at which the stop goes on by itself; 0: none.
func (s *stopping) next() time.Duration {
	switch {
	case s.left:
		return s.giveUpAt
	case s.soft:
		return s.leaveAt
	default:
		return s.softAt
	}
}

// count takes in one stored outcome of what was held when the stop was asked
// for.
func (s *stopping) count(state task.State) {
	if state == task.Queued {
		s.report.Released++
	} else {
		s.report.Finished++
	}
}

// drain takes a stop further, if one was asked for, and says whether it is
// over. It is called under line.mu.
//
// Warm: what has not started goes back, what runs goes on. Soft: contexts are
// cancelled, and what its handler does not end goes back uncounted after a
// while. Hard: all is left as it is.
func (f *fetcher) drain(now time.Duration) (over bool) {
	l, s, cfg := &f.r.line, &f.stop, &f.r.cfg
	if l.mode == 0 {
		return false
	}
	if l.mode == Hard {
		f.abandon()
		return true
	}
	if !s.warm {
		s.warm = true
		s.softAt = now + max(0, cfg.Grace-cfg.SoftGrace)
		f.giveBack(now, func(*Job) bool { return true })
	}
	if l.mode == Warm && now >= s.softAt {
		l.mode = Soft
	}
	if l.mode == Soft && !s.soft {
		s.soft = true
		s.leaveAt = now + cfg.SoftGrace
		f.interrupt()
	}
	if s.soft && !s.left && now >= s.leaveAt {
		s.left = true
		s.giveUpAt = now + lastWord
		f.leaveBehind(now)
	}
	if l.held.n == 0 && l.executing == 0 {
		return true
	}
	if s.left && now >= s.giveUpAt {
		f.abandon()
		return true
	}
	return false
}

// interrupt tells every handler, and what is about to become one, to stop.
func (f *fetcher) interrupt() {
	for j := f.r.line.held.first; j != nil; j = j.next {
		if j.state == starting || j.state == running {
			j.stop(ErrShutdown)
		}
	}
}

// leaveBehind gives back what handlers would not end, and no longer waits for
// them.
func (f *fetcher) leaveBehind(now time.Duration) {
	l := &f.r.line
	at := f.r.time(now)
	for j := l.held.first; j != nil; j = j.next {
		if j.state != starting && j.state != running {
			continue
		}
		v := release
		if j.state == running {
			v = j.giveBack()
		}
		j.outcome, j.state = f.r.outcome(j, v, at), ended
		f.pending = append(f.pending, j)
	}
	f.leavePool()
}

// abandon leaves everything that is held to its lease.
func (f *fetcher) abandon() {
	l := &f.r.line
	f.stop.report.Abandoned = l.held.n
	f.interrupt()
	for l.held.first != nil {
		l.held.remove(l.held.first)
	}
	f.leavePool()
}

func (f *fetcher) leavePool() {
	l := &f.r.line
	for iso := range l.pool {
		if iso.job != nil && !iso.left {
			l.leave(iso)
		}
	}
}
