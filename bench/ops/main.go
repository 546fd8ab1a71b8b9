//go:build unix

// Command ops measures what operators do: how long a ping of many workers takes, a
// report and a scrape of a large store, a search of its statuses, a replay of many
// dead letters, how soon programs start, and what heartbeats cost.
//
//	go run ./ops [-only REGEXP] [-reps 5] [-tasks 1000000] [-queues 1000] [-dead 100000]
//
// It builds the program as "make build" does, and runs it as an operator would, on a
// store of its own for each case: SQLite, Redis, and where it is a server's, memory.
// Each case is a line of JSON on standard output, and the table of all of them comes
// at the end on standard error.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// result is one line of output.
type result struct {
	Case  string             `json:"case"`
	Store string             `json:"store"`
	Bar   string             `json:"bar"`
	Holds bool               `json:"holds"`
	Got   map[string]float64 `json:"got"`
}

// bench is one run's settings.
type bench struct {
	reps, tasks, queues, dead int

	stem string // the program
	only *regexp.Regexp
	all  []result
}

func main() {
	var b bench
	var only string
	flag.StringVar(&only, "only", "", "regular expression of \"case store\"")
	flag.IntVar(&b.reps, "reps", 5, "repetitions of what is short, of which the median is told")
	flag.IntVar(&b.tasks, "tasks", 1_000_000, "tasks of the large store")
	flag.IntVar(&b.queues, "queues", 1_000, "its queues")
	flag.IntVar(&b.dead, "dead", 100_000, "dead letters to replay")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	pattern, err := regexp.Compile(only)
	if err == nil {
		b.only = pattern
		err = b.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ops:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "stem-ops-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.build(ctx, dir); err != nil {
		return err
	}
	for _, c := range []struct {
		name    string
		stores  []string
		measure func(context.Context, *stage) ([]result, error)
	}{
		{"start", []string{"sqlite", "redis"}, b.start},
		{"ping", []string{"sqlite", "redis"}, b.ping},
		{"heartbeats", []string{"redis"}, b.heartbeats},
		{"replay", []string{"memory", "sqlite", "redis"}, b.replay},
		{"large", []string{"memory", "sqlite", "redis"}, b.large},
	} {
		for _, store := range c.stores {
			if !b.only.MatchString(c.name + " " + store) {
				continue
			}
			if err := b.one(ctx, filepath.Join(dir, c.name+"-"+store), store, c.measure); err != nil {
				return fmt.Errorf("%s on %s: %w", c.name, store, err)
			}
		}
	}
	b.table()
	return nil
}

// build makes the program as it is released, whose size is a case of its own.
func (b *bench) build(ctx context.Context, dir string) error {
	b.stem = filepath.Join(dir, "stem")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/stemjobs/stem").Output()
	if err != nil {
		return fmt.Errorf("find the program's module: %w", err)
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.stem, "./cmd/stem")
	c.Dir = strings.TrimSpace(string(root)) // whose libraries are not all this module's
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, out)
	}
	info, err := os.Stat(b.stem)
	if err != nil {
		return err
	}
	mib := float64(info.Size()) / (1 << 20)
	return b.tell(result{
		Case: "binary, static, stripped", Store: "-", Bar: "<= 40 MB",
		Got: map[string]float64{"mb": float64(info.Size()) / 1e6, "mib": mib}, Holds: info.Size() <= 40_000_000,
	})
}

// one measures one case on a store of its own.
func (b *bench) one(ctx context.Context, dir, store string, measure func(context.Context, *stage) ([]result, error)) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	s, err := openStage(ctx, b.stem, dir, store)
	if err != nil {
		return err
	}
	defer s.close()
	results, err := measure(ctx, s)
	if err != nil {
		return err
	}
	for i := range results {
		results[i].Store = store
		if err := b.tell(results[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) tell(r result) error {
	b.all = append(b.all, r)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// table is for people.
func (b *bench) table() {
	w := tabwriter.NewWriter(os.Stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tSTORE\tBAR\tHOLDS\tMEASURED")
	for i := range b.all {
		r := &b.all[i]
		var got []string
		for _, k := range slices.Sorted(maps.Keys(r.Got)) {
			got = append(got, fmt.Sprintf("%s %.4g", k, r.Got[k]))
		}
		holds := "yes"
		if !r.Holds {
			holds = "NO"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Case, r.Store, r.Bar, holds, strings.Join(got, ", "))
	}
	_ = w.Flush() // nothing can be done about a standard error that is closed
}

// middle is the median.
func middle(all []float64) float64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// timed runs do several times, and puts the median of its time and its longest into
// what was got, in ms, and of the CPU that it tells of.
func (b *bench) timed(got map[string]float64, do func() (cpu time.Duration, err error)) error {
	var wall, cpu []float64
	for range b.reps {
		began := time.Now()
		used, err := do()
		if err != nil {
			return err
		}
		wall = append(wall, ms(time.Since(began)))
		cpu = append(cpu, ms(used))
	}
	got["ms"], got["max_ms"], got["cpu_ms"] = middle(wall), slices.Max(wall), middle(cpu)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
