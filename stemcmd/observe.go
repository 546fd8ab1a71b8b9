package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/broker"
)

func (s *session) observeCommand() *cobra.Command {
	return group("observe", "Reports what goes on, once or again and again",
		s.observeQueuesCommand(), s.observeWorkersCommand(), s.observeDeadCommand(), s.observeTasksCommand(), s.observeSchedulesCommand())
}

// watchFlags are those of a report that can be repeated.
type watchFlags struct {
	watch bool
	every duration
}

func (f *watchFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.watch, "watch", false, "report again and again, until interrupted")
	c.Flags().Var(&f.every, "every", "between two reports of --watch; default: 2s")
}

// reporting makes a command of a report that is repeated with --watch.
func (s *session) reporting(f *watchFlags, open func(ctx context.Context) (report func(ctx context.Context) error, err error)) func(*cobra.Command, []string) error {
	once := func(ctx context.Context, _ []string) error {
		report, err := open(ctx)
		if err != nil {
			return err
		}
		return report(ctx)
	}
	again := func(ctx context.Context, _ []string) error {
		report, err := open(ctx)
		if err != nil {
			return err
		}
		return s.repeat(ctx, f, report)
	}
	return func(cmd *cobra.Command, args []string) error {
		if f.watch {
			return s.long(again)(cmd, args)
		}
		return s.short(once)(cmd, args)
	}
}

const (
	watchEvery  = 2 * time.Second
	clearScreen = "\x1b[H\x1b[2J"
)

// repeat reports until ctx ends, or nobody reads any more. While the store is
// away, once it was there, that is told, and it is tried again.
func (s *session) repeat(ctx context.Context, f *watchFlags, report func(context.Context) error) error {
	every := time.Duration(f.every)
	if every <= 0 {
		every = watchEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		if isTerminal(s.p.Stdout) && (s.flags.output == asTable || s.flags.output == asWide) {
			fmt.Fprint(s.stdout, clearScreen)
		}
		err := report(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !first && errors.Is(err, broker.ErrUnavailable):
			s.note("%v; trying again", err)
		case err != nil || s.stdout.gone.Load():
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil // asked to stop: what a watch ends with
		}
	}
}
