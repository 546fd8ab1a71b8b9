package runner

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/stemjobs/stem/task"
)

// Dead is a task that this worker has dead-lettered: what Config.OnDead is told.
type Dead struct {
	Envelope *task.Envelope // read-only; of an entry that is no envelope it has little but the id
	Queue    string
	Reason   string      // such as "retries-exhausted", or the handler's own
	Error    *task.Error // of the last attempt; nil: there is none
	Attempt  int         // executions counted
	Replays  int         // how often it had been replayed before
	Worker   string
	At       time.Time
}

const (
	deadTime = 5 * time.Second // for one call of OnDead; at a stop, for all that are left
	deadMost = 1000            // that wait to be told
)

// undertaker calls OnDead, one call after the other, in a goroutine of its own,
// so that whoever is told holds up nothing. The zero value tells nobody.
type undertaker struct {
	tell   func(context.Context, Dead)
	log    *slog.Logger
	queue  chan Dead
	ended  chan struct{}
	cancel context.CancelFunc // of the calls
}

// start begins to tell, until stop is called, or ctx ends.
func (u *undertaker) start(ctx context.Context, log *slog.Logger, tell func(context.Context, Dead)) {
	if tell == nil {
		return
	}
	u.tell, u.log = tell, log
	u.queue, u.ended = make(chan Dead, deadMost), make(chan struct{})
	ctx, u.cancel = context.WithCancel(ctx)
	go u.run(ctx)
}

// bury tells of a dead letter, some time later.
func (u *undertaker) bury(j *Job, worker string) {
	if u.queue == nil {
		return
	}
	d, o := &j.Delivery, &j.outcome
	dead := Dead{
		Envelope: d.Envelope, Queue: d.Queue, Reason: o.Reason, Error: o.Error,
		Attempt: o.Attempt, Replays: d.Replays, Worker: worker, At: o.EndedAt,
	}
	select {
	case u.queue <- dead:
	default:
		u.log.Warn("OnDead is too slow and is not told of a dead letter", "task", d.Envelope.Name, "task_id", d.Envelope.ID)
	}
}

// stop tells what is left, for as long as one call may take, or nothing more
// when it is to end now. Nothing is buried after it.
func (u *undertaker) stop(now bool) {
	if u.queue == nil {
		return
	}
	close(u.queue)
	if now {
		u.cancel()
	}
	limit := time.AfterFunc(deadTime, u.cancel)
	defer limit.Stop()
	<-u.ended
	u.cancel()
}

func (u *undertaker) run(ctx context.Context) {
	defer close(u.ended)
	untold := 0
	for d := range u.queue {
		if ctx.Err() != nil {
			untold++
			continue
		}
		u.call(ctx, d)
	}
	if untold > 0 {
		u.log.Warn("OnDead was not told of dead letters before the stop", "tasks", untold)
	}
}

// call calls OnDead for as long as it may take. One that goes on after that is
// left behind.
func (u *undertaker) call(ctx context.Context, d Dead) {
	ctx, cancel := context.WithTimeout(ctx, deadTime)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				u.log.Error("OnDead panicked", "task", d.Envelope.Name, "task_id", d.Envelope.ID,
					"error", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}()
		u.tell(ctx, d)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		u.log.Warn("OnDead has not returned in time, and is left behind", "task", d.Envelope.Name, "task_id", d.Envelope.ID)
	}
}
