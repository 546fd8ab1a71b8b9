package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/task"
)

func (s *session) workerCommand() *cobra.Command {
	c := group("worker", "Executes tasks; asks workers, and tells them what to do",
		s.workerRunCommand(), s.workerStatusCommand(), s.workerPingCommand(), s.workerInspectCommand(), s.workerStatsCommand(),
		s.workerRevokeCommand(), s.workerPauseCommand(), s.workerResumeCommand(), s.workerShutdownCommand(), s.workerScaleCommand(),
		s.workerLogLevelCommand(), s.workerRateLimitCommand(), s.workerHealthcheckCommand(), s.workerDiagnoseCommand(), s.workerMultiCommand())
	c.Aliases = []string{"workers"}
	return c
}

// workerFlags are the flags of worker run that are no variables.
type workerFlags struct {
	queues string
	side   sideFlags
	grace  duration
	id     string
	pid    string
	beat   bool
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
	f.add(c.Flags())
	c.Flags().StringVar(&f.pid, "pid-file", "", "`FILE` to write the process id to, for as long as it runs")
	c.Flags().BoolVar(&f.beat, "beat", false, "also fire schedules, as beat run does")
	c.RunE = s.service(func(ctx context.Context, stop *stopper) error { return s.workerRun(ctx, stop, f) })
	return c
}

// add adds the flags of a command that runs a worker.
func (f *workerFlags) add(flags *pflag.FlagSet) {
	addTasksFlag(flags)
	flags.StringVar(&f.queues, "queues", "", "`QUEUES` a,b in strict order, or a=6,b=3 by weight; patterns with * follow queues as they appear; default: those of the tasks")
	flags.String("concurrency", "", "`N` handlers at once; default: CPUs × 4 (STEM_CONCURRENCY)")
	flags.String("prefetch", "", "`N`: hold concurrency × N tasks, or auto (STEM_PREFETCH_MULTIPLIER)")
	f.side.add(flags)
	flags.Var(&f.grace, "grace", "how long a warm stop may take in all; default: 25s")
	flags.StringVar(&f.id, "id", "", "`ID` of the worker; default: host-pid-xxxx")
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
	choose(&o.DeadLetterTTL, c.DeadLetterTTL, s.set("STEM_DEAD_LETTER_TTL"))
	choose(&o.HeartbeatInterval, c.HeartbeatInterval, s.set("STEM_HEARTBEAT_INTERVAL"))
	choose(&o.Grace, time.Duration(f.grace), s.changed("grace"))
	if o.SoftGrace == 0 && s.changed("grace") {
		o.SoftGrace = min(softGrace, o.Grace/2)
	}
	choose(&o.ID, f.id, f.id != "")
	if o.Logger == nil && s.app.Client.Logger == nil {
		o.LogLevel = &s.level
	}
	if o.Version == "" {
		o.Version = s.describeBuild().Version
	}
	if f.id != "" {
		if err := task.ValidateID(f.id); err != nil {
			return o, usage("--id %q: want 1–128 of A-Z a-z 0-9 ._:-", f.id)
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

func (s *session) workerRun(ctx context.Context, stop *stopper, f *workerFlags) error {
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
	removePID, err := writePID(f.pid)
	if err != nil {
		return err
	}
	defer removePID()
	side, err := s.openSide(ctx, &f.side)
	if err != nil {
		return err
	}
	client, err := s.clientOn(ctx, false, side.measure)
	if err != nil {
		return because(ctx, err)
	}
	w := stem.NewWorker(client, o)
	if err := s.register(ctx, w, client, known); err != nil {
		return because(ctx, err)
	}
	var b *beat.Beat
	if f.beat {
		if b, err = s.newBeat(client, side, "", known); err != nil {
			return err
		}
	}
	stop.worker.Store(w)
	ready := bothReady(b, func() error { return w.Ready(readyWithin) })
	return side.beside(ctx, health{ready, bothLive(w, b)}, func() error {
		s.log.Info("tasks of this worker", "names", w.Names())
		return errors.Join(beating(ctx, b, w.Run), abandoned(w))
	})
}

// register gives the worker its handlers, and adds those of Setup to the known
// tasks.
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
	known.tasks = append(known.tasks, more...)
	return nil
}

// abandoned is the error of a worker that could not finish all it held.
func abandoned(w *stem.Worker) error {
	r := w.Report()
	if r.Abandoned == 0 {
		return nil
	}
	return fail(ExitPartly, "abandoned %s: leases bring them back (finished %d, released %d)",
		several(r.Abandoned, "task"), r.Finished, r.Released)
}
