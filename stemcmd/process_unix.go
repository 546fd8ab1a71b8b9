//go:build unix

package stemcmd

import (
	"errors"
	"syscall"
)

// processLives reports whether there is a process of that id, whoever owns it.
func processLives(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
