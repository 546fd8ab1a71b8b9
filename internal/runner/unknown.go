package runner

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/task"
)

// The waits between deliveries of a name that nobody here knows.
const (
	unknownLeast = time.Second
	unknownMost  = 30 * time.Second
)

// strangers remembers the names, and some of the tasks, that this worker does
// not know. It belongs to the fetcher.
type strangers struct {
	names map[string]bool      // logged already
	since map[string]time.Time // first sight of a task whose age says nothing
}

func newStrangers() *strangers {
	return &strangers{names: map[string]bool{}, since: map[string]time.Time{}}
}

// judge leaves a task to workers that may know it, with waits that grow as it
// goes on, and gives it up after the grace.
func (s *strangers) judge(r *Runner, j *Job, now time.Time) verdict {
	e := j.Delivery.Envelope
	if !s.names[e.Name] && len(s.names) < maxNames {
		s.names[e.Name] = true
		r.log.Warn("this worker does not know the task; leaving it to others", "task", e.Name,
			"task_id", e.ID, "queue", j.Delivery.Queue, "grace", r.cfg.UnknownGrace.String())
	}
	age := now.Sub(s.first(j, now))
	if age >= r.cfg.UnknownGrace {
		delete(s.since, key(j))
		return verdict{
			state: task.Failed, reason: task.ReasonTaskUnknown, kind: task.ReasonTaskUnknown,
			err: fmt.Errorf("no worker of queue %s knew the task %s for %s", j.Delivery.Queue, e.Name, age.Round(time.Second)),
		}
	}
	wait := min(max(age/4, unknownLeast), unknownMost)
	return verdict{state: task.Queued, wait: jittered(wait, 0.5)}
}

// first is the moment from which the grace counts: when the task was enqueued,
// or due. Of one that was attempted or replayed since, that says nothing, and
// this worker's first sight of it counts instead.
func (s *strangers) first(j *Job, now time.Time) time.Time {
	e := j.Delivery.Envelope
	if j.Delivery.Attempt == e.Attempt && j.Delivery.Replays == 0 {
		if e.NotBefore.After(e.EnqueuedAt) {
			return e.NotBefore
		}
		return e.EnqueuedAt
	}
	at, seen := s.since[key(j)]
	if !seen {
		if len(s.since) >= maxNames {
			clear(s.since) // a longer grace for some is the lesser evil
		}
		at = now
		s.since[key(j)] = at
	}
	return at
}

// key tells a task from itself after a replay.
func key(j *Job) string { return fmt.Sprintf("%s~%d", j.Delivery.Envelope.ID, j.Delivery.Replays) }
