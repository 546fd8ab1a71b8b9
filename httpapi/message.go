package httpapi

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/task"
)

// The requests and answers of the API. Their json tags are its names, a field
// without "omit" is required, and the doc tags are its documentation. An alias is
// another name that is understood.

// Duration is a length of time, written as Go does: "30s", "1h30m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%w duration %.40q: want one such as 30s or 1h30m", task.ErrInvalid, text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Retention is a Duration, or "forever".
type Retention time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Retention) UnmarshalText(text []byte) error {
	if string(text) == "forever" {
		*r = Retention(stem.Forever)
		return nil
	}
	return (*Duration)(r).UnmarshalText(text)
}

// MarshalText implements encoding.TextMarshaler.
func (r Retention) MarshalText() ([]byte, error) {
	if time.Duration(r) == stem.Forever {
		return []byte("forever"), nil
	}
	return Duration(r).MarshalText()
}

// NewTask is one task to enqueue.
type NewTask struct {
	Name              string                     `json:"name" alias:"task" doc:"The task's name: 1–200 of A-Z a-z 0-9 . _ : - /."`
	Args              json.RawMessage            `json:"args,omitempty" doc:"The argument: any JSON value; null unless given."`
	ID                string                     `json:"id,omitempty" doc:"An id of your own: 1–128 of A-Z a-z 0-9 . _ : -. One in use is refused."`
	Queue             string                     `json:"queue,omitempty" doc:"The queue; the server's default unless given."`
	In                Duration                   `json:"in,omitempty" doc:"Due so long from now, such as 30s. Not with at."`
	At                time.Time                  `json:"at,omitzero" doc:"Due at that moment (RFC 3339)."`
	ExpiresIn         Duration                   `json:"expiresIn,omitempty" doc:"Cancelled unless started within that time. Not with expiresAt."`
	ExpiresAt         time.Time                  `json:"expiresAt,omitzero" doc:"Cancelled unless started by that moment (RFC 3339)."`
	Priority          *int                       `json:"priority,omitempty" doc:"0 to 9, 9 first; 5 unless given."`
	MaxRetries        *int                       `json:"maxRetries,omitempty" doc:"How many attempts may follow the first."`
	VisibilityTimeout Duration                   `json:"visibilityTimeout,omitempty" doc:"The length of this task's leases."`
	Retention         *Retention                 `json:"retention,omitempty" doc:"How long the status is kept after the end: a duration, 0s for not at all, or forever."`
	IgnoreResult      bool                       `json:"ignoreResult,omitempty" doc:"Keep the state and drop the result."`
	KeepArgs          *bool                      `json:"keepArgs,omitempty" doc:"false: the status keeps no arguments once the task has succeeded or is cancelled."`
	Headers           map[string]string          `json:"headers,omitempty" doc:"Headers; keys that begin with stem- are refused."`
	Meta              map[string]json.RawMessage `json:"meta,omitempty" doc:"Annotations, kept with the status."`
	Parent            string                     `json:"parent,omitempty" doc:"The task in whose execution this one is enqueued; kept with the status."`
	Root              string                     `json:"root,omitempty" doc:"The first task of that line; the parent unless given."`
	IdempotencyKey    string                     `json:"idempotencyKey,omitempty" doc:"A further enqueue with this key gets the first task's id. As the header Idempotency-Key."`
	IdempotencyTTL    Duration                   `json:"idempotencyTtl,omitempty" doc:"How long the key is remembered; 24h unless given."`
	OnSuccess         []NewTask                  `json:"onSuccess,omitempty" doc:"Tasks enqueued when this one succeeds; one without args gets its result."`
	OnFailure         []NewTask                  `json:"onFailure,omitempty" doc:"Tasks enqueued when this one is dead-lettered; one without args gets its error."`
	Encoders          []string                   `json:"encoders,omitzero" doc:"Encoders of argument and result, in place of the server's."`
}

// NewTasks is the body of a batch.
type NewTasks struct {
	Tasks []NewTask `json:"tasks" doc:"1 to 10000 tasks of any kind."`
}

// Enqueued is what became of one task to enqueue.
type Enqueued struct {
	ID        string   `json:"id" doc:"The task's id, also when it was not stored."`
	Duplicate bool     `json:"duplicate" doc:"The id is an earlier task's, which holds the idempotency key."`
	Error     *Problem `json:"error,omitempty" doc:"Why it was not stored."`
}

// EnqueuedMany answers a batch.
type EnqueuedMany struct {
	Tasks []Enqueued `json:"tasks" doc:"One for each task of the request, in its order."`
}

// TaskList is a page of statuses.
type TaskList struct {
	Tasks     []stem.Status `json:"tasks" doc:"Newest first."`
	Cursor    string        `json:"cursor,omitempty" doc:"Of the next page; none after the last."`
	Looked    int           `json:"looked" doc:"How many records were looked at."`
	Truncated bool          `json:"truncated" doc:"The bound of the search was reached before the page was full."`
}

