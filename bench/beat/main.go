// Command beat measures the scheduler: how late it fires, how long many entries
// that are due at once take, what it costs while nothing or little is due, and how
// soon another beat takes over.
//
//	go run ./beat [-store memory:|sqlite:FILE|redis://…] [-only REGEXP] [-seconds 20]
//
// Each case is a line of JSON, with its bar. Beats whose cost is measured are
// processes of their own. A store must be a fresh one.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
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
	store   string
	seconds int
}

func main() {
	var b bench
	var only, role string
	flag.StringVar(&b.store, "store", "", "URL; \"\": a fresh SQLite file")
	flag.IntVar(&b.seconds, "seconds", 20, "length of a case that takes its time")
	flag.StringVar(&only, "only", "", "regular expression of cases")
	flag.StringVar(&role, "role", "", "of a child process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := b.run(ctx, only, role); err != nil {
		fmt.Fprintln(os.Stderr, "beat:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only, role string) error {
	if role != "" {
		return b.child(ctx)
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name    string
		measure func(context.Context, *stage) (result, error)
		shared  bool // it needs a store that processes share
	}{
		{"drift", b.drift, false}, {"burst", b.burst, false}, {"idle", b.idle, true},
		{"sparse", b.sparse, true}, {"takeover", b.takeover, true},
	} {
		if !pattern.MatchString(c.name) || c.shared && b.store == "memory:" {
			continue
		}
		if err := b.one(ctx, c.name, c.measure); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// one measures one case on a store of its own.
func (b *bench) one(ctx context.Context, name string, measure func(context.Context, *stage) (result, error)) error {
	s := &stage{url: b.store, namespace: "bench_" + name}
	if b.store == "" {
		dir, err := os.MkdirTemp("", "stem-beat-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		s.url = "sqlite:" + filepath.Join(dir, "stem.db")
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	r, err := measure(ctx, s)
	r.Case, r.Store = name, strings.SplitN(s.url, ":", 2)[0]
	err = errors.Join(err, s.backend.Close())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// stage is an opened store.
type stage struct {
	url, namespace string
	backend        *connect.Backend
	client         *stem.Client
	book           *beat.Book
}

func (s *stage) open(ctx context.Context) error {
	b, err := connect.Open(ctx, connect.Options{Broker: s.url, Namespace: s.namespace})
	if err != nil {
		return err
	}
	s.backend = b
	if s.client, err = stem.NewClient(b, stem.ClientOptions{}); err != nil {
		return err
	}
	s.book, err = beat.NewBook(s.client, b.Schedules(), b.Locks())
	return err
}

func (s *stage) beat() (*beat.Beat, error) {
	return beat.New(s.client, s.backend.Schedules(), s.backend.Locks(), beat.Options{})
}

// apply stores n entries of a spec, a page at a time.
func (s *stage) apply(ctx context.Context, n int, shape func(i int, e *beat.Entry)) error {
	const page = 2000
	for from := 0; from < n; from += page {
		entries := make([]beat.Desired, min(page, n-from))
		for i := range entries {
			e := &entries[i].Entry
			e.ID, e.Task = fmt.Sprintf("entry-%06d", from+i), "bench.tick"
			shape(from+i, e)
		}
		if _, err := s.book.Apply(ctx, entries, false); err != nil {
			return err
		}
	}
	return nil
}

// running runs a beat in this process while do runs.
func (s *stage) running(ctx context.Context, do func() error) error {
	b, err := s.beat()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	err = do()
	stop()
	return errors.Join(err, <-done)
}

func (b *bench) length() time.Duration { return time.Duration(b.seconds) * time.Second }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drift: a hundred entries every second.
func (b *bench) drift(ctx context.Context, s *stage) (result, error) {
	r := result{Bar: "p50 <= 2 ms, p99 <= 20 ms", Got: map[string]float64{}}
	err := s.apply(ctx, 100, func(_ int, e *beat.Entry) { e.Spec.Every, e.Misfire.Policy = time.Second, beat.PolicyAll })
	if err != nil {
		return r, err
	}
	if err := s.running(ctx, func() error { return pause(ctx, b.length()) }); err != nil {
		return r, err
	}
	var drifts []float64
	for i := range 100 {
		h, err := s.book.History(ctx, fmt.Sprintf("entry-%06d", i), 0)
		if err != nil {
			return r, err
		}
		for _, x := range h {
			drifts = append(drifts, float64(x.Drift.Microseconds())/1000)
		}
	}
	slices.Sort(drifts)
	if len(drifts) == 0 {
		return r, errors.New("nothing fired")
	}
	r.Got["firings"] = float64(len(drifts))
	r.Got["p50_ms"], r.Got["p99_ms"], r.Got["max_ms"] = drifts[len(drifts)/2], drifts[len(drifts)*99/100], drifts[len(drifts)-1]
	r.Holds = r.Got["p50_ms"] <= 2 && r.Got["p99_ms"] <= 20
	return r, nil
}

// burst: ten thousand entries due at the same moment.
func (b *bench) burst(ctx context.Context, s *stage) (result, error) {
	r := result{Bar: "10,000 enqueued in <= 2 s (SQLite), <= 1 s (Redis)", Got: map[string]float64{}}
	const n = 10_000
	due := time.Now().Add(15 * time.Second).Truncate(time.Second).UTC()
	if err := s.apply(ctx, n, func(_ int, e *beat.Entry) { e.Spec.Clocked = due }); err != nil {
		return r, err
	}
	if !time.Now().Before(due) {
		return r, errors.New("it took too long to store the entries")
	}
	err := s.running(ctx, func() error {
		if err := pause(ctx, time.Until(due)); err != nil {
			return err
		}
		for {
			queues, err := s.client.Queues(ctx)
			if err != nil {
				return err
			}
			if len(queues) > 0 && queues[0].Ready == n {
				r.Got["seconds"] = time.Since(due).Seconds()
				return nil
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	})
	limit := 2.0
	if strings.HasPrefix(s.url, "redis") {
		limit = 1
	}
	r.Holds = r.Got["seconds"] <= limit
	return r, err
}

// child is a beat as a process of its own.
func (b *bench) child(ctx context.Context) error {
	s := &stage{url: b.store, namespace: os.Getenv("BENCH_NAMESPACE")}
	if err := s.open(ctx); err != nil {
		return err
	}
	x, err := s.beat()
	if err != nil {
		return err
	}
	return errors.Join(x.Run(ctx), s.backend.Close())
}

func (s *stage) start(ctx context.Context) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, "-role", "beat", "-store", s.url)
	c.Env = append(os.Environ(), "BENCH_NAMESPACE="+s.namespace)
	c.Stderr = os.Stderr
	return c, c.Start()
}

// end stops a child, and returns the CPU time that it used.
func end(c *exec.Cmd) error {
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return c.Wait()
}

// cost is the CPU that a child beat uses in a second, in ms, and its memory in MiB.
func (b *bench) cost(ctx context.Context, s *stage) (cpu, rss float64, err error) {
	c, err := s.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, 4*time.Second); err != nil {
		return 0, 0, err
	}
	before, _, err := usage(c.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, b.length()); err != nil {
		return 0, 0, err
	}
	after, rss, err := usage(c.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	return (after - before) * 1000 / b.length().Seconds(), rss, end(c)
}

func (b *bench) idle(ctx context.Context, s *stage) (result, error) {
	r := result{Bar: "<= 1 ms of CPU a second", Got: map[string]float64{}}
	var err error
	r.Got["cpu_ms_per_s"], r.Got["rss_mib"], err = b.cost(ctx, s)
	r.Holds = r.Got["cpu_ms_per_s"] <= 1
	return r, err
}

// sparse: 100,000 entries, one of which is due each second.
func (b *bench) sparse(ctx context.Context, s *stage) (result, error) {
	r := result{Bar: "<= 2 % of a core, RSS <= 60 MiB", Got: map[string]float64{}}
	const n = 100_000
	err := s.apply(ctx, n, func(i int, e *beat.Entry) {
		e.Spec.Every, e.Spec.StartAt = n*time.Second, time.Unix(int64(i), 0).UTC()
		e.Misfire.Policy, e.Misfire.Grace = beat.PolicySkip, time.Second
	})
	if err != nil {
		return r, err
	}
	cpu, rss, err := b.cost(ctx, s)
	r.Got["cpu_percent"], r.Got["rss_mib"] = cpu/10, rss
	fired := 0.0
	for page, err := range s.book.All(ctx) {
		if err != nil {
			return r, err
		}
		for i := range page {
			fired += float64(page[i].Record.Fired)
		}
	}
	r.Got["fired"] = fired
	r.Holds = cpu/10 <= 2 && rss <= 60 && fired >= float64(b.seconds)
	return r, err
}

// takeover: the leader is killed, and another beat fires what was due meanwhile.
func (b *bench) takeover(ctx context.Context, s *stage) (result, error) {
	r := result{Bar: "<= 5 s, no due moment lost", Got: map[string]float64{}}
	err := s.apply(ctx, 1, func(_ int, e *beat.Entry) { e.Spec.Every, e.Misfire.Policy = 100*time.Millisecond, beat.PolicyAll })
	if err != nil {
		return r, err
	}
	first, err := s.start(ctx)
	if err != nil {
		return r, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return r, err
	}
	second, err := s.start(ctx)
	if err != nil {
		return r, err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return r, err
	}
	lead, err := s.book.Leader(ctx)
	if err != nil {
		return r, err
	}
	if err := first.Process.Kill(); err != nil {
		return r, err
	}
	killed := time.Now()
	_ = first.Wait() // it was killed
	for {
		now, err := s.book.Leader(ctx)
		if err != nil {
			return r, err
		}
		if now.Token > lead.Token {
			break
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return r, err
		}
	}
	r.Got["seconds"] = time.Since(killed).Seconds()
	if err := pause(ctx, time.Second); err != nil {
		return r, err
	}
	if err := end(second); err != nil {
		return r, err
	}
	h, err := s.book.History(ctx, "entry-000000", store.MaxHistory)
	if err != nil {
		return r, err
	}
	for i := 1; i < len(h); i++ {
		if h[i-1].Due.Sub(h[i].Due) != 100*time.Millisecond || h[i].Outcome != store.OutcomeFired {
			r.Got["lost"]++
		}
	}
	r.Holds = r.Got["seconds"] <= 5 && r.Got["lost"] == 0
	return r, nil
}
