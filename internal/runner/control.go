package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// The kinds of commands that a worker obeys.
const (
	KindPing     = "ping"      // replies at once
	KindInspect  = "inspect"   // replies an Inspection
	KindStats    = "stats"     // replies its store.Heartbeat
	KindShutdown = "shutdown"  // ShutdownArgs; replies before it stops
	KindScale    = "scale"     // ScaleArgs; replies Scaled
	KindLogLevel = "log-level" // LogLevelArgs; replies LogLevelArgs, as it was before
	KindRate     = "rate"      // RateArgs: a rate limit was changed; replies Rated
)

// Inspection is what a worker holds at one moment.
type Inspection struct {
	Active     []InspectedTask `json:"active"`     // executing, the oldest first
	Prefetched []InspectedTask `json:"prefetched"` // not started, first come first
	Unsettled  int             `json:"unsettled"`  // ended, and their outcome is not stored yet
	Truncated  bool            `json:"truncated"`  // there are more than are listed
}

// InspectedTask is a task that a worker holds.
type InspectedTask struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Queue   string    `json:"queue"`
	Attempt int       `json:"attempt"`
	Since   time.Time `json:"since"`             // started, or received
	Revoked bool      `json:"revoked,omitempty"` // it was told to stop, and has not ended
}

// maxInspected bounds each list of an Inspection.
const maxInspected = 500

// ShutdownArgs are those of KindShutdown.
type ShutdownArgs struct {
	Mode string `json:"mode"` // warm, soft or hard
}

// ScaleArgs are those of KindScale.
type ScaleArgs struct {
	Concurrency int `json:"concurrency"`
}

// Scaled is the reply to KindScale.
type Scaled struct {
	Before int `json:"before"`
	After  int `json:"after"`
}

// LogLevelArgs are those of KindLogLevel.
type LogLevelArgs struct {
	Level string `json:"level"` // debug, info, warn or error
}

// MaxConcurrency bounds what a worker may be scaled to.
const MaxConcurrency = 100_000

