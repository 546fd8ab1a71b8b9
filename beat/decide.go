package beat

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

// shot is one claim that a beat is about to make.
type shot struct {
	entry  *Entry // nil: it could not be read
	firing store.Firing
	fires  bool // a task is to be enqueued
}

// candidate is a due entry, read.
type candidate struct {
	store.Schedule
	definition
	running bool // the task before has not ended
}

// definitions are entries that were read, by id: what is due again and again is
// read once. It belongs to one goroutine.
type definitions struct {
	loader schedule.Loader
	read   map[string]definition
}

type definition struct {
	version int64
	entry   *Entry // never changed
	moments *moments
	err     error // it cannot be read
}

// maxRead bounds the definitions that are kept: as many as may be due together,
// or hardly more.
const maxRead = 2 * dueLimit

// of returns a record's definition, read.
func (d *definitions) of(s *store.Schedule) definition {
	if known, ok := d.read[s.ID]; ok && known.version == s.Version {
		return known
	}
	fresh := definition{version: s.Version, entry: &Entry{}}
	if fresh.err = fresh.entry.read(s.Definition, false); fresh.err == nil {
		fresh.entry.ID = s.ID
		fresh.moments, fresh.err = fresh.entry.moments(&d.loader)
	}
	if d.read == nil || len(d.read) >= maxRead {
		d.read = make(map[string]definition)
	}
	d.read[s.ID] = fresh
	return fresh
}

// queues reports whether an entry, as it was read last, has its moments wait for the
// tasks before them.
func (d *definitions) queues(id string) bool {
	known, ok := d.read[id]
	return ok && known.entry.Overlap == OverlapQueue
}

// watchesOverlap reports whether it matters that the task before has ended.
func (c *candidate) watchesOverlap() bool {
	return c.err == nil && (c.entry.Overlap == OverlapSkip || c.entry.Overlap == OverlapQueue) && c.LastTask != ""
}

// waits reports whether its moment waits for the task before it.
func (c *candidate) waits() bool {
	return c.running && c.entry.Overlap == OverlapQueue && c.entry.active()
}

// decide says what becomes of the moments of an entry that are due: one claim
// after the other, each with the moment that follows it.
func (c *candidate) decide(now time.Time) []shot {
	switch {
	case c.err != nil:
		return []shot{c.stop(fmt.Errorf("its definition cannot be read, it does not fire until it is changed: %w", c.err))}
	case !c.entry.active():
		return []shot{c.stop(errNotActive)}
	}
	e := c.entry
	keep := 1
	switch e.policy() {
	case PolicyAll:
		keep = e.Misfire.Max
		if keep == 0 {
			keep = defaultMax
		}
	case PolicySkip:
		keep = maxMax
	}
	due := c.moments.due(c.NextDue, now, keep)
	late := 0
	if grace := e.grace(); grace > 0 {
		for late < len(due.newest) && now.Sub(c.moments.at(due.newest[late])) > grace {
			late++
		}
	}
	passed, rest := due.passed+late, due.newest[late:]
	var shots []shot
	if passed > 0 {
		shots = append(shots, c.pass(&due, passed, rest))
	}
	return append(shots, c.each(rest, now)...)
}

// grace is how late a moment may fire; 0: any time.
func (e *Entry) grace() time.Duration {
	if e.Misfire.Grace == 0 && e.policy() == PolicySkip {
		return defaultGrace
	}
	return e.Misfire.Grace
}

// stop claims the moment, and leaves the entry without a next one.
func (c *candidate) stop(err error) shot {
	return shot{firing: store.Firing{
		ID: c.ID, Version: c.Version, Due: c.NextDue, Outcome: store.OutcomeFailed, Error: err.Error(),
	}}
}

// pass claims the moments that are passed over; rest are those that are not.
func (c *candidate) pass(due *missed, passed int, rest []time.Time) shot {
	f := store.Firing{
		ID: c.ID, Version: c.Version, Due: due.first, Outcome: store.OutcomeMisfired, Missed: passed,
		Jitter: c.moments.at(due.first).Sub(due.first),
	}
	switch {
	case len(rest) > 0:
		f.Next = rest[0]
	default:
		f.Next = c.moments.next(due.newest[len(due.newest)-1])
	}
	f.NextAt = c.moments.at(f.Next)
	count := fmt.Sprint(passed)
	if due.more {
		count = "more than " + count
	}
	f.Error = fmt.Sprintf("%s passed over (policy %s)", count, c.entry.policy())
	return shot{entry: c.entry, firing: f}
}

// each claims moments one by one.
func (c *candidate) each(due []time.Time, now time.Time) []shot {
	e := c.entry
	shots := make([]shot, 0, len(due))
	grace, fired := e.grace(), false
	for i, t := range due {
		f := store.Firing{ID: c.ID, Version: c.Version, Due: t, Jitter: c.moments.at(t).Sub(t)}
		if i+1 < len(due) {
			f.Next = due[i+1]
		} else {
			f.Next = c.moments.next(t)
		}
		f.NextAt = c.moments.at(f.Next)
		s := shot{entry: e, firing: f, fires: true}
		switch {
		case grace > 0 && now.Sub(c.moments.at(t)) > grace: // its jitter is less than that of one before it
			s.fires = false
			s.firing.Outcome, s.firing.Missed, s.firing.Error = store.OutcomeMisfired, 1, fmt.Sprintf("1 passed over (policy %s)", e.policy())
		case e.Overlap == OverlapSkip && (c.running || fired):
			s.fires = false
			s.firing.Outcome, s.firing.Error = store.OutcomeOverlap, "the task before it has not ended"
		}
		fired = fired || s.fires
		if s.fires && e.RunOnce {
			s.firing.Next, s.firing.NextAt = time.Time{}, time.Time{}
		}
		shots = append(shots, s)
		if s.fires && (e.RunOnce || e.Overlap == OverlapQueue) { // what comes next waits for this one's task
			return shots
		}
	}
	return shots
}
