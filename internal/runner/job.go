package runner

import (
	"encoding/json"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Job is one execution of a delivery. Its methods are safe for concurrent use,
// and do nothing once the execution has ended.
type Job struct {
	Delivery broker.Delivery
	Worker   string
	Started  time.Time
	Deadline time.Time // of the nearer limit; zero: none

	// the runner adds the fields of its own
}

// Progress reports how far the handler is; it travels with the next exchange.
func (j *Job) Progress(percent float64, data json.RawMessage) {}

// Heartbeat renews the lease now, for its usual length.
func (j *Job) Heartbeat() {}

// ExtendLease makes the lease end d from now, or later.
func (j *Job) ExtendLease(d time.Duration) {}

// OnSuccess adds a publication that this attempt's success enqueues.
func (j *Job) OnSuccess(p ...broker.Publication) {}

// Envelope is the task's envelope; read-only.
func (j *Job) Envelope() *task.Envelope { return j.Delivery.Envelope }
