package stemcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/stemjobs/stem"
)

// demoTask is a task that dev has when there is no other.
type demoTask struct {
	stem.Registration
	says string
	args string // an example, as JSON
}

func demoTasks() []demoTask {
	return []demoTask{{
		stem.NewTask[json.RawMessage, json.RawMessage]("demo.echo").With(demoEcho),
		"answers its argument", `{"hello":"world"}`,
	}, {
		stem.NewTask[string, string]("demo.sleep").With(demoSleep),
		"sleeps for its argument, and tells its progress", `"2s"`,
	}, {
		stem.NewTask[string, stem.None]("demo.fail", stem.MaxRetries(2), stem.Retry(stem.RetryPolicy{Base: time.Second / 2})).Do(demoFail),
		"fails, is retried twice, and becomes a dead letter", `"no luck"`,
	}}
}

func demoEcho(_ context.Context, args json.RawMessage) (json.RawMessage, error) { return args, nil }

// demoSleep sleeps in steps of a hundredth, or of 50 ms where that is more.
func demoSleep(ctx context.Context, length string) (string, error) {
	total, err := time.ParseDuration(length)
	if err != nil || total < 0 || total > time.Hour {
		return "", stem.Permanent(fmt.Errorf("want a duration of an hour at most, such as \"2s\", and got %.40q", length))
	}
	began := time.Now()
	tick := time.NewTicker(max(total/100, 50*time.Millisecond))
	defer tick.Stop()
	end := time.NewTimer(total)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-end.C:
			return "slept " + total.String(), nil
		case <-tick.C:
			done := 100 * float64(time.Since(began)) / float64(total)
			if err := stem.Current(ctx).Progress(min(done, 100), nil); err != nil {
				return "", fmt.Errorf("tell the progress: %w", err)
			}
		}
	}
}

func demoFail(_ context.Context, why string) error {
	if why == "" {
		why = "asked to"
	}
	return errors.New(why)
}
