// Command bench measures Stem beside other job systems and the store itself,
// on the same cases in one run.
//
//	go run . [-reps 3] [-only REGEXP] [-out FILE]   every case, then the table
//	go run . table FILE…                            the table of earlier runs
//
// Each measurement is a process of its own on a store of its own. The
// repetition is the outermost loop, so that a slow spell of the machine does
// not fall on one system alone.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/bench/internal/asynqpeer"
	"github.com/stemjobs/stem/bench/internal/cases"
	"github.com/stemjobs/stem/bench/internal/rawpeer"
	"github.com/stemjobs/stem/bench/internal/riverpeer"
	"github.com/stemjobs/stem/bench/internal/stempeer"
	"github.com/stemjobs/stem/bench/internal/table"
	"github.com/stemjobs/stem/internal/redistest"
)

// systems are the adapters; a new one is added here.
var systems = map[string]func(context.Context, cases.Options) (cases.System, error){
	"stem-memory":     stempeer.Open,
	"stem-sqlite":     stempeer.Open,
	"stem-redis":      stempeer.Open,
	"stem-redis-pair": stempeer.Open,
	"asynq":           asynqpeer.Open,
	"river-sqlite":    riverpeer.Open,
	"raw-sqlite":      rawpeer.Open,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := func() error {
		switch {
		case len(os.Args) > 1 && os.Args[1] == "one":
			return one(ctx, os.Args[2:])
		case len(os.Args) > 1 && os.Args[1] == "table":
			return printTable(os.Args[2:])
		default:
			return all(ctx, os.Args[1:])
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// one runs one case and prints its line: what the processes of a run do.
func one(ctx context.Context, args []string) error {
	var o cases.Options
	f := flag.NewFlagSet("one", flag.ContinueOnError)
	f.StringVar(&o.System, "system", "", "the system")
	f.StringVar(&o.Case, "case", "", fmt.Sprintf("one of %v", cases.Names()))
	f.BoolVar(&o.Tuned, "tuned", false, "settings for speed")
	f.StringVar(&o.Sync, "sync", "", "SQLite's synchronous: full or normal; Redis without a file (mem) or with AOF everysec (aof)")
	f.StringVar(&o.File, "file", "", "the SQLite database")
	f.StringVar(&o.Redis, "redis", "", "host:port of the Redis server")
	f.IntVar(&o.N, "n", 0, "tasks")
	f.IntVar(&o.Concurrency, "c", 0, "the worker's concurrency")
	f.IntVar(&o.Producers, "producers", 0, "goroutines, or processes, that enqueue")
	f.IntVar(&o.Batch, "batch", 0, "tasks in a call")
	f.IntVar(&o.Backlog, "backlog", 0, "tasks that wait beforehand")
	f.BoolVar(&o.Retain, "retain", false, "keep results")
	f.BoolVar(&o.Drop, "drop", false, "keep no status of what succeeded")
	f.BoolVar(&o.NoArgs, "noargs", false, "keep no args of what succeeded")
	f.StringVar(&o.Observed, "observed", "", "with metrics, or with traces: metrics and a tenth of all traces")
	f.StringVar(&o.Queue, "queue", "", "the queue, where not the default one")
	f.IntVar(&o.Queues, "queues", 0, "queues over which several processes' work is spread")
	f.DurationVar(&o.Lease, "lease", 0, "the lease, where not the default one")
	f.IntVar(&o.Rep, "rep", 0, "number of the repetition")
	f.DurationVar(&o.Max, "max", 0, "the longest drain")
	f.StringVar(&o.Role, "role", "", "of a helper process")
	profile := f.String("cpuprofile", "", "write a CPU profile to this file")
	if err := f.Parse(args); err != nil {
		return err
	}
	open, ok := systems[o.System]
	if !ok {
		return fmt.Errorf("no system %q", o.System)
	}
	if *profile != "" {
		stop, err := profileTo(*profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	result, err := cases.Run(ctx, o, open)
	if err != nil || result == nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// profileTo profiles this process until the function it returns is called.
func profileTo(name string) (stop func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: write the profile:", err)
		}
	}, nil
}

// all runs the matrix and prints the table.
func all(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	reps := f.Int("reps", 3, "repetitions")
	only := f.String("only", ".", "run what matches this regular expression")
	out := f.String("out", filepath.Join("results", time.Now().UTC().Format("20060102T150405")+".jsonl"), "append the results to this file")
	if err := f.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(*out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	failed := 0
	for rep := 1; rep <= *reps; rep++ {
		for _, line := range matrix() {
			if !match.MatchString(line) {
				continue
			}
			fmt.Fprintf(os.Stderr, "[%s] %d: %s\n", time.Now().Format(time.TimeOnly), rep, line)
			if err := measure(ctx, line, rep, file); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				fmt.Fprintf(os.Stderr, "failed: %s: %v\n", line, err)
				failed++
			}
		}
	}
	err = errors.Join(file.Close(), printTable([]string{*out}))
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d measurements failed: see above", failed))
	}
	return err
}

// measure runs one line of the matrix on a store of its own.
func measure(ctx context.Context, line string, rep int, out io.Writer) error {
	dir, err := os.MkdirTemp("", "stem-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"one", "-rep", strconv.Itoa(rep)}, strings.Fields(line)...)
	switch {
	case strings.Contains(line, "sqlite"):
		args = append(args, "-file", filepath.Join(dir, "bench.db"))
	case strings.Contains(line, "redis"), strings.Contains(line, "asynq"):
		server, err := launch(line)
		if err != nil {
			return err
		}
		defer server.Close()
		args = append(args, "-redis", server.Addr)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	var result bytes.Buffer
	cmd.Stdout = &result
	if err := cmd.Run(); err != nil {
		return err
	}
	_, err = out.Write(result.Bytes())
	return err
}

// launch starts a Redis server of the durability that a line names.
func launch(line string) (*redistest.Server, error) {
	o := redistest.Options{}
	if strings.Contains(line, "-sync aof") {
		o.AOF = "everysec"
	}
	return redistest.Launch(o)
}

func printTable(files []string) error {
	var results []cases.Result
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		some, err := table.Read(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, some...)
	}
	table.Print(os.Stdout, results)
	return nil
}
