package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Limit is a task's rate limit, over all workers of the store.
type Limit struct {
	Key      string // whose executions are counted together
	Rate     store.Rate
	FailOpen bool // execute while the limiter cannot be asked; else the task waits
}

// NewLimit is the limit of that task, by the name that it is declared with.
func NewLimit(name string, r store.Rate, failOpen bool) *Limit {
	return &Limit{Key: "task:" + name, Rate: r, FailOpen: failOpen}
}

// Reservation is what a delivery asks a limiter for. One that had a slot, and came
// too late or lost its lease, does not wait behind everybody a second time.
func (l *Limit) Reservation(d *broker.Delivery) store.Reservation {
	return store.Reservation{Key: l.Key, Rate: l.Rate, Again: d.Reserved || d.Redelivered}
}

const (
	// slotGrace is how late a task may come for its slot. One that comes later
	// asks again, so that a fleet that was away does not start at once all that
	// came due meanwhile.
	slotGrace = time.Second
	// limiterPatience bounds a call to the limiter: nothing else is received or
	// settled meanwhile.
	limiterPatience = 2 * time.Second
	// longLine is a wait for a slot that is told, once in lineEvery.
	longLine  = time.Minute
	lineEvery = time.Minute
)

// errNoLimiter is what a limit comes to without a Config.Limiter.
var errNoLimiter = errors.New("this worker has no limiter")

// limits is what the fetcher remembers of rate limits.
type limits struct {
	asking   []*Job // scratch: of the batch that was just received
	denied   int64  // deliveries put off so far
	failures int    // calls to the limiter that failed in a row
	told     map[*Task]time.Duration
}

// slotOf says whether a job has a slot of its task's rate limit, or needs none.
// A slot is good for one lease, at its moment: rule B31 of package broker sees
// to the lease. now is by the store's clock.
func (j *Job) slotOf(now time.Time) (free bool) {
	if j.limit = j.r.rates.use(j.task); j.limit == nil {
		return true
	}
	j.slot = hasSlot(&j.Delivery, now)
	return j.slot
}

func hasSlot(d *broker.Delivery, now time.Time) bool {
	return d.Reserved && (d.NotBefore.IsZero() || now.Sub(d.NotBefore) <= slotGrace)
}

// limit asks for slots for what was received and needs one, in one call. Who
// gets one now joins the line; the others go back for the moment of theirs, and
// their places are free for other tasks.
func (f *fetcher) limit(jobs []*Job) {
	if len(jobs) == 0 {
		return
	}
	batch := make([]store.Reservation, len(jobs))
	for i, j := range jobs {
		batch[i] = j.limit.Reservation(&j.Delivery)
	}
	slots, err := f.reserve(batch)
	now := time.Now()
	var passed []*Job
	for i, j := range jobs {
		var s store.Slot
		if err == nil {
			s = slots[i]
		}
		switch failed := errors.Join(err, s.Err); {
		case failed == nil && s.Wait <= 0:
			j.slot = true
			passed = append(passed, j)
		case failed == nil:
			f.tellLine(j, s)
			f.putOff(j, verdict{state: task.Queued, at: s.At, reserved: true}, now)
		case j.limit.FailOpen:
			passed = append(passed, j)
		default:
			wait := jittered(grown(time.Second, 2, 30*time.Second, max(f.limits.failures-1, 0)), 0.5)
			f.putOff(j, verdict{state: task.Queued, wait: wait}, now)
		}
	}
	f.r.line.mu.Lock()
	defer f.r.line.mu.Unlock()
	f.r.line.push(passed)
}

// reserve is the call to the limiter. What goes wrong is told here.
func (f *fetcher) reserve(batch []store.Reservation) ([]store.Slot, error) {
	slots, err := f.askLimiter(batch)
	bad := SlotError(slots, err)
	if bad == nil {
		f.limits.failures = 0
		return slots, nil
	}
	f.limits.failures++
	if loud(f.limits.failures) {
		f.r.log.Warn("cannot ask for slots of rate limits; tasks with one wait, but for those that fail open",
			"failures", f.limits.failures, "error", bad)
	}
	return slots, err
}

func (f *fetcher) askLimiter(batch []store.Reservation) ([]store.Slot, error) {
	if f.r.cfg.Limiter == nil {
		return nil, errNoLimiter
	}
	ctx, cancel := context.WithTimeout(f.r.calling, min(f.r.callTimeout(), limiterPatience))
	defer cancel()
	began := time.Now()
	slots, err := f.r.cfg.Limiter.Reserve(ctx, batch)
	f.r.roundtrip("reserve", time.Since(began), err)
	return Slots(len(batch), slots, err)
}

// Slots is a limiter's answer for so many reservations: a slot for each, or an error.
func Slots(asked int, slots []store.Slot, err error) ([]store.Slot, error) {
	if err == nil && len(slots) != asked {
		err = errContract
	}
	if err != nil {
		return nil, fmt.Errorf("reserve %d slots: %w", asked, err)
	}
	return slots, nil
}

// SlotError is what went wrong with such an answer, or with one of its slots.
func SlotError(slots []store.Slot, err error) error {
	for i := 0; i < len(slots) && err == nil; i++ {
		err = slots[i].Err
	}
	return err
}

// putOff gives a job back that was not started.
func (f *fetcher) putOff(j *Job, v verdict, now time.Time) {
	f.limits.denied++
	o := f.r.outcome(j, v, now)
	f.r.line.mu.Lock()
	defer f.r.line.mu.Unlock()
	j.outcome, j.state = o, ended
	f.pending = append(f.pending, j)
}

// tellLine logs now and then that tasks wait long for their slots.
func (f *fetcher) tellLine(j *Job, s store.Slot) {
	now := f.r.now()
	if last, told := f.limits.told[j.task]; s.Wait < longLine || told && now-last < lineEvery {
		return
	}
	if f.limits.told == nil {
		f.limits.told = map[*Task]time.Duration{}
	}
	f.limits.told[j.task] = now
	f.r.log.Info("more tasks come than their rate limit lets start; a line of them waits",
		"task", j.task.Name, "rate", j.limit.Rate.String(), "wait", s.Wait.Round(time.Second).String())
}