// RevokeRequest says how a task is revoked.
type RevokeRequest struct {
	Terminate bool   `json:"terminate,omitempty" doc:"Also stop it when it runs."`
	Reason    string `json:"reason,omitempty" doc:"Kept with the status; revoked unless given."`
}

// Revoked is what a revocation came to.
type Revoked struct {
	ID     string `json:"id"`
	State  string `json:"state" doc:"cancelled: it never starts; asked: the worker that holds it is told; too-late: it ended already." enum:"cancelled,asked,too-late"`
	Worker string `json:"worker,omitempty" doc:"Who holds it."`
}

// QueueList lists queues.
type QueueList struct {
	Queues []Queue `json:"queues"`
}

// Queue describes one queue.
type Queue struct {
	Name             string  `json:"name"`
	Ready            int     `json:"ready" doc:"Tasks that could start now."`
	Delayed          int     `json:"delayed" doc:"Tasks that wait for their moment, retries too."`
	Due              int     `json:"due" doc:"Of these, due within a minute; counting may stop at 10000."`
	Leased           int     `json:"leased" doc:"Tasks that workers hold."`
	Dead             int     `json:"dead" doc:"Dead letters."`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds" doc:"How long the oldest ready task has been ready."`
}

// Scale is what an autoscaler wants to know of a queue.
type Scale struct {
	Queue            string  `json:"queue"`
	Value            int     `json:"value" doc:"Ready, due and leased tasks: the work there is, or will be in a minute."`
	Ready            int     `json:"ready"`
	Due              int     `json:"due" doc:"Delayed tasks that are due within a minute; counting may stop at 10000."`
	Delayed          int     `json:"delayed" doc:"All that wait for their moment; the later ones are not in value."`
	Leased           int     `json:"leased"`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds" doc:"How long the oldest ready task has been ready."`
}

// QueuePurge asks for a queue's waiting tasks to be cancelled.
type QueuePurge struct {
	Confirm bool `json:"confirm,omitempty" doc:"Required, unless dryRun is true."`
	DryRun  bool `json:"dryRun,omitempty" doc:"Say how many, and change nothing."`
}

// DeadFilter selects dead letters; without fields, all.
type DeadFilter struct {
	Queue  string    `json:"queue,omitempty" doc:"A name, or a pattern with *."`
	IDs    []string  `json:"ids,omitempty" doc:"Task ids, 1000 at most."`
	Task   string    `json:"task,omitempty" doc:"A task name, or a pattern with *."`
	Reason string    `json:"reason,omitempty" doc:"Such as retries-exhausted."`
	Before time.Time `json:"before,omitzero" doc:"Dead since before that moment (RFC 3339)."`
}

// DeadReplay asks for dead letters to be put back into their queues.
type DeadReplay struct {
	Filter DeadFilter `json:"filter" doc:"Which; {} for all."`
	Limit  int        `json:"limit,omitempty" doc:"At most so many, oldest first; all unless given."`
	In     Duration   `json:"in,omitempty" doc:"Due so long from now."`
	DryRun bool       `json:"dryRun,omitempty" doc:"Say how many, and change nothing."`
}

// DeadPurge asks for dead letters to be removed for good.
type DeadPurge struct {
	Filter  DeadFilter `json:"filter" doc:"Which; {} for all."`
	Limit   int        `json:"limit,omitempty" doc:"At most so many, oldest first; all unless given."`
	Confirm bool       `json:"confirm,omitempty" doc:"Required, unless dryRun is true."`
	DryRun  bool       `json:"dryRun,omitempty" doc:"Say how many, and change nothing."`
}

// Changed says what a purge or a replay did, or would do.
type Changed struct {
	Count  int      `json:"count"`
	DryRun bool     `json:"dryRun"`
	IDs    []string `json:"ids" doc:"Of the first 1000."`
}

// DeadList is a page of dead letters.
type DeadList struct {
	DeadLetters []DeadLetter `json:"deadLetters" doc:"Newest first, without their envelopes."`
	Cursor      string       `json:"cursor,omitempty" doc:"Of the next page; none after the last."`
}

// DeadLetter is a task that failed for good.
type DeadLetter struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Queue        string          `json:"queue"`
	Reason       string          `json:"reason"`
	Error        *task.Error     `json:"error,omitempty"`
	Errors       []task.Error    `json:"errors" doc:"Of the newest attempts, oldest first."`
	Attempt      int             `json:"attempt"`
	MaxRetries   int             `json:"maxRetries"`
	Epoch        int64           `json:"epoch"`
	EnqueuedAt   time.Time       `json:"enqueuedAt,omitzero"`
	DeadAt       time.Time       `json:"deadAt"`
	ReplayCount  int             `json:"replayCount"`
	LastReplayAt time.Time       `json:"lastReplayAt,omitzero"`
	Envelope     json.RawMessage `json:"envelope,omitempty" doc:"As docs/wire.md has it; in an answer for one id."`
	Raw          []byte          `json:"raw,omitempty" doc:"The stored entry in base64, when it is no envelope."`
}
