//go:build unix && !linux

package exectask

import (
	"os"
	"os/exec"
	"syscall"
)

// prepare makes the command the leader of a group of its own.
func prepare(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// awaitExit says that it cannot wait for a process and leave it to be waited
// for.
func awaitExit(*os.Process) bool { return false }
