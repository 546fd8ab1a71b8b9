package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"
)

// fleet is the demo's worker processes.
type fleet struct {
	command       []string
	broker, queue string
	log           io.Writer
	workers       []*worker
}

type worker struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	dead bool          // killed by us
}

func (f *fleet) start() error {
	args := slices.Concat(f.command[1:], []string{"--broker", f.broker, "--queue", f.queue})
	cmd := exec.Command(f.command[0], args...)
	cmd.Stderr = f.log
	// A worker ends when its standard input does, so none outlives the demo,
	// however that ends.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start a worker: %w", err), stdin.Close())
	}
	w := &worker{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		_ = cmd.Wait() // how it ended shows in ProcessState
	}()
	f.workers = append(f.workers, w)
	return nil
}

// kill ends one worker as SIGKILL does, and returns its pid.
func (f *fleet) kill() (int, error) {
	w := f.workers[0]
	if err := w.cmd.Process.Kill(); err != nil {
		return 0, fmt.Errorf("kill a worker: %w", err)
	}
	w.dead = true
	<-w.done
	return w.cmd.Process.Pid, nil
}

// alive reports a worker that ended by itself.
func (f *fleet) alive() error {
	for _, w := range f.workers {
		select {
		case <-w.done:
			if !w.dead {
				return fmt.Errorf("%w: worker process %d ended by itself: %s", ErrWrong, w.cmd.Process.Pid, w.cmd.ProcessState)
			}
		default:
		}
	}
	return nil
}

// stop ends the fleet: by request, and after five seconds by force.
func (f *fleet) stop() {
	for _, w := range f.workers {
		if !w.dead {
			_ = w.cmd.Process.Signal(os.Interrupt) // not on Windows: there it is killed below
		}
	}
	deadline := time.After(5 * time.Second)
	for _, w := range f.workers {
		select {
		case <-w.done:
		case <-deadline:
			_ = w.cmd.Process.Kill() // it may have ended just now
			<-w.done
		}
	}
}
