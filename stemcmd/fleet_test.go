package stemcmd

import (
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/store"
)

func sampleWorkers() []workerRow {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.FixedZone("CET", 3600))
	h := stem.Heartbeat{
		Worker: "web-1", Host: "web", PID: 42, Version: "1.2.3", StartedAt: at, At: at.Add(time.Hour), Interval: 10_000,
		Queues: []string{"default", "m*"}, Isolates: store.Isolates{Active: 2, Total: 8}, Inflight: 3,
		Running:   []store.RunningJob{{ID: "a1", Name: "email.send", Since: at.UTC()}},
		Succeeded: 10, Failed: 1, Retried: 2, Load: 0.75, RenewedAt: at,
	}
	return []workerRow{
		workerRowOf(h, 2*time.Second),
		workerRowOf(stem.Heartbeat{Worker: "web-2", Interval: 10_000}, 16*time.Second),
	}
}

// TestFleetJSONIsStable holds what programs read of workers and reports.
func TestFleetJSONIsStable(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	asked := stem.Asked{
		Replies: []stem.WorkerReply{{Worker: "a", Took: 1500 * time.Microsecond}, {Worker: "b", Took: time.Millisecond, Err: "busy"}},
		Silent:  []string{"c"},
	}
	for name, list := range map[string]func(*session) error{
		"workers": func(s *session) error { _, err := list(s, workerView(), one(sampleWorkers())); return err },
		"replies": func(s *session) error { _, err := list(s, replyView(), one(replies(asked, nil))); return err },
		"inspected": func(s *session) error {
			x := inspected{"a", "active", stem.InspectedTask{ID: "a1", Name: "email.send", Queue: "mail", Attempt: 1, Since: at, Revoked: true}}
			_, err := list(s, inspectedView(), one([]inspected{x}))
			return err
		},
		"paused": func(s *session) error {
			_, err := list(s, pausedView(), one([]paused{{"mail", "resumed"}, {"x", "was not paused"}}))
			return err
		},
		"queue-reports": func(s *session) error {
			q := queueReport{queueInfo: queueInfo{Name: "mail", Ready: 3, OldestAgeSeconds: 1.5}, State: "paused", Note: "why", Workers: 2}
			_, err := list(s, queueReportView(), one([]queueReport{q}))
			return err
		},
		"dead-reports": func(s *session) error {
			d := deadReport{Queue: "mail", Reason: "permanent", Count: 7, Oldest: at, Newest: at.Add(time.Hour), Task: "email.send", Error: "no"}
			_, err := list(s, deadReportView(), one([]deadReport{d}))
			return err
		},
		"task-reports": func(s *session) error {
			r := taskReport{Task: "email.send"}
			for _, st := range sampleStatuses() {
				r.count(&st)
			}
			_, err := list(s, taskReportView(), one([]taskReport{r}))
			return err
		},
	} {
		golden(t, name+".json", show(t, asJSON, list))
		golden(t, name+".jsonl", show(t, asJSONL, list))
	}
}

// TestWorkerStates holds from when on a silent worker is late, and gone.
func TestWorkerStates(t *testing.T) {
	busy := stem.Heartbeat{Interval: 10_000, Isolates: store.Isolates{Active: 1, Total: 2}}
	for want, row := range map[string]workerRow{
		stateActive:   workerRowOf(busy, 15*time.Second),
		stateLate:     workerRowOf(busy, 15*time.Second+1),
		stateGone:     workerRowOf(busy, 30*time.Second+1),
		stateIdle:     workerRowOf(stem.Heartbeat{Interval: 10_000}, -time.Second),
		stateDraining: workerRowOf(stem.Heartbeat{Draining: true}, time.Second),
		stateStopped:  workerRowOf(stem.Heartbeat{Stopped: true}, time.Hour),
	} {
		if row.State != want {
			t.Errorf("state %s, want %s", row.State, want)
		}
	}
}

// TestAskedOf holds the exit codes of what asks workers.
func TestAskedOf(t *testing.T) {
	good, bad := stem.WorkerReply{Worker: "a"}, stem.WorkerReply{Worker: "b", Err: "no"}
	for _, x := range []struct {
		asked stem.Asked
		code  int
	}{
		{stem.Asked{}, ExitNotFound},
		{stem.Asked{Replies: []stem.WorkerReply{good}}, ExitDone},
		{stem.Asked{Replies: []stem.WorkerReply{good, bad}}, ExitPartly},
		{stem.Asked{Replies: []stem.WorkerReply{good}, Silent: []string{"c"}}, ExitPartly},
		{stem.Asked{Replies: []stem.WorkerReply{bad}}, ExitFailed},
		{stem.Asked{Silent: []string{"c"}}, ExitFailed},
	} {
		if got := exitCode(askedOf(&askFlags{worker: "*"}, x.asked)); got != x.code {
			t.Errorf("%+v: exit code %d, want %d", x.asked, got, x.code)
		}
	}
}
