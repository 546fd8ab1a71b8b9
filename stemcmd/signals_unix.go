//go:build unix

package stemcmd

import (
	"os"
	"os/signal"
	"syscall"
)

// stopSignals are the signals that ask a process to stop.
func stopSignals() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
}

// ignoreBrokenPipes makes a write to a pipe that nobody reads an error, in
// place of the process's sudden end: a worker whose log goes nowhere works on.
// Nobody reads the channel. To ignore the signal would be inherited by the
// commands that a worker starts.
func ignoreBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// isHard reports whether the signal means at once.
func isHard(s os.Signal) bool { return s == syscall.SIGQUIT }

// isInterrupt reports whether the signal is that of a key.
func isInterrupt(s os.Signal) bool { return s == os.Interrupt }