// ParseMode returns the mode of that name.
func ParseMode(name string) (Mode, error) {
	for m := Warm; m <= Hard; m++ {
		if m.String() == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%w mode %q: want warm, soft or hard", task.ErrInvalid, name)
}

// String is the mode's name.
func (m Mode) String() string {
	switch m {
	case Warm:
		return "warm"
	case Soft:
		return "soft"
	case Hard:
		return "hard"
	default:
		return "none"
	}
}

// obey listens to commands until ctx ends. It listens anew for as long as it
// takes while the store is away: what was sent meanwhile is not heard.
func (r *Runner) obey(ctx context.Context) {
	if r.cfg.Control == nil {
		return
	}
	for failures := 1; ctx.Err() == nil; failures++ {
		heard, err := r.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			failures = 1
		}
		if loud(failures) {
			r.log.Warn("cannot hear commands; will try again", "failures", failures, "error", err)
		}
		t := time.NewTimer(patience(failures))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// listen obeys until it cannot hear any more, and says whether it ever could.
func (r *Runner) listen(ctx context.Context) (heard bool, err error) {
	l, err := r.cfg.Control.Listen(ctx, r.cfg.ID)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	_ = r.readRates(ctx) // it may have been told while nobody listened
	for {
		c, err := l.Next(ctx)
		if err != nil {
			return true, err
		}
		r.command(ctx, l, c)
	}
}

// replyTimeout bounds the sending of a reply.
const replyTimeout = 5 * time.Second

// command does what is asked, and replies.
func (r *Runner) command(ctx context.Context, l store.Commands, c store.Command) {
	level := slog.LevelInfo
	if c.Kind == KindPing || c.Kind == KindInspect || c.Kind == KindStats {
		level = slog.LevelDebug // they change nothing
	}
	r.log.Log(ctx, level, "command received", "command", c.Kind, "command_id", c.ID, "args", string(c.Args))
	reply := store.Reply{Command: c.ID}
	answer, after, err := r.answer(ctx, c)
	if err == nil && answer != nil {
		reply.Data, err = json.Marshal(answer)
	}
	if err != nil {
		reply.Data, reply.Error = nil, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	if err := l.Reply(ctx, reply); err != nil {
		r.log.Warn("cannot reply to a command", "command", c.Kind, "command_id", c.ID, "error", err)
	}
	if after != nil {
		after()
	}
}

// answer obeys one command; after is what is to be done once it is answered.
func (r *Runner) answer(ctx context.Context, c store.Command) (answer any, after func(), err error) {
	switch c.Kind {
	case KindPing:
		return nil, nil, nil
	case KindInspect:
		return r.Inspect(), nil, nil
	case KindStats:
		return r.Snapshot(), nil, nil
	case KindShutdown:
		var a ShutdownArgs
		if err := readArgs(c, &a); err != nil {
			return nil, nil, err
		}
		mode, err := ParseMode(a.Mode)
		return nil, func() {
			if err == nil {
				r.Shutdown(mode)
			}
		}, err
	case KindScale:
		var a ScaleArgs
		if err := readArgs(c, &a); err != nil {
			return nil, nil, err
		}
		before, err := r.Scale(a.Concurrency)
		return Scaled{before, a.Concurrency}, nil, err
	case KindLogLevel:
		var a LogLevelArgs
		if err := readArgs(c, &a); err != nil {
			return nil, nil, err
		}
		before, err := r.setLogLevel(a.Level)
		return LogLevelArgs{before}, nil, err
	case KindRate:
		var a RateArgs
		if err := readArgs(c, &a); err != nil {
			return nil, nil, err
		}
		rated, err := r.rated(ctx, a)
		return rated, nil, err
	default:
		return nil, nil, fmt.Errorf("this worker does not know the command %q", c.Kind)
	}
}

func readArgs(c store.Command, to any) error {
	if err := json.Unmarshal(c.Args, to); err != nil {
		return fmt.Errorf("the arguments of %s cannot be read: %w", c.Kind, err)
	}
	return nil
}

// Inspect tells what the worker holds now.
func (r *Runner) Inspect() Inspection {
	in := Inspection{Active: []InspectedTask{}, Prefetched: []InspectedTask{}}
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	for j := l.held.first; j != nil; j = j.next {
		list := &in.Prefetched
		since := r.time(j.received)
		switch j.state {
		case ended:
			in.Unsettled++
			continue
		case running:
			list, since = &in.Active, j.Started
		case starting:
			list = &in.Active
		}
		e := j.Delivery.Envelope
		*list = append(*list, InspectedTask{
			ID: e.ID, Name: e.Name, Queue: j.Delivery.Queue, Attempt: j.Delivery.Attempt,
			Since: since.Round(0).UTC(), Revoked: errors.Is(j.stopped, ErrRevoked),
		})
	}
	slices.SortStableFunc(in.Active, func(a, b InspectedTask) int { return a.Since.Compare(b.Since) })
	for _, list := range []*[]InspectedTask{&in.Active, &in.Prefetched} {
		if len(*list) > maxInspected {
			*list, in.Truncated = (*list)[:maxInspected], true
		}
	}
	return in
}

// Scale changes how many isolates the worker has, and returns how many it had.
// What runs goes on: isolates that are too many leave when they are free. It
// lasts as long as the worker does.
func (r *Runner) Scale(concurrency int) (before int, err error) {
	if concurrency < 1 || concurrency > MaxConcurrency {
		return 0, fmt.Errorf("%w concurrency %d: want 1 to %d", task.ErrInvalid, concurrency, MaxConcurrency)
	}
	l := &r.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.mode != 0 {
		return l.wanted, errors.New("the worker is stopping")
	}
	before, l.wanted = l.wanted, concurrency
	if !l.open {
		return before, nil // startPool starts as many
	}
	for l.isolates < l.wanted {
		r.startIsolate()
	}
	l.work.Broadcast()
	l.wakeFetcher()
	return before, nil
}

// setLogLevel changes what is logged, and returns what was.
func (r *Runner) setLogLevel(name string) (before string, err error) {
	if r.cfg.LogLevel == nil {
		return "", errors.New("this worker's program chose its logger, and its level cannot be changed")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return "", fmt.Errorf("%w log level %q: want debug, info, warn or error", task.ErrInvalid, name)
	}
	before = r.cfg.LogLevel.Level().String()
	r.cfg.LogLevel.Set(level)
	return before, nil
}
