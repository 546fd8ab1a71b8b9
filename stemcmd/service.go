package stemcmd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
)

// service makes a command of what runs until it is told to stop: by a signal,
// or by --timeout. The context that it gets ends then.
func (s *session) service(run func(context.Context, *stopper) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd); err != nil {
			return err
		}
		s.cmd = cmd
		s.warn()
		ctx := cmd.Context()
		hard, cut := context.WithCancel(context.WithoutCancel(ctx))
		defer cut()
		if limit := time.Duration(s.flags.timeout); limit > 0 {
			var end context.CancelFunc
			ctx, end = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w after %s", errTimeout, limit))
			defer end()
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stop := &stopper{log: s.log, cancel: cancel, hard: hard, cut: cut}
		stopped := make(chan struct{})
		defer close(stopped)
		go stop.listen(s.p.Signals, stopped)
		return run(ctx, stop)
	}
}

// stopper turns signals into the stop of a service, each more urgent than the
// last.
type stopper struct {
	log    *slog.Logger
	cancel context.CancelCauseFunc     // ends the start, and stops what runs warm
	worker atomic.Pointer[stem.Worker] // told of what is more urgent; nil: there is none
	hard   context.Context             // ends when everything has to stop at once
	cut    context.CancelFunc          // ends hard
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
			if w := x.worker.Load(); w != nil && mode != stem.Warm {
				w.Shutdown(mode)
			}
			if mode == stem.Hard {
				x.cut()
			}
		}
	}
}
