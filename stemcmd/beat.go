package stemcmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func (s *session) beatCommand() *cobra.Command {
	return group("beat", "Fires schedules", s.beatRunCommand())
}

// beatFlags are the flags of beat run that are no variables.
type beatFlags struct {
	side sideFlags
	id   string
}

func (s *session) beatRunCommand() *cobra.Command {
	f := &beatFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "Fires schedules until it is told to stop",
		Long: `Fires schedules until it is told to stop. Any number may run: one leads, and
another takes over within five seconds of its death. Each due moment fires once,
whatever dies. Workers do it too, with worker run --beat, and so does dev.

What an entry leaves open, such as the queue, is for the program's own tasks and
those of the tasks file as declared. Its log, with a line for each firing, goes to
standard error. /readyz of --http says yes while the store answers, whether this
beat leads or stands by.`,
		Example: `  {{stem}} beat run
  {{stem}} beat run --http 127.0.0.1:9091 --id beat-1`,
		Args:        noArguments,
		Annotations: map[string]string{annotationService: "yes"},
	}
	addTasksFlag(c.Flags())
	f.side.add(c.Flags())
	c.Flags().StringVar(&f.id, "id", "", "`ID` of the beat; default: host-pid-xxxx")
	c.RunE = s.service(func(ctx context.Context, _ *stopper) error { return s.beatRun(ctx, f) })
	return c
}

func (s *session) beatRun(ctx context.Context, f *beatFlags) error {
	if f.id != "" {
		if err := task.ValidateID(f.id); err != nil {
			return usage("--id: %w", err)
		}
	}
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	side, err := s.openSide(ctx, &f.side)
	if err != nil {
		return err
	}
	client, err := s.clientOn(ctx, false, side.measure)
	if err != nil {
		return because(ctx, err)
	}
	if err := side.watchStore(client); err != nil {
		return err
	}
	b, err := s.newBeat(client, side, f.id, known)
	if err != nil {
		return err
	}
	ready := func() error { return b.Ready(readyWithin) }
	return side.beside(ctx, health{ready, allLive(b)}, func() error { return b.Run(ctx) })
}

// newBeat makes a beat on the opened stores.
func (s *session) newBeat(client *stem.Client, x *side, id string, known *knownTasks) (*beat.Beat, error) {
	o := beat.Options{ID: id, Tasks: known.tasks, Logger: s.log}
	o.Meter = x.meter
	b, err := beat.New(client, s.backend.Schedules(), s.backend.Locks(), o)
	if errors.Is(err, broker.ErrUnsupported) {
		return nil, fail(ExitRefused, "%s: %w", s.where(), err).hinted("Name another store with --schedules")
	}
	if err != nil {
		return nil, usage("%w", err)
	}
	return b, nil
}

// beating runs a service with a beat beside it; nil: without one. When one of
// them ends, so does the other.
func beating(ctx context.Context, b *beat.Beat, run func(context.Context) error) error {
	if b == nil {
		return run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beaten := make(chan error, 1)
	go func() {
		err := b.Run(ctx)
		if err != nil {
			cancel()
		}
		beaten <- err
	}()
	err := run(ctx)
	cancel()
	if failed := <-beaten; failed != nil {
		return errors.Join(err, fmt.Errorf("the beat ended: %w", failed))
	}
	return err
}

// bothReady is the readiness of a service and the beat beside it, if there is one.
// A beat that has just begun holds nothing up: the service speaks for the store.
func bothReady(b *beat.Beat, ready func() error) func() error {
	if b == nil {
		return ready
	}
	return func() error {
		if s := b.State(); s.Heard.IsZero() && s.Err == nil {
			return ready()
		}
		return errors.Join(ready(), b.Ready(readyWithin))
	}
}

// bothLive is the same of whether they live.
func bothLive(w *stem.Worker, b *beat.Beat) func() error {
	if b == nil {
		return allLive(w)
	}
	return allLive(w, b)
}
