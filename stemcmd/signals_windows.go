package stemcmd

import (
	"os"
	"syscall"
)

// stopSignals are the signals that ask a process to stop: Ctrl-C, and the end
// of the console or the session, which Go gives as SIGTERM.
func stopSignals() []os.Signal { return []os.Signal{syscall.SIGTERM, os.Interrupt} }

func ignoreBrokenPipes() {}

func isHard(os.Signal) bool { return false }

func isInterrupt(s os.Signal) bool { return s == os.Interrupt }
