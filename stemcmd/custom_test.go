package stemcmd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	example "github.com/stemjobs/stem/examples/backend"
	"github.com/stemjobs/stem/stemcmd"
	"github.com/stemjobs/stem/store"
)

// toy is the backend of a broker of somebody's own, which declares nothing and
// keeps no statuses. It outlives the commands that open it, as a server would.
type toy struct{ broker broker.Broker }

func (t toy) Broker() broker.Broker        { return struct{ broker.Broker }{t.broker} }
func (t toy) Results() store.Results       { return nil }
func (t toy) Heartbeats() store.Heartbeats { return nil }
func (t toy) Close() error                 { return nil }

// kept is a backend that stays open when a command closes it.
type kept struct{ stem.Backend }

func (kept) Close() error { return nil }

// program runs commands of one app in this process.
type program struct {
	t   *testing.T
	app stemcmd.App
}

// run runs a command, which must end with that code, and returns what it wrote.
func (p program) run(want int, args ...string) (stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	code := stemcmd.Run(p.t.Context(), p.app, stemcmd.Process{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Env: []string{"STEM_BROKER_URL=toy:somewhere", "STEM_RESULT_BACKEND_URL=kept:results"},
	})
	if code != want {
		p.t.Fatalf("%s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// worker starts worker run; the returned function stops it.
func (p program) worker() (stop func()) {
	signals := make(chan os.Signal, 1)
	var out, errs bytes.Buffer
	code := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		code = stemcmd.Run(context.WithoutCancel(p.t.Context()), p.app, stemcmd.Process{
			Args: []string{"worker", "run", "--queues", "*", "--id", "w1", "--http", "127.0.0.1:0"}, Stdout: &out, Stderr: &errs, Signals: signals,
			Env: []string{"STEM_BROKER_URL=toy:somewhere", "STEM_RESULT_BACKEND_URL=kept:results"},
		})
	})
	return func() {
		signals <- syscall.SIGTERM
		wg.Wait()
		if code != 0 || out.Len() > 0 {
			p.t.Errorf("worker run: exit code %d\n%s%s", code, out.String(), errs.String())
		}
	}
}

// TestCustomBroker serves the whole command line with a broker of somebody's
// own, its statuses in another store.
func TestCustomBroker(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	b, results := example.New(), memory.New()
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := results.Close(); err != nil {
			t.Error(err)
		}
	}()
	app := shop()
	app.Openers = map[string]connect.Opener{
		"toy":  func(context.Context, string, connect.Options) (stem.Backend, error) { return toy{b}, nil },
		"kept": func(context.Context, string, connect.Options) (stem.Backend, error) { return kept{results}, nil },
	}
	app.Setup = func(context.Context, *stem.Client) ([]stem.Registration, error) {
		late := stem.NewTask[stem.None, string]("shop.late").With(func(context.Context, stem.None) (string, error) { return "late", nil })
		return []stem.Registration{late}, nil
	}
	p := program{t, app}

	stop := p.worker()
	out, _ := p.run(0, "enqueue", "shop.echo", "--args", `{"a":1}`, "--wait", "--timeout", "20s")
	if out != "{\"a\":1}\n" {
		t.Errorf("result %q", out)
	}
	if out, _ = p.run(0, "enqueue", "shop.late", "--wait", "--timeout", "20s"); out != "\"late\"\n" {
		t.Errorf("result of a task of Setup: %q", out)
	}
	p.run(1, "enqueue", "shop.fail", "--args", `"why"`, "--id", "d1", "--wait", "--timeout", "20s")
	p.run(1, "enqueue", "shop.fail", "--args", `"why"`, "--id", "d2", "--wait", "--timeout", "20s")
	stop()

	out, _ = p.run(0, "dlq", "list", "--queue", "failing", "--limit", "20", "--output", "name")
	if !strings.Contains(out, "d1\n") || !strings.Contains(out, "d2\n") {
		t.Errorf("dlq list: %q", out)
	}
	if out, _ = p.run(0, "dlq", "show", "--queue", "failing", "--id", "d1"); !strings.Contains(out, "d1  dead: retries-exhausted") {
		t.Errorf("dlq show: %q", out)
	}
	if out, _ = p.run(0, "dlq", "replay", "--queue", "failing", "--limit", "5", "--dry-run"); !strings.Contains(out, "would replay 2 dead letters") {
		t.Errorf("dlq replay --dry-run: %q", out)
	}
	p.run(5, "dlq", "replay", "--queue", "failing")
	p.run(0, "dlq", "replay", "--id", "d1", "--yes")
	var status stem.Status
	out, _ = p.run(0, "tasks", "show", "d1", "--output", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatal(err)
	}
	if status.State != stem.Queued || status.ReplayCount != 1 || status.Attempt != 2 || status.LastReplayAt.IsZero() {
		t.Errorf("status after the replay: %+v", status)
	}
	p.run(0, "dlq", "purge", "--queue", "failing", "--yes")
	if out, _ = p.run(0, "queue", "ls", "failing", "--output", "jsonl"); !strings.Contains(out, `"ready":1,"delayed":0,"due":0,"leased":0,"dead":0`) {
		t.Errorf("queue ls: %q", out)
	}
	p.run(0, "queue", "purge", "failing", "--yes")
	p.run(1, "tasks", "wait", "d1")

	out, _ = p.run(0, "health")
	for _, part := range []string{"toy:somewhere", "broker", "custom", "kept:results", "memory"} {
		if !strings.Contains(out, part) {
			t.Errorf("health does not say %q:\n%s", part, out)
		}
	}
	p.run(0, "doctor")
	out, errs := p.run(0, "tasks", "names", "--output", "name")
	if !strings.Contains(out, "shop.echo") || !strings.Contains(errs, "more tasks") {
		t.Errorf("tasks names: %q %q", out, errs)
	}
}
