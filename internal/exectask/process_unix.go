//go:build unix

package exectask

import (
	"os"
	"syscall"
)

// baseEnvironment names what every command sees of the worker's environment.
func baseEnvironment() []string { return []string{"PATH", "HOME", "LANG", "TMPDIR"} }

// The errors of kill are of no use: who is gone needs no signal.

func terminateGroup(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGTERM) }

func killGroup(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }

func signalName(s *os.ProcessState) string {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal().String()
	}
	return "unknown"
}
