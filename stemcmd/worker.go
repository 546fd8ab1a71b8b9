package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe/admin"
	"github.com/stemjobs/stem/observe/prom"
	"github.com/stemjobs/stem/task"
)

func (s *session) workerCommand() *cobra.Command {
	c := group("worker", "Executes tasks", s.workerRunCommand())
	c.Aliases = []string{"workers"}
	return c
}

// workerFlags are the flags of worker run that are no variables.
type workerFlags struct {
	queues string
	http   string
	pprof  bool
	grace  duration
	id     string
}

func (s *session) workerRunCommand() *cobra.Command {
	f := &workerFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "Runs a worker until it is told to stop",
		Long: `Runs a worker until it is told to stop:
  SIGTERM           warm: takes no more, gives back what has not started, finishes
                    what runs, for as long as --grace; its last 5 s are soft
  SIGINT (Ctrl-C)   soft: also cancels what runs, and gives it back uncounted
  SIGINT again,
  SIGQUIT           hard: stops now; leases bring the work back
  --timeout is over warm
The exit code is 0 after a clean stop, 6 when something had to be abandoned.

It executes the program's own tasks and those of the tasks file. Its log goes to
standard error: JSON, or text on a terminal.`,
		Example: `  {{stem}} worker run --tasks tasks.yaml
  {{stem}} worker run --queues critical,default --concurrency 16
  {{stem}} worker run --queues critical=6,default=3 --http 127.0.0.1:9090`,
		Args:        noArguments,
		Annotations: map[string]string{annotationService: "yes"},
	}
	flags := c.Flags()
	addTasksFlag(flags)
	flags.StringVar(&f.queues, "queues", "", "`QUEUES` a,b in strict order, or a=6,b=3 by weight; patterns with * follow queues as they appear; default: those of the tasks")
	flags.String("concurrency", "", "`N` handlers at once; default: CPUs × 4 (STEM_CONCURRENCY)")
	flags.String("prefetch", "", "`N`: hold concurrency × N tasks, or auto (STEM_PREFETCH_MULTIPLIER)")
	flags.StringVar(&f.http, "http", "", "`ADDR`, such as 127.0.0.1:9090, for /metrics, /healthz and /readyz")
	flags.BoolVar(&f.pprof, "pprof", false, "also serve /debug/pprof/ there")
	flags.Var(&f.grace, "grace", "how long a warm stop may take in all; default: 25s")
	flags.StringVar(&f.id, "id", "", "`ID` of the worker; default: host-pid-xxxx")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd); err != nil {
			return err
		}
		s.cmd = cmd
		s.warn()
		return s.workerRun(cmd.Context(), f)
	}
	return c
}

// parseQueues reads a,b or a=6,b=3.
func parseQueues(text string) (stem.Queues, error) {
	names, weights := []string{}, stem.Weights{}
	for _, part := range strings.Split(text, ",") {
		name, weight, weighted := strings.Cut(strings.TrimSpace(part), "=")
		plain := strings.ReplaceAll(name, "*", "")
		if plain == "" && name != "" {
			plain = "any" // a pattern of stars alone
		}
		if err := task.ValidateQueue(plain); err != nil {
			return nil, usage("--queues %q: %w", text, err)
		}
		if slices.Contains(names, name) || weights[name] != 0 {
			return nil, usage("--queues %q: %s is there twice", text, name)
		}
		if !weighted {
			names = append(names, name)
			continue
		}
		n, err := strconv.Atoi(weight)
		if err != nil || n < 1 || n > 1_000_000 {
			return nil, usage("--queues %q: the weight of %s must be a whole number of 1 or more", text, name)
		}
		weights[name] = n
	}
	switch {
	case len(weights) == 0:
		return stem.Strict(names...), nil
	case len(names) == 0:
		return weights, nil
	default:
		return nil, usage("--queues %q: give all of them a weight, or none", text)
	}
}

// workerOptions are the program's own, with what flags and variables say in
// place of it.
func (s *session) workerOptions(f *workerFlags, known *knownTasks) (stem.WorkerOptions, error) {
	o, c := s.app.Worker, &s.conf.Config
	choose(&o.Concurrency, c.Concurrency, s.set("STEM_CONCURRENCY"))
	choose(&o.Prefetch, c.Prefetch, s.set("STEM_PREFETCH_MULTIPLIER"))
	choose(&o.Lease, c.Lease, s.set("STEM_DEFAULT_VISIBILITY_TIMEOUT"))
	choose(&o.Retention, c.Retention, s.set("STEM_RESULT_TTL"))
	choose(&o.HeartbeatInterval, c.HeartbeatInterval, s.set("STEM_HEARTBEAT_INTERVAL"))
	choose(&o.Grace, time.Duration(f.grace), s.changed("grace"))
	if o.SoftGrace == 0 && s.changed("grace") {
		o.SoftGrace = min(softGrace, o.Grace/2)
	}
	choose(&o.ID, f.id, f.id != "")
	if o.Version == "" {
		o.Version = s.describeBuild().Version
	}
	if f.id != "" {
		if err := task.ValidateID(f.id); err != nil {
			return o, usage("--id: %w", err)
		}
	}
	switch {
	case s.changed("queues"):
		queues, err := parseQueues(f.queues)
		if err != nil {
			return o, err
		}
		o.Queues = queues
	case o.Queues == nil:
		names := known.queues(c.DefaultQueue)
		if len(names) == 1 {
			o.Queues = stem.Strict(names...)
			break
		}
		fair := stem.Weights{}
		for _, n := range names {
			fair[n] = 1
		}
		o.Queues = fair
	}
	return o, nil
}

