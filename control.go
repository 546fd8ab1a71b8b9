package stem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// The commands that a worker obeys; see Client.Ask. What is to last is no
// command: a pause (PauseQueues), a revocation (Revoke) and a changed rate limit
// (ChangeRates) are kept by the store, and workers that start later obey them too.
const (
	CommandPing     = runner.KindPing     // replies at once
	CommandInspect  = runner.KindInspect  // replies an Inspection
	CommandStats    = runner.KindStats    // replies a Heartbeat
	CommandShutdown = runner.KindShutdown // ShutdownArgs; replies before it stops
	CommandScale    = runner.KindScale    // ScaleArgs; replies Scaled. It lasts as long as the worker
	CommandLogLevel = runner.KindLogLevel // LogLevelArgs; replies the one before
	CommandRate     = runner.KindRate     // RateArgs, after ChangeRates or ResetRates; replies Rated
)

// Inspection is what a worker replies to CommandInspect.
type Inspection = runner.Inspection

// InspectedTask is a task of an Inspection.
type InspectedTask = runner.InspectedTask

// ShutdownArgs are those of CommandShutdown.
type ShutdownArgs = runner.ShutdownArgs

// ScaleArgs are those of CommandScale.
type ScaleArgs = runner.ScaleArgs

// Scaled is what a worker replies to CommandScale.
type Scaled = runner.Scaled

// LogLevelArgs are those of CommandLogLevel.
type LogLevelArgs = runner.LogLevelArgs

// RateArgs are those of CommandRate.
type RateArgs = runner.RateArgs

// Rated is what a worker replies to CommandRate.
type Rated = runner.Rated

// DefaultAskTime is how long Ask waits for replies unless told otherwise.
const DefaultAskTime = 5 * time.Second

// AskOptions say who is asked, and for how long.
type AskOptions struct {
	To   string        // a worker's id, or a pattern with "*"; "": every worker
	Wait time.Duration // for replies; 0: 5 s
}

// Asked is what came of a question.
type Asked struct {
	Replies []WorkerReply // by worker
	Silent  []string      // workers that live, by their heartbeats, and did not reply in time
}

// WorkerReply is what one worker said.
type WorkerReply struct {
	Worker string
	Took   time.Duration   // from the asking
	Data   json.RawMessage // what the command replies; nil: nothing
	Err    string          // why it was not done; "": it was
}

// Decode reads a reply's data.
func (r *WorkerReply) Decode(to any) error {
	if r.Err != "" {
		return fmt.Errorf("worker %s: %s", r.Worker, r.Err)
	}
	if err := json.Unmarshal(r.Data, to); err != nil {
		return fmt.Errorf("worker %s: its reply cannot be read: %w", r.Worker, err)
	}
	return nil
}

// Ask sends a command to workers, and returns what they replied, as soon as all
// that live have, and in any case after Wait. Who is away hears nothing of it.
// args is marshalled; nil: none. Without a store that has the channel the error
// is broker.ErrUnsupported.
func (c *Client) Ask(ctx context.Context, o AskOptions, kind string, args any) (Asked, error) {
	if c.control == nil {
		return Asked{}, fmt.Errorf("ask workers: no store carries commands: %w", broker.ErrUnsupported)
	}
	if o.To == "" {
		o.To = "*"
	}
	if o.Wait == 0 {
		o.Wait = DefaultAskTime
	}
	cmd := store.Command{ID: task.NewID(), To: o.To, Kind: kind, For: o.Wait}
	if args != nil {
		data, err := json.Marshal(args)
		if err != nil {
			return Asked{}, fmt.Errorf("ask workers: %w", err)
		}
		cmd.Args = data
	}
	a := asking{left: map[string]bool{}}
	if err := a.expect(ctx, c.beats, o.To); err != nil {
		return Asked{}, err
	}
	a.began = time.Now()
	replies, err := c.control.Ask(ctx, cmd)
	if err != nil {
		return Asked{}, fmt.Errorf("ask workers: %w", err)
	}
	err = a.gather(ctx, replies, o.Wait)
	return a.result(), errors.Join(err, replies.Close())
}

// asking is an Ask on its way.
type asking struct {
	began   time.Time
	left    map[string]bool // who lives, and has not replied
	replies []WorkerReply
}

