package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/load"
)

// benchPrefix begins the name of every namespace that bench may remove.
const benchPrefix = "bench"

// benchFlags shape a load.
type benchFlags struct {
	tasks, concurrency, producers, payload whole
	limit                                  duration
	namespace                              string
	clean                                  bool
}

func (s *session) benchCommand() *cobra.Command {
	f := &benchFlags{
		tasks: whole{value: 20_000, least: 2, most: 1_000_000}, concurrency: whole{value: 10, least: 1, most: 10_000},
		producers: whole{value: 16, least: 1, most: 1000}, payload: whole{value: 100, most: 1 << 19}, limit: duration(time.Minute),
	}
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measures your own store with tasks that do nothing",
		Long: `Measures your own store: enqueues tasks that do nothing, in batches and singly, lets a
worker in this process work them off, and measures how soon a task starts and its
result is seen when nothing else is to do.

It works in a namespace of its own, which it removes at the end, also when it is
stopped. It refuses one that has anything in it, or that a worker uses, and the one
that is configured. What shares the server is slowed down meanwhile.`,
		Example: `  {{stem}} bench --broker sqlite:stem.db
  {{stem}} bench --n 100000 --duration 2m --concurrency 100 --output json`,
		Args: noArguments,
	}
	flags := c.Flags()
	flags.Var(&f.tasks, "n", "tasks in all")
	flags.Var(&f.limit, "duration", "for all of it, at most; each phase has a share")
	flags.Var(&f.concurrency, "concurrency", "isolates of the worker")
	flags.Var(&f.producers, "producers", "that enqueue singly at once")
	flags.Var(&f.payload, "payload", "bytes of each task's argument")
	flags.StringVar(&f.namespace, "bench-namespace", benchPrefix, "`NAME` of the namespace; it begins with bench")
	flags.BoolVar(&f.clean, "clean", false, "first remove what a bench that was killed left in its namespace")
	c.RunE = s.long(func(ctx context.Context, _ []string) error { return s.bench(ctx, f) })
	return c
}

// benchResult is a bench as JSON.
type benchResult struct {
	Broker    string       `json:"broker"`
	Results   string       `json:"results"`
	Namespace string       `json:"namespace"`
	Phases    []load.Phase `json:"phases"`
}

func (s *session) bench(ctx context.Context, f *benchFlags) (err error) {
	switch own := s.conf.Config.Namespace; {
	case !strings.HasPrefix(f.namespace, benchPrefix):
		return usage("--bench-namespace %q: want a name that begins with %s", f.namespace, benchPrefix)
	case f.namespace == own:
		return fail(ExitRefused, "namespace %s is the one that is configured: choose another with --bench-namespace", own)
	case f.limit == 0:
		return usage("--duration: want more than zero")
	}
	s.conf.Config.Namespace = f.namespace
	b, client, err := s.openBench(ctx)
	if err != nil {
		return err
	}
	if f.clean {
		if b, client, err = s.cleanBench(ctx, b, client); err != nil {
			return err
		}
	}
	if err := load.Free(ctx, client); err != nil {
		if errors.Is(err, load.ErrInUse) {
			return fail(ExitRefused, "namespace %s: %w", f.namespace, err).
				hinted("Choose another with --bench-namespace; --clean removes what a bench that was killed has left")
		}
		return err
	}
	defer func() { err = errors.Join(err, s.dropBench(ctx, b)) }()
	phases, err := load.Run(ctx, client, load.Options{
		Tasks: f.tasks.value, Limit: time.Duration(f.limit), Concurrency: f.concurrency.value,
		Producers: f.producers.value, Payload: f.payload.value, Progress: s.benchProgress(),
	})
	err = errors.Join(s.showBench(b, phases), err)
	for _, p := range phases {
		if p.Cut && err == nil {
			s.note("%s: its share of --duration was over before its tasks were", p.Name)
		}
	}
	return err
}

// openBench opens the stores in the bench's namespace. Each must be able to
// remove it.
func (s *session) openBench(ctx context.Context) (*connect.Backend, *stem.Client, error) {
	b, err := s.open(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	if err := b.CanDrop(); err != nil {
		return nil, nil, err
	}
	c, err := stem.NewClient(b, stem.ClientOptions{Logger: s.log})
	return b, c, err
}

// cleanBench removes what is in the namespace, unless somebody works in it, and
// opens it anew.
func (s *session) cleanBench(ctx context.Context, b *connect.Backend, c *stem.Client) (*connect.Backend, *stem.Client, error) {
	workers, err := c.Workers(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(workers) > 0 {
		return nil, nil, fail(ExitRefused, "worker %s works in namespace %s: it is not removed", workers[0].Worker, s.conf.Config.Namespace)
	}
	if err := errors.Join(b.DropNamespace(ctx), s.close()); err != nil {
		return nil, nil, err
	}
	return s.openBench(ctx)
}

// dropBench removes the namespace, also when somebody asked to stop.
func (s *session) dropBench(ctx context.Context, b *connect.Backend) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTimeout)
	defer cancel()
	if err := b.DropNamespace(ctx); err != nil {
		return fmt.Errorf("the bench's namespace %s stays: %w", s.conf.Config.Namespace, err)
	}
	return nil
}

// benchProgress shows on a terminal how far a phase is; elsewhere nothing.
func (s *session) benchProgress() func(string, int, int) {
	if !isTerminal(s.p.Stderr) {
		return nil
	}
	return func(phase string, done, of int) {
		fmt.Fprintf(s.stderr, "\r\x1b[K%s: %d of %d", phase, done, of)
	}
}

func (s *session) showBench(b *connect.Backend, phases []load.Phase) error {
	if isTerminal(s.p.Stderr) {
		fmt.Fprint(s.stderr, "\r\x1b[K")
	}
	if s.flags.output == asJSON {
		out := benchResult{Broker: b.Stores[0].URL, Results: b.Stores[len(b.Stores)-1].URL, Namespace: s.conf.Config.Namespace, Phases: phases}
		return encodeJSON(s.stdout, out, "", "  ")
	}
	_, err := list(s, benchView(), one(phases))
	return err
}

func benchView() view[load.Phase] {
	type row = load.Phase
	millis := func(of func(*row) float64) func(*row) string {
		return func(p *row) string {
			if p.Max == 0 {
				return "-"
			}
			return strconv.FormatFloat(of(p), 'f', 2, 64) + " ms"
		}
	}
	return view[row]{
		columns: []column[row]{
			{head: "PHASE", cell: func(p *row) string { return p.Name }},
			{head: "TASKS", right: true, cell: func(p *row) string { return strconv.Itoa(p.Tasks) }},
			{head: "TOOK", right: true, cell: func(p *row) string { return span(time.Duration(p.Seconds * float64(time.Second))) }},
			{head: "PER SECOND", right: true, cell: func(p *row) string { return strconv.FormatFloat(p.PerSecond, 'f', 0, 64) }},
			{head: "P50", right: true, cell: millis(func(p *row) float64 { return p.P50 })},
			{head: "P99", right: true, cell: millis(func(p *row) float64 { return p.P99 })},
			{head: "MAX", right: true, wide: true, cell: millis(func(p *row) float64 { return p.Max })},
		},
		name: func(p *row) string { return p.Name },
	}
}
