package stemcmd

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/internal/demo"
)

func (s *session) demoCommand() *cobra.Command {
	var o demo.Options
	workers := whole{value: 3, least: 2, most: 64}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Shows Stem at work on real files: processes, a kill in the middle, nothing lost",
		Long: `Digests every file of a directory, by default of the Go toolchain's sources: one
task a file, on a SQLite file of its own in a temporary directory, executed by
worker processes, of which one is killed in mid-work. At the end every result is
checked against a computation of its own. The exit code is 1 when one is wrong or
missing. The variables of the environment do not choose its store: --broker does.`,
		Example: `  {{stem}} demo
  {{stem}} demo --dir /usr/share --workers 4
  {{stem}} demo --broker sqlite:/tmp/demo.db`,
		Args: noArguments,
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "`DIR` whose files are digested; default: the Go toolchain's src")
	c.Flags().Var(&workers, "workers", "worker processes")
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		if s.changed("broker") {
			o.Broker = s.conf.Config.Broker
		}
		o.Workers = workers.value
		o.Command = []string{s.p.Executable, "demo-worker"}
		o.Err, o.Terminal = s.stderr, isTerminal(s.p.Stderr)
		report, err := demo.Run(ctx, o)
		var option *demo.OptionError
		if errors.As(err, &option) {
			return usage("%w", err)
		}
		if report == nil {
			return err
		}
		shown, failed := s.object(report)
		if !shown {
			report.Print(s.stdout)
		}
		return errors.Join(err, failed)
	})
	return c
}

// demoWorkerCommand is what the demo starts its workers with.
func (s *session) demoWorkerCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "demo-worker", Short: "A worker process of the demo", Hidden: true, Args: noArguments,
		Example: "  {{stem}} demo-worker --broker sqlite:demo.db --queue demo",
	}
	queue := c.Flags().String("queue", "", "`QUEUE` to work on")
	c.RunE = s.long(func(ctx context.Context, _ []string) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		// The demo holds the other end of standard input: when that is closed,
		// however the demo ended, so does its worker. The goroutine ends with
		// the process.
		go func() {
			_, err := io.Copy(io.Discard, s.p.Stdin)
			cancel(errors.Join(errInterrupted, err))
		}()
		return demo.Worker(ctx, s.conf.Config.Broker, *queue, s.log)
	})
	return c
}
