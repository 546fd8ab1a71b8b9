//go:build unix

package stemcmd

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// processLives reports whether there is a process of that id, whoever owns it.
func processLives(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// detach makes a command outlive this process, and the terminal it was started
// from.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// stopSignal is the signal that asks a worker for a stop of that mode.
func stopSignal(mode string) (os.Signal, bool) {
	s, ok := map[string]os.Signal{"warm": syscall.SIGTERM, "soft": syscall.SIGINT, "hard": syscall.SIGQUIT}[mode]
	return s, ok
}
