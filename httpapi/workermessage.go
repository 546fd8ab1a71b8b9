package httpapi

import (
	"encoding/json"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// WorkerList lists the live workers.
type WorkerList struct {
	Workers []store.Heartbeat `json:"workers"`
}

// WorkerShutdown tells workers to stop.
type WorkerShutdown struct {
	Worker  string   `json:"worker" doc:"A worker's id, or a pattern with *; * for all."`
	Mode    string   `json:"mode,omitempty" enum:"warm,soft,hard" doc:"warm finishes what runs, soft cancels it and gives it back, hard stops now; warm unless given."`
	Confirm bool     `json:"confirm,omitempty" doc:"Required."`
	Timeout Duration `json:"timeout,omitempty" doc:"How long replies are waited for, 60s at most; 5s unless given."`
}

// WorkerScale tells workers how many handlers to run at once.
type WorkerScale struct {
	Worker      string   `json:"worker" doc:"A worker's id, or a pattern with *; * for all."`
	Concurrency int      `json:"concurrency" doc:"Handlers at once of each worker, from 1 to 100000."`
	Timeout     Duration `json:"timeout,omitempty" doc:"How long replies are waited for, 60s at most; 5s unless given."`
}

// WorkerLogLevel tells workers what to log.
type WorkerLogLevel struct {
	Worker  string   `json:"worker" doc:"A worker's id, or a pattern with *; * for all."`
	Level   string   `json:"level" enum:"debug,info,warn,error"`
	Timeout Duration `json:"timeout,omitempty" doc:"How long replies are waited for, 60s at most; 5s unless given."`
}

// Asked is what came of a command to workers.
type Asked struct {
	Replies []WorkerReply `json:"replies" doc:"By worker."`
	Silent  []string      `json:"silent" doc:"Workers that live, by their heartbeats, and did not reply in time."`
}

// WorkerReply is what one worker said.
type WorkerReply struct {
	Worker string          `json:"worker"`
	OK     bool            `json:"ok" doc:"It did what it was told."`
	TookMS float64         `json:"tookMs"`
	Data   json.RawMessage `json:"data,omitempty" doc:"What the command replies; none where it replies nothing."`
	Error  string          `json:"error,omitempty" doc:"Why it was not done."`
}

// PauseList lists the paused queues.
type PauseList struct {
	Pauses []broker.Pause `json:"pauses" doc:"By queue."`
}

// QueuePause stops a queue from being received.
type QueuePause struct {
	Note string `json:"note,omitempty" doc:"Why, to those who look; 1024 bytes at most."`
}

// QueueResume lets a queue go on.
type QueueResume struct{}

// QueuePaused is what became of a queue.
type QueuePaused struct {
	Queue   string `json:"queue"`
	Paused  bool   `json:"paused" doc:"As it is now."`
	Changed bool   `json:"changed" doc:"false: it was resumed, and was not paused."`
}

// RevocationList is a page of tasks that were told to stop and have not ended.
type RevocationList struct {
	Revocations []broker.PendingRevocation `json:"revocations"`
	Cursor      string                     `json:"cursor,omitempty" doc:"Of the next page; none after the last."`
}

// AuditList is a page of what people changed.
type AuditList struct {
	Actions []store.Action `json:"actions" doc:"Newest first."`
	Cursor  string         `json:"cursor,omitempty" doc:"Of the next page; none after the last."`
}