// expect finds out who should reply.
func (a *asking) expect(ctx context.Context, beats store.Heartbeats, to string) error {
	if beats == nil {
		return nil
	}
	live, err := beats.Workers(ctx)
	if err != nil {
		return fmt.Errorf("list workers: %w", err)
	}
	for i := range live {
		if broker.Match(to, live[i].Worker) {
			a.left[live[i].Worker] = true
		}
	}
	return nil
}

// strangersTime is how long a reply is waited for where nobody is known to
// live: a worker that has just started may not have said so yet.
const strangersTime = time.Second

// gather takes replies until nobody is left, or the time is over.
func (a *asking) gather(ctx context.Context, replies store.Replies, wait time.Duration) error {
	if len(a.left) == 0 {
		wait = min(wait, strangersTime)
	}
	waiting, cancel := context.WithDeadline(ctx, a.began.Add(wait))
	defer cancel()
	strangers := len(a.left) == 0
	for strangers || len(a.left) > 0 {
		r, err := replies.Next(waiting)
		if waiting.Err() != nil && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for replies: %w", err)
		}
		delete(a.left, r.Worker)
		a.replies = append(a.replies, WorkerReply{Worker: r.Worker, Took: time.Since(a.began), Data: r.Data, Err: r.Error})
	}
	return nil
}

func (a *asking) result() Asked {
	out := Asked{Replies: a.replies}
	slices.SortFunc(out.Replies, func(x, y WorkerReply) int { return strings.Compare(x.Worker, y.Worker) })
	for w := range a.left {
		out.Silent = append(out.Silent, w)
	}
	slices.Sort(out.Silent)
	return out
}

// FollowWorkers tells of workers' heartbeats as they come, from now on; see
// store.Beats. Its error is broker.ErrUnsupported where the store cannot tell.
func (c *Client) FollowWorkers(ctx context.Context) (store.Beats, error) {
	f, ok := c.beats.(store.BeatFollower)
	if !ok {
		return nil, fmt.Errorf("follow workers: %w", broker.ErrUnsupported)
	}
	b, err := f.Follow(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow workers: %w", err)
	}
	return b, nil
}

// PauseQueues stops queues from being received, by any worker, until
// ResumeQueues; also by workers that start later. What is received already goes
// on. note says why, to those who list pauses.
func (c *Client) PauseQueues(ctx context.Context, note string, queues ...string) error {
	p, ok := broker.As[broker.Pauser](c.broker)
	if !ok {
		return fmt.Errorf("pause queues: %w", broker.ErrUnsupported)
	}
	batch := make([]broker.Pause, len(queues))
	for i, q := range queues {
		batch[i] = broker.Pause{Queue: q, Note: note}
	}
	if err := p.Pause(ctx, batch); err != nil {
		return fmt.Errorf("pause queues: %w", err)
	}
	return nil
}

// ResumeQueues lets paused queues go on, and says of each whether it was paused.
func (c *Client) ResumeQueues(ctx context.Context, queues ...string) ([]bool, error) {
	p, ok := broker.As[broker.Pauser](c.broker)
	if !ok {
		return nil, fmt.Errorf("resume queues: %w", broker.ErrUnsupported)
	}
	was, err := p.Resume(ctx, queues...)
	if err != nil {
		return nil, fmt.Errorf("resume queues: %w", err)
	}
	return was, nil
}

// PausedQueues lists the paused queues, by name; none where the broker cannot
// pause.
func (c *Client) PausedQueues(ctx context.Context) ([]broker.Pause, error) {
	p, ok := broker.As[broker.Pauser](c.broker)
	if !ok {
		return nil, nil
	}
	list, err := p.Pauses(ctx)
	if err != nil {
		return nil, fmt.Errorf("list paused queues: %w", err)
	}
	return list, nil
}

// PendingRevocations returns a page of the tasks that were to be stopped while a
// worker held them, and have not ended since, and the cursor of the next page;
// "" after the last.
func (c *Client) PendingRevocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	l, ok := broker.As[broker.RevocationLister](c.broker)
	if !ok {
		return nil, "", fmt.Errorf("list revocations: %w", broker.ErrUnsupported)
	}
	list, next, err := l.Revocations(ctx, p)
	if err != nil {
		return nil, "", fmt.Errorf("list revocations: %w", err)
	}
	return list, next, nil
}
