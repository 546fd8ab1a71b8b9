package stemcmd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// TestMain also is the programs that the scripts run: stem, and shop, a
// program with Go tasks of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stem": func() { os.Exit(stemcmd.Main(stemcmd.App{Name: "stem", Demo: true})) },
		"shop": func() { os.Exit(stemcmd.Main(shop())) },

		"doomed": func() { os.Exit(stemcmd.Main(doomed())) },
	})
}

// shop is a program with tasks that do well and tasks that do badly.
func shop() stemcmd.App {
	quick := stem.Retry(stem.RetryPolicy{Base: time.Millisecond, Jitter: -1})
	return stemcmd.App{
		Name: "shop", Short: "Sells things", Version: "1.2.3",
		Tasks: []stem.Registration{
			stem.NewTask[any, any]("shop.echo", stem.Aliases("shop.say"), stem.SoftTimeout(time.Minute)).
				With(func(_ context.Context, v any) (any, error) { return v, nil }),
			stem.NewTask[string, stem.None]("shop.fail", quick, stem.MaxRetries(1), stem.Queue("failing"), stem.Priority(7)).
				Do(func(_ context.Context, why string) error { return errors.New(why) }),
			stem.NewTask[stem.None, stem.None]("shop.panic", quick, stem.MaxRetries(0)).
				Do(func(context.Context, stem.None) error { panic("out of stock") }),
			stem.NewTask[stem.None, stem.None]("shop.never", quick, stem.MaxRetries(0), stem.HardTimeout(200*time.Millisecond)).
				Do(func(context.Context, stem.None) error { select {} }),
			stem.NewTask[stem.None, any]("shop.unencodable", stem.MaxRetries(0)).
				With(func(context.Context, stem.None) (any, error) { return func() {}, nil }),
			stem.NewTask[stem.None, string]("shop.huge", stem.MaxRetries(0)).
				With(func(context.Context, stem.None) (string, error) { return strings.Repeat("x", 2<<20), nil }),
			stem.NewTask[string, stem.None]("shop.sleep").Do(sleep),
			stem.NewTask[string, stem.None]("shop.gate").Do(gate),
			stem.NewTask[string, stem.None]("shop.deaf").
				Do(func(_ context.Context, d string) error { return sleep(context.Background(), d) }),
		},
	}
}

func sleep(ctx context.Context, d string) error {
	span, err := time.ParseDuration(d)
	if err != nil {
		return stem.Permanent(err)
	}
	select {
	case <-time.After(span):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gate waits until there is a file of that name.
func gate(ctx context.Context, path string) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if err := sleep(ctx, "10ms"); err != nil {
			return err
		}
	}
}

func TestScripts(t *testing.T) {
	params := scripts()
	params.Dir = "testdata/script"
	testscript.Run(t, params)
}

// scripts are the parameters of every run of scripts, but for their place.
func scripts() testscript.Params {
	return testscript.Params{
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command sleeps a second at its end
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			return os.Geteuid() == 0, nil // whom no mode of a file stops
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"spanned":    spanned,
			"signal":     sendSignal,
			"listen":     listen,
			"sql":        runSQL,
			"damage":     damage,
			"repeat":     repeat,
			"eventually": eventually,
			"draining":   draining,
		},
	}
}

// exits CODE PROGRAM ARGS... runs a program that must end with that code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCode(ts, args[1], args[2:]); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// spanned CODE PROGRAM ARGS... is exits for a program that has to get somewhere
// within the time that it is given: SPAN among its arguments is 200ms, and twice
// as much each time that this was not enough on this machine.
func spanned(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for span := 200 * time.Millisecond; ; span *= 2 {
		given := slices.Clone(args[2:])
		given[slices.Index(given, "SPAN")] = span.String()
		got := exitCode(ts, args[1], given)
		if got == want {
			return
		}
		if span > time.Minute {
			ts.Fatalf("exit code %d, want %d", got, want)
		}
	}
}

func exitCode(ts *testscript.TestScript, program string, args []string) int {
	err := ts.Exec(program, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

// signal NAME sends a signal to every process in the background.
func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	s, ok := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT}[args[0]]
	if !ok {
		ts.Fatalf("signal %s: want TERM, INT or QUIT", args[0])
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(s))
	}
}

// listen VARIABLE opens a port for as long as the script runs, and puts its
// address into the variable.
func listen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// sql FILE STATEMENT runs a statement on a database.
func runSQL(ts *testscript.TestScript, _ bool, args []string) {
	c, err := sqlite3.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(errors.Join(c.Exec(args[1]), c.Close()))
}

// damage FILE overwrites all of a file but its first kilobyte.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	for i := 1024; i < len(data); i++ {
		data[i] = 'x'
	}
	ts.Check(os.WriteFile(path, data, 0o600))
}

// repeat FILE TEXT N TAIL writes TEXT N times and then TAIL into a file; \n stands
// for a newline.
func repeat(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	text := strings.ReplaceAll(args[1], `\n`, "\n")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(text, n)+args[3]), 0o600))
}

// draining FILE WORKER waits until a worker has said in its heartbeat that it
// stops, for a minute at most.
func draining(ts *testscript.TestScript, _ bool, args []string) {
	c, err := sqlite3.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer c.Close() // it was only read
	said, _, err := c.Prepare(`SELECT 1 FROM stem_heartbeat WHERE worker = ? AND CAST(beat AS TEXT) LIKE '%"draining":true%'`)
	ts.Check(err)
	defer said.Close()
	ts.Check(said.BindText(1, args[1]))
	for deadline := time.Now().Add(time.Minute); !said.Step(); ts.Check(said.Reset()) {
		if ts.Check(said.Err()); time.Now().After(deadline) {
			ts.Fatalf("%s does not stop in time", args[1])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// eventually PATTERN PROGRAM ARGS... repeats a program until it ends with 0 and
// its output fits the pattern, for a minute at most.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	deadline := time.Now().Add(time.Minute)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not in time: %v", strings.Join(args, " "), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
