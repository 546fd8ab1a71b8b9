//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
)

// The tasks of the fault tests.
var (
	work     = stem.NewTask[workArgs, int]("chaos.work", stem.Retry(stem.RetryPolicy{Base: 50 * time.Millisecond, Max: 100 * time.Millisecond}))
	suicide  = stem.NewTask[stem.None, stem.None]("chaos.suicide")
	flaky    = stem.NewTask[flakyArgs, int]("chaos.flaky", stem.Retry(stem.RetryPolicy{Base: 500 * time.Millisecond, Max: time.Second}))
	stubborn = stem.NewTask[stubbornArgs, string]("chaos.stubborn")
)

type stubbornArgs struct {
	FirstWaits bool `json:"firstWaits"`
}

type flakyArgs workArgs

type workArgs struct {
	Millis int `json:"ms"`
	Result int `json:"result"`
}

const (
	roleEnv = "STEM_CHAOS_ROLE" // set in worker processes: this binary, executed again
	dirEnv  = "STEM_CHAOS_DIR"
	argsEnv = "STEM_CHAOS_ARGS" // workerArgs as JSON
)

// logSuffix ends the names of the files with workers' logs.
const logSuffix = ".worker"

// workerArgs shape a worker process.
type workerArgs struct {
	Name        string
	Concurrency int
	Prefetch    int
	Lease       time.Duration
	Grace       time.Duration // of SIGTERM; 0: the worker's own
	SoftGrace   time.Duration // its last part
}

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	mains := map[string]func() error{"worker": workerMain, "api": apiMain, "puller": pullerMain, "beat": beatMain, "replayer": replayerMain}
	if mains[role] == nil {
		flag.Parse()
		// The tests mostly wait; what they start is more than what they do.
		if err := flag.Set("test.parallel", "6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(m.Run())
	}
	if err := mains[role](); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// full reports whether the long form of the tests is asked for (make chaos).
func full() bool { return os.Getenv("STEM_CHAOS") == "full" }

// scale is the short form's number, or the long form's.
func scale(short, long int) int {
	if full() {
		return long
	}
	return short
}

// recorder writes one process's events.
type recorder struct {
	mu   sync.Mutex
	file *os.File
}

func newRecorder(dir, name string) (*recorder, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".events"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &recorder{file: f}, err
}

func (r *recorder) write(e Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		panic(err)
	}
}

// workerMain is a worker process: handlers that record what happens to them.
// SIGTERM and SIGINT stop it as they stop "stem worker run".
func workerMain() error {
	var args workerArgs
	if err := json.Unmarshal([]byte(os.Getenv(argsEnv)), &args); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	dir := os.Getenv(dirEnv)
	rec, err := newRecorder(dir, args.Name)
	if err != nil {
		return err
	}
	lines, err := os.OpenFile(filepath.Join(dir, args.Name+logSuffix), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(lines, outcomes{rec}), nil))
	db, client, err := openStores(context.Background(), log)
	if err != nil {
		return err
	}
	w := stem.NewWorker(client, stem.WorkerOptions{
		ID: args.Name, Concurrency: args.Concurrency, Prefetch: args.Prefetch, Lease: args.Lease,
		Grace: args.Grace, SoftGrace: args.SoftGrace,
		Logger: log, Middleware: []stem.Middleware{rec.around},
		MaxDeliveries: 3,
	})
	if err := w.Handle(work.With(doWork), flaky.With(failFirst), suicide.Do(killSelf), stubborn.With(rec.resist), patient.With(waitForCalm), lost.With(failUntilCalm)); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			w.Shutdown(map[os.Signal]stem.Mode{syscall.SIGTERM: stem.Warm, syscall.SIGINT: stem.Soft}[s])
		}
	}()
	if err := w.Run(context.Background()); err != nil {
		return err
	}
	return db.Close()
}

// around records the start and the end of every handler.
func (r *recorder) around(next stem.Handler) stem.Handler {
	return func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
		e := stem.Current(ctx)
		r.write(Event{Kind: Started, ID: e.ID(), PID: os.Getpid(), Attempt: e.Attempt()})
		out, err := next(ctx, args)
		note := ""
		if cause := context.Cause(ctx); cause != nil {
			note = cause.Error()
		}
		r.write(Event{Kind: Ended, ID: e.ID(), PID: os.Getpid(), Attempt: e.Attempt(), Note: note})
		return out, err
	}
}

// outcomes turns the worker's log, which has a line for each stored outcome,
// into events.
type outcomes struct{ rec *recorder }

func (o outcomes) Write(line []byte) (int, error) {
	var l struct {
		TaskID string `json:"task_id"`
		State  string `json:"state"`
		Msg    string `json:"msg"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &l); err == nil && l.TaskID != "" && l.State != "" {
		o.rec.write(Event{Kind: Settled, ID: l.TaskID, PID: os.Getpid(), State: l.State, Note: l.Msg})
	}
	return len(line), nil
}

func doWork(ctx context.Context, a workArgs) (int, error) {
	select {
	case <-time.After(time.Duration(a.Millis) * time.Millisecond):
		return a.Result, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// failFirst fails the first time.
func failFirst(ctx context.Context, a flakyArgs) (int, error) {
	if stem.Current(ctx).Attempt() == 0 {
		return 0, errors.New("the first attempt fails")
	}
	return doWork(ctx, workArgs(a))
}

func killSelf(context.Context, stem.None) error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}

// resist takes two seconds, but in the first worker of a test it may wait for
// its lease to be lost, and then insists on its result.
func (r *recorder) resist(ctx context.Context, a stubbornArgs) (string, error) {
	worker := stem.Current(ctx).Worker()
	if a.FirstWaits && strings.HasPrefix(worker, "first") {
		<-ctx.Done()
	} else {
		time.Sleep(2 * time.Second)
	}
	return "result of " + worker, nil
}

// process is a worker process of a test.
type process struct {
	cmd  *exec.Cmd
	name string
	done chan struct{}
}

var processNumber = func() func() int { // distinct names over a test run
	var mu sync.Mutex
	n := 0
	return func() int { mu.Lock(); defer mu.Unlock(); n++; return n }
}()

// startWorker starts a worker, and returns when it minds signals.
func startWorker(t *testing.T, dir string, args workerArgs) *process {
	t.Helper()
	p := startRole(t, "worker", dir, args, nil)
	for end := time.Now().Add(30 * time.Second); !p.ended(); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, p.name+".events")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after 30s %s has not begun", p.name)
		}
	}
	return p
}

// startRole starts a process of that role; its standard output goes to out.
func startRole(t *testing.T, role, dir string, args workerArgs, out *os.File) *process {
	t.Helper()
	return startProgram(t, os.Args[0], nil, role, dir, args, out)
}

// startProgram is startRole of another program than this one, with more in its
// environment.
func startProgram(t *testing.T, program string, env []string, role, dir string, args workerArgs, out *os.File) *process {
	t.Helper()
	args.Name += "-" + strconv.Itoa(processNumber())
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(append(os.Environ(), env...), roleEnv+"="+role, dirEnv+"="+dir, argsEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, name: args.Name, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // most have ended
		<-p.done
	})
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !p.ended() {
		t.Fatalf("signal %s to %s: %v", s, p.name, err)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks a worker to end, and waits until it has.
func (p *process) stop(t *testing.T, s syscall.Signal) {
	t.Helper()
	p.signal(t, s)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		t.Fatalf("worker %s did not end within 40s of %s", p.name, s)
	}
}