// softGrace is the last part of a warm stop, as the library has it.
const softGrace = 5 * time.Second

// choose puts value into to when it was set by somebody, or nothing is there.
func choose[T comparable](to *T, value T, set bool) {
	var zero T
	if set || *to == zero {
		*to = value
	}
}

// readyWithin is how long ago a worker must have heard of its store to be
// ready. An idle one hears of it once a second.
const readyWithin = 10 * time.Second

func (s *session) workerRun(ctx context.Context, f *workerFlags) error {
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	if len(known.tasks) == 0 && s.app.Setup == nil {
		return usage("this worker has no tasks").hinted("Name a tasks file with --tasks or STEM_TASKS_CONFIG")
	}
	closeTasks, err := known.open()
	if err != nil {
		return err
	}
	defer closeTasks()
	o, err := s.workerOptions(f, known)
	if err != nil {
		return err
	}
	if limit := time.Duration(s.flags.timeout); limit > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w after %s", errTimeout, limit))
		defer end()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := &stopper{log: s.log, cancel: cancel}
	stopped := make(chan struct{})
	defer close(stopped)
	go stop.listen(s.p.Signals, stopped)

	server, meter := s.adminServer(f)
	if server != nil {
		addr, err := server.Listen(ctx)
		if err != nil {
			return err
		}
		s.log.Info("serving /metrics, /healthz and /readyz", "addr", addr.String())
	}
	client, err := s.clientOn(ctx, false, func(c *stem.ClientOptions) {
		if c.Meter == nil {
			c.Meter = meter
		}
	})
	if err != nil {
		return because(ctx, err)
	}
	w := stem.NewWorker(client, o)
	if err := s.register(ctx, w, client, known); err != nil {
		return because(ctx, err)
	}
	stop.worker.Store(w)
	if server != nil {
		server.Ready = func() error { return w.Ready(readyWithin) }
	}
	return s.serve(ctx, w, server)
}

// adminServer makes the server of --http, and the meter that it shows.
func (s *session) adminServer(f *workerFlags) (*admin.Server, measure.Meter) {
	if f.http == "" {
		return nil, nil
	}
	server := &admin.Server{Addr: f.http, Pprof: f.pprof, Logger: s.log}
	if s.conf.Config.NoMetrics {
		return server, nil
	}
	exporter := prom.New(prom.Options{Version: s.describeBuild().Version, Logger: s.log})
	server.Metrics = exporter.Handler()
	return server, exporter
}

// register gives the worker its handlers.
func (s *session) register(ctx context.Context, w *stem.Worker, client *stem.Client, known *knownTasks) error {
	if err := w.Handle(known.tasks...); err != nil {
		return usage("%w", err)
	}
	if s.app.Setup == nil {
		return nil
	}
	more, err := s.app.Setup(ctx, client)
	if err != nil {
		return fmt.Errorf("set up the tasks: %w", err)
	}
	if err := w.Handle(more...); err != nil {
		return usage("%w", err)
	}
	return nil
}

// serve runs the worker, and the server beside it for as long.
func (s *session) serve(ctx context.Context, w *stem.Worker, server *admin.Server) error {
	served := make(chan error, 1)
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if server == nil {
		served <- nil
	} else {
		go func() { served <- server.Run(serving) }()
	}
	s.log.Info("tasks of this worker", "names", w.Names())
	err := w.Run(ctx)
	end()
	err = errors.Join(err, <-served)
	if err != nil {
		return err
	}
	r := w.Report()
	if r.Abandoned > 0 {
		return fail(ExitPartly, "abandoned %s: leases bring them back (finished %d, released %d)",
			several(r.Abandoned, "task"), r.Finished, r.Released)
	}
	return nil
}

// stopper turns signals into a worker's stop, each more urgent than the last.
type stopper struct {
	log    *slog.Logger
	cancel context.CancelCauseFunc // ends the start, and stops a running worker warm
	worker atomic.Pointer[stem.Worker]
}

func (x *stopper) listen(signals <-chan os.Signal, done <-chan struct{}) {
	interrupted := false
	for {
		select {
		case <-done:
			return
		case sig := <-signals:
			mode, name := stem.Warm, "warm"
			switch {
			case isHard(sig), isInterrupt(sig) && interrupted:
				mode, name = stem.Hard, "hard"
			case isInterrupt(sig):
				mode, name, interrupted = stem.Soft, "soft", true
			}
			x.log.Info("asked to stop", "signal", sig.String(), "mode", name)
			x.cancel(errInterrupted)
			if w := x.worker.Load(); w != nil {
				w.Shutdown(mode)
			}
		}
	}
}
