package stem

import (
	"encoding/json"
	"slices"
	"time"
)

// TaskInfo is what a declaration says of a task, for those who list tasks. A
// nil field is left to the client or the worker.
type TaskInfo struct {
	Name        string
	Aliases     []string
	Queue       string // "": the default queue
	Priority    *int
	MaxRetries  *int
	Retry       RetryPolicy
	SoftTimeout time.Duration // 0: none
	HardTimeout time.Duration // 0: none
	RateLimit   *RateLimit    // nil: none
}

// Info describes the task.
func (r Registration) Info() TaskInfo {
	o := gathered(r.def.defaults, nil)
	return TaskInfo{
		Name: r.def.name, Aliases: slices.Clone(r.def.aliases), Queue: o.queue, Priority: o.priority, MaxRetries: o.maxRetries,
		Retry: r.def.retry, SoftTimeout: r.def.soft, HardTimeout: r.def.hard, RateLimit: r.def.limit,
	}
}

// Item is the task with an argument that is JSON already, as Task.Item makes
// one of a typed argument. Nil args are null.
func (r Registration) Item(args json.RawMessage, opts ...Option) Item {
	return Item{name: r.def.name, args: args, opts: gather(r.def.defaults, opts)}
}
