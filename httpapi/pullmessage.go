package httpapi

import (
	"encoding/json"
	"time"
)

// LeaseRequest asks for tasks to execute.
type LeaseRequest struct {
	Queues    []string `json:"queues" doc:"Names, or patterns with *, in the order in which they are served."`
	Worker    string   `json:"worker,omitempty" doc:"Who asks: kept in the tasks' statuses; pull unless given."`
	Count     int      `json:"count,omitempty" doc:"At most so many, 1000 at most; 1 unless given."`
	Wait      Duration `json:"wait,omitempty" doc:"How long to wait for the first one, 30s at most; not at all unless given."`
	Lease     Duration `json:"lease,omitempty" doc:"How long the leases last; the task's own length, or 30s, unless given."`
	RequestID string   `json:"requestId,omitempty" doc:"A repeat with the same id gets the same answer, as long as its leases last."`
}

// LeaseAnswer has what was leased.
type LeaseAnswer struct {
	Tasks []Leased `json:"tasks" doc:"None, when nothing came within the wait."`
}

// Leased is one task to execute.
type Leased struct {
	Receipt     string            `json:"receipt" doc:"The right to extend and to settle; any server of the same store takes it."`
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Args        json.RawMessage   `json:"args" doc:"The argument as plain JSON."`
	Queue       string            `json:"queue"`
	Priority    int               `json:"priority"`
	Attempt     int               `json:"attempt" doc:"Executions that were counted so far; 0 at first."`
	MaxRetries  int               `json:"maxRetries"`
	Redelivered bool              `json:"redelivered" doc:"An earlier lease ended without a word: part of the work may be done."`
	EnqueuedAt  time.Time         `json:"enqueuedAt"`
	LeasedUntil time.Time         `json:"leasedUntil" doc:"By the server's clock: extend or settle before."`
	LeaseMS     int64             `json:"leaseMs" doc:"How long the lease lasts, in milliseconds: extend at half of it."`
	Headers     map[string]string `json:"headers,omitempty"`
	Root        string            `json:"root" doc:"The first task of the line that led to this one: its own id at the start of a line. Give it as root, and id as parent, with what you enqueue for it."`
}

// ExtendRequest keeps leases.
type ExtendRequest struct {
	Tasks     []Extension `json:"tasks" doc:"1 to 1000."`
	RequestID string      `json:"requestId,omitempty" doc:"A repeat with the same id gets the same answer."`
}

// Extension keeps one lease.
type Extension struct {
	Receipt  string        `json:"receipt"`
	Lease    Duration      `json:"lease,omitempty" doc:"From now; the task's own length unless given."`
	Progress *ProgressNote `json:"progress,omitempty" doc:"How far the work is; kept with the status."`
}

// ProgressNote says how far work is.
type ProgressNote struct {
	Percent float64         `json:"percent" doc:"0 to 100."`
	Data    json.RawMessage `json:"data,omitempty" doc:"Anything."`
}

// ExtendAnswer answers an extension.
type ExtendAnswer struct {
	Tasks []Extended `json:"tasks" doc:"One for each of the request, in its order."`
}

// Extended is what became of one lease.
type Extended struct {
	ID      string   `json:"id"`
	OK      bool     `json:"ok" doc:"The lease is kept; else stop working on the task."`
	Revoked bool     `json:"revoked" doc:"Somebody wants the task to stop: settle it as released, and it is cancelled."`
	Error   *Problem `json:"error,omitempty"`
}

// SettleRequest ends leased tasks.
type SettleRequest struct {
	Tasks     []TaskOutcome `json:"tasks" doc:"1 to 1000."`
	RequestID string        `json:"requestId,omitempty" doc:"A repeat with the same id gets the same answer."`
}

// TaskOutcome is how one execution ended.
type TaskOutcome struct {
	Receipt   string          `json:"receipt"`
	Outcome   string          `json:"outcome" doc:"succeeded; failed: retried by the usual policy, or a dead letter; retry: the same at a moment of yours; snooze: later, uncounted; release: given back, uncounted." enum:"succeeded,failed,retry,snooze,release"`
	Result    json.RawMessage `json:"result,omitempty" doc:"Of a success: any JSON value."`
	Error     *RemoteError    `json:"error,omitempty" doc:"Of a failure or a retry."`
	Permanent bool            `json:"permanent,omitempty" doc:"Of a failure: no further attempt, a dead letter at once."`
	Reason    string          `json:"reason,omitempty" doc:"Of a permanent failure: the dead letter's reason; permanent unless given."`
	In        Duration        `json:"in,omitempty" doc:"Of retry and snooze: due so long from now."`
	Worker    string          `json:"worker,omitempty" doc:"Who executed it; as leased unless given."`
	StartedAt time.Time       `json:"startedAt,omitzero" doc:"When; as leased unless given."`
}

// RemoteError is what went wrong in the worker.
type RemoteError struct {
	Type    string `json:"type,omitempty" doc:"A stable word, such as the exception's class."`
	Message string `json:"message,omitempty"`
	Stack   string `json:"stack,omitempty"`
}

// SettleAnswer answers a settlement.
type SettleAnswer struct {
	Tasks []Settled `json:"tasks" doc:"One for each of the request, in its order."`
}

// Settled is what became of one task.
type Settled struct {
	ID       string   `json:"id"`
	OK       bool     `json:"ok" doc:"The outcome is stored."`
	State    string   `json:"state,omitempty" doc:"Where the task went." enum:"queued,retried,succeeded,failed,cancelled"`
	Repeated bool     `json:"repeated,omitempty" doc:"It was stored by an earlier request."`
	Error    *Problem `json:"error,omitempty"`
}
