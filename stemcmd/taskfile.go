package stemcmd

import (
	"context"
	"encoding/json"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/tasksfile"
)

// fileTasks returns the tasks of a tasks file.
func fileTasks(file *tasksfile.File) []stem.Registration {
	tasks := make([]stem.Registration, len(file.Tasks))
	for i, t := range file.Tasks {
		tasks[i] = fileTask(t)
	}
	return tasks
}

// fileTask makes a task of one in a tasks file: JSON in, JSON out.
func fileTask(t *tasksfile.Task) stem.Registration {
	opts := []stem.TaskOption{
		stem.Retry(stem.RetryPolicy(t.Retry)), stem.SoftTimeout(t.SoftTimeout), stem.HardTimeout(t.HardTimeout),
	}
	if t.Queue != "" {
		opts = append(opts, stem.Queue(t.Queue))
	}
	if t.Priority != nil {
		opts = append(opts, stem.Priority(*t.Priority))
	}
	if t.Rate.Count > 0 {
		opts = append(opts, stem.RateLimit{Count: t.Rate.Count, Per: t.Rate.Per, Burst: t.Rate.Burst, FailOpen: t.FailOpen})
	}
	if t.MaxRetries != nil {
		opts = append(opts, stem.MaxRetries(*t.MaxRetries))
	}
	return stem.NewTask[json.RawMessage, json.RawMessage](t.Name, opts...).
		With(func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
			e := stem.Current(ctx)
			return t.Run(ctx, foreign.Call{
				ID: e.ID(), Name: e.Name(), Attempt: e.Attempt(), Args: args, Logger: e.Logger(), Trace: e.Trace(),
			})
		})
}
