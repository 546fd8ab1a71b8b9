package runner

import (
	"encoding/json"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Elsewhere judges executions that no runner of this process did: those of
// pullers over the network. It makes the settlements that a runner would make,
// by the same rules.
type Elsewhere struct {
	Worker        string        // who executed
	Task          *Task         // as it is declared; nil: nobody here knows
	Keep          time.Duration // of terminal statuses when the envelope says nothing; 0: 24 h
	MaxResult     int           // bytes; 0: task.DefaultMaxSize
	MaxDeliveries int           // counted starts without settlement; 0: 10
	Ahead         time.Duration // how far the store's clock is ahead of ours, as broker.Batch has it
}

func (e Elsewhere) job(d *broker.Delivery, started time.Time) (*Runner, *Job) {
	cfg := Config{ID: e.Worker, Keep: e.Keep, MaxResult: e.MaxResult}
	if cfg.Keep == 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.MaxResult == 0 {
		cfg.MaxResult = task.DefaultMaxSize
	}
	r := &Runner{cfg: cfg}
	r.ahead.Store(int64(e.Ahead))
	return r, &Job{Delivery: *d, Worker: e.Worker, Started: started, task: e.Task}
}

// Refuse is the settlement of a delivery that must not be executed at all: a
// malformed, an expired one, or one that was started too often.
func (e Elsewhere) Refuse(d *broker.Delivery, now time.Time) (broker.Settlement, bool) {
	limit := e.MaxDeliveries
	if limit == 0 {
		limit = defaultMaxDeliveries
	}
	v, refused := refusal(d, limit, now.Add(e.Ahead))
	if !refused {
		return broker.Settlement{}, false
	}
	r, j := e.job(d, time.Time{})
	return r.settlement(j, r.outcome(j, v, now)), true
}

// Succeeded is the settlement of an execution with a result, which is encoded
// as the envelope asks; nil stands for none.
func (e Elsewhere) Succeeded(d *broker.Delivery, started time.Time, result json.RawMessage, now time.Time) broker.Settlement {
	r, j := e.job(d, started)
	return r.settlement(j, r.success(j, result, now))
}

// Failed is the settlement of an execution that ended with err: a
// *PermanentError, *RetryError, *SnoozeError, *ArgsError, *ResultError,
// *RemoteError or any other.
func (e Elsewhere) Failed(d *broker.Delivery, started time.Time, err error, now time.Time) broker.Settlement {
	r, j := e.job(d, started)
	return r.settlement(j, r.outcome(j, j.judge(err, nil), now))
}

// GivenBack is the settlement of an execution that was broken off in good
// order: it does not count.
func (e Elsewhere) GivenBack(d *broker.Delivery, now time.Time) broker.Settlement {
	r, j := e.job(d, time.Time{})
	return r.settlement(j, r.outcome(j, j.giveBack(), now))
}

// HasSlot reports whether a delivery comes for the slot of a rate limit that was
// reserved for it, and in time.
func (e Elsewhere) HasSlot(d *broker.Delivery, now time.Time) bool {
	return hasSlot(d, now.Add(e.Ahead))
}

// PutOff is the settlement of a delivery that waits for the slot of a rate limit,
// or, when at is zero, that nobody could ask for one for so long.
func (e Elsewhere) PutOff(d *broker.Delivery, at time.Time, wait time.Duration, now time.Time) broker.Settlement {
	r, j := e.job(d, time.Time{})
	v := verdict{state: task.Queued, at: at, wait: wait, reserved: !at.IsZero()}
	return r.settlement(j, r.outcome(j, v, now))
}

func (r *Runner) settlement(j *Job, o task.Outcome) broker.Settlement {
	o, followups := r.followups(j, o)
	if o.State == task.Succeeded && j.ignoresResult() {
		o.Result = nil
	}
	return broker.Settlement{Receipt: j.Delivery.Receipt, Outcome: o, Followups: followups}
}

// RemoteError is an error of another language: its type is what that language
// calls it.
type RemoteError struct {
	Type    string // "": "error"
	Message string
	Stack   string
}

func (e *RemoteError) Error() string { return e.Message }
